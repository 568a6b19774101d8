"""The store: tables, the staging of rows, and the metadata of commits."""
