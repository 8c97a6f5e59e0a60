"""Configurations: get_config() of each file."""
