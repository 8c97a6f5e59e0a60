"""The input pipeline: folders of pictures in, training batches with synthetic anomalies out.

The only package that imports TensorFlow, which is kept off every accelerator: they belong to JAX.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")
