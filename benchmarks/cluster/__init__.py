"""Runs of the program under schedulers, on object stores and with long lists of pictures."""
