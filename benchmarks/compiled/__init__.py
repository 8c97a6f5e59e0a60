"""What compilers say of the steps, read from their programs and traces."""
