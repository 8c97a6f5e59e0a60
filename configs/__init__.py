"""Configurations: get_config() of each file; schema.py has every key's type and range."""
