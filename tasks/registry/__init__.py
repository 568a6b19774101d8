"""The record of bundles and runs: saving, promoting, listing, exporting, and the mirror in MLflow."""
