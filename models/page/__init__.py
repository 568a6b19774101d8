"""The blocks of a page, as data; no rendering."""
