"""One picture of any size to one result."""
