"""Picture files decoded to 8-bit arrays: by their own tags, whole, or refused in one line."""
