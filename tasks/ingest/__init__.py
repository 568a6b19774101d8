"""From sources to input tables: reading, contracts, quarantine, and what the tables hold."""
