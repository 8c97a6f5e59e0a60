"""The product photos that `make quickstart` trains on, made by the project."""
