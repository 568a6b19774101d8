"""How published rows did against what then happened, and whether inputs have drifted."""
