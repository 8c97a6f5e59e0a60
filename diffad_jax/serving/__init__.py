"""A station at the line: judges what cameras and programs send, and shows it to people."""
