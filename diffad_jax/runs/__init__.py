"""A run's folder, checkpoints, logs, devices and processes."""
