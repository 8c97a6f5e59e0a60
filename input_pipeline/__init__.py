"""The input pipeline: folders of pictures in, training batches with synthetic anomalies out.

A library of its own: it imports `configs.schema` and nothing of `diffad_jax`, and importing it
changes nothing in the program around it. TensorFlow is imported where batches are made.
"""

import logging

logger = logging.getLogger(__name__)


def keep_tensorflow_off_accelerators() -> None:
    """Hide GPUs and TPUs from TensorFlow, which would otherwise take memory that JAX needs.

    Called before TensorFlow's first work here. Where the program has used TensorFlow on an
    accelerator already, it keeps it.
    """
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        try:
            tf.config.set_visible_devices([], kind)
        except RuntimeError as error:  # its devices are in use and can no longer be changed
            if tf.config.get_visible_devices(kind):
                logger.warning("TensorFlow keeps its %s: %s", kind, error)
