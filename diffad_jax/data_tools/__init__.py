"""Look at the data before training."""
