"""The evaluation step for programs that use XLA themselves: StableHLO, weights included."""

import dataclasses
import datetime

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, UInt8

from diffad_jax.method import jitted, judging
from diffad_jax.method.train_state import define
from diffad_jax.scoring.scorer import Scorer

PLATFORMS = ("cpu", "cuda", "tpu")
# For how long JAX promises to read what it wrote (docs.jax.dev/en/latest/export/export.html).
PROMISED = datetime.timedelta(days=180)


def write(model: Scorer) -> bytes:
    """The step: u8[n,s,s,3] -> score f32[n], map f32[n,s,s,1], reconstruction f32[n,s,s,3].

    Any n. `jax.export.deserialize(bytearray(...)).call(pictures)` runs it, on one device of any of
    PLATFORMS, until `readable_until`.
    """
    # For every platform, and for one device, whatever the run was on.
    settings = dataclasses.replace(model.config.model, attention="xla")
    config = dataclasses.replace(model.config, model=settings)
    networks = define(settings)
    host = jax.device_get((model.variables, model.noises))
    variables, noises = jax.tree.map(jnp.asarray, host)

    def judge(picture: UInt8[Array, "n s s 3"]) -> tuple[Float[Array, "..."], ...]:
        image = picture.astype(jnp.float32) / 255
        judged = judging.evaluate_step(variables, image, noises, networks, config)
        return judged.score, judged.anomaly_map, judged.reconstruction

    (n,), size = export.symbolic_shape("n"), config.model.image_size
    pictures = jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8)
    step = jax.jit(jitted.in_precision(judge, settings))
    return bytes(export.export(step, platforms=PLATFORMS)(pictures).serialize())


def readable_until(written: datetime.date) -> datetime.date:
    """The day until which JAX promises to read it."""
    return written + PROMISED
