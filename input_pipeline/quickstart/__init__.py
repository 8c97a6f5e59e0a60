"""The product photos that `make quickstart` trains on."""
