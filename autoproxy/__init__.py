"""AutoProxy: discovers formulas that tell which weights matter."""
