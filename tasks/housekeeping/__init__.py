"""Retention of data that a store no longer needs, and of leftovers of runs in Azure."""
