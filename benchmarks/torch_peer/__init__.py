"""The same two networks and steps in PyTorch, to compare speeds with."""
