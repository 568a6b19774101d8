"""A scoring run: resolved, split into shards, scored, published and announced."""
