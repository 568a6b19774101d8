"""The store: tables, rows on their way into them, and the metadata of commits."""
