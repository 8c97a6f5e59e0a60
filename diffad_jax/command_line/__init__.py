"""The command line: its modes and flags, and what is said of a wrong use."""
