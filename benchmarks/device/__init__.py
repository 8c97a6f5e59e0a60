"""What a machine with an accelerator does in ten minutes: one section for RESULTS.md."""
