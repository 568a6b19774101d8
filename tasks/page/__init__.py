"""The page of a run: built from blocks and rendered into one file."""
