"""The method: pure functions, arrays in, arrays out, no input or output."""
