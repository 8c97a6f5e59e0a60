"""DiffusionAD in JAX and Flax: find defects in product pictures after training on good ones."""

__version__ = "0.1.0"
