"""Runs on clusters and object stores, emulated."""
