"""Bundles and runs on record: saving, promoting, listing, exporting, and MLflow's mirror of them."""
