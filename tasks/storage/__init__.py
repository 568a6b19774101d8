"""The store: tables, rows on their way into them, and what commits say of themselves."""
