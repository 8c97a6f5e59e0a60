"""Scripts that measure; results in RESULTS.md."""
