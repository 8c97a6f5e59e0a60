"""A trained model as files that run without JAX."""

import os

# Before ONNX Runtime is imported, which since 1.29 tells its maker about models and machines.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
