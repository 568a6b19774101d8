"""Published rows in SQL databases."""
