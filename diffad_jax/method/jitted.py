"""The steps compiled for the devices of a mesh, and what a training step costs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from configs.schema import Config, ModelConfig, TrainConfig
from diffad_jax.method import judging, optim, steps, train_state
from diffad_jax.method.judging import Judgement
from diffad_jax.method.steps import Batch
from diffad_jax.method.train_state import Networks, TrainState, Variables
from diffad_jax.runs import sharding

# For CPUs. Which operations go to YNNPACK: dot products alone. Experimental: XLA may drop it.
OWN_CONVOLUTIONS: dict[str, bool | str] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"
}

EvaluateStep = Callable[[Variables, Array, Array], Judgement]  # weights, pictures, noises


@runtime_checkable
class TrainStep(Protocol):
    """`steps.train_step` compiled when it is first called, or lowered from shapes alone."""

    def __call__(
        self, state: TrainState, batch: Batch, key: Key[Array, ""], /
    ) -> tuple[TrainState, dict[str, Array]]: ...

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """As `jax.stages.Wrapped.lower`: arrays or their shapes."""
        ...


def train_step(
    networks: Networks, optimizer: optax.GradientTransformation, config: Config, mesh: Mesh
) -> TrainStep:
    """`steps.train_step`, the batch split over the mesh, the state on every device and donated."""
    everywhere = sharding.replicated(mesh)
    return jax.jit(
        in_precision(
            functools.partial(
                steps.train_step, networks=networks, optimizer=optimizer, config=config
            ),
            config.model,
        ),
        donate_argnums=0,
        in_shardings=(everywhere, sharding.split(mesh), everywhere),
        out_shardings=everywhere,
        compiler_options=compiler_options(config.train, mesh),
    )


def evaluate_step(networks: Networks, config: Config, mesh: Mesh) -> EvaluateStep:
    """`judging.evaluate_step`, the batch split over the mesh, the results whole everywhere."""
    everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
    return jax.jit(
        in_precision(
            functools.partial(judging.evaluate_step, networks=networks, config=config), config.model
        ),
        in_shardings=(everywhere, split, everywhere),
        out_shardings=everywhere,
        compiler_options=compiler_options(config.train, mesh),
    )


def in_precision(step: Callable[..., Any], model: ModelConfig) -> Callable[..., Any]:
    """`step` with its products and convolutions in `model.matmul_precision`."""
    if model.matmul_precision == "default":
        return step

    @functools.wraps(step)
    def precise(*arguments):
        with jax.default_matmul_precision(model.matmul_precision):
            return step(*arguments)

    return precise


def compiler_options(config: TrainConfig, mesh: Mesh) -> dict[str, bool | str] | None:
    """What XLA is told besides the program.

    GPUs, with `train.deterministic`: the same bits every time. That leaves out operations whose
    order of additions changes, and the timing of kernels that decides which one is used; CPUs need
    neither, and XLA has no such option for TPUs. CPUs: not to give convolutions to YNNPACK, which
    takes 1.4 times as long as XLA's own for a training step (benchmarks/RESULTS.md); where JAX is
    told to optimise little, those would be slow loops.
    """
    platform = mesh.devices.flat[0].platform
    if platform == "cpu":
        if jax.config.values["jax_disable_most_optimizations"]:
            return None
        return OWN_CONVOLUTIONS if known(*OWN_CONVOLUTIONS.items()) else None
    if platform == "gpu" and config.deterministic:
        return {"xla_gpu_deterministic_ops": True}
    return None


@functools.cache
def known(*options: tuple[str, bool | str]) -> bool:
    """Whether this XLA has these options; it ends a compilation where it has not."""
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: jnp.zeros(()), compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def batch_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shape of each array of a training batch, all f32."""
    b, s = config.train.batch_size, config.model.image_size
    shapes = {"image": (b, s, s, 3), "mask": (b, s, s, 1), "label": (b,)}
    return shapes | ({"clean": (b, s, s, 3)} if config.loss.target == "clean" else {})


def lower_train_step(
    optimizer: optax.GradientTransformation, config: Config, mesh: Mesh
) -> jax.stages.Lowered:
    """`train_step` lowered from shapes alone, for devices that need not be there."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(functools.partial(train_state.init, config, optimizer), key)
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in batch_shapes(config).items()
    }
    networks = train_state.define(config.model)
    return train_step(networks, optimizer, config, mesh).lower(state, batch, key)


def step_flops(config: Config) -> float | None:
    """Floating point operations of a training step on all devices; None where not known."""
    form = countable(config)
    if form is None:
        return None
    plain, mesh = form
    lowered = lower_train_step(optim.optimizer(plain, total_steps=1), plain, mesh)
    cost = lowered.cost_analysis()
    # XLA counts the loop over a batch's parts as one turn.
    return None if cost is None else cost["flops"] * config.train.accumulation_steps


def countable(config: Config) -> tuple[Config, Mesh] | None:
    """The configuration and the device for which XLA counts a step's operations when it is lowered.

    The CPU, whatever the run uses: JAX's plugins for GPUs and TPUs count nothing before
    compilation, and after it not what a library computes. Nothing is compiled. Without
    rematerialisation: what is computed twice is not counted twice. None where JAX may not use the
    CPU (JAX_PLATFORMS=cuda).
    """
    model = dataclasses.replace(config.model, remat="none", attention="xla")
    try:
        mesh = sharding.data_mesh(jax.local_devices(backend="cpu")[:1])
    except RuntimeError:
        return None
    return dataclasses.replace(config, model=model), mesh
