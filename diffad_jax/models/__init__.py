"""The two networks."""
