"""Template, style and scripts of the page; `tasks.reports` puts them together."""
