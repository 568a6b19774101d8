"""Retention of what a store no longer needs, and of what runs leave in Azure."""
