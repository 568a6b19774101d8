"""From sources to input tables: reading, contracts, quarantine, and the status of the tables."""
