"""The steps compiled for the devices of a mesh, and what a training step costs."""

import concurrent.futures
import dataclasses
import functools
import gc
from collections.abc import Callable, Mapping
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
from diffad_jax.runs import profiling, sharding

Options = dict[str, bool | int | str]
# What XLA is told for CPUs, where it knows it (experimental: XLA may drop it). YNNPACK gets dot
# products alone: its convolutions make a training step take 1.4 times as long as XLA's own.
STEPS: Options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
# For what runs once: compiled in a third of the time (benchmarks/RESULTS.md).
ONCE: Options = {"xla_backend_optimization_level": 0}

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


def init(
    optimizer: optax.GradientTransformation,
    config: Config,
    mesh: Mesh,
    pictures: Mapping[str, Array] | None = None,
) -> Callable[[Key[Array, ""]], TrainState]:
    """`train_state.init` compiled, on every device. It runs once: on CPUs nothing is optimised."""
    cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.jit(
        functools.partial(train_state.init, config, optimizer, pictures=pictures),
        out_shardings=sharding.replicated(mesh),
        compiler_options=known(ONCE) if cpu else None,
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


def compiler_options(config: TrainConfig, mesh: Mesh) -> Options | None:
    """What XLA is told besides the program.

    GPUs, with `train.deterministic`: the same bits every time. That leaves out operations whose
    order of additions changes, and the timing of kernels that decides which one is used; CPUs need
    neither, and XLA has no such option for TPUs. CPUs: `STEPS`; where JAX is told to optimise
    little, XLA's own convolutions would be slow loops.
    """
    platform = mesh.devices.flat[0].platform
    if platform == "cpu":
        if jax.config.values["jax_disable_most_optimizations"]:
            return None
        return known(STEPS)
    if platform == "gpu" and config.deterministic:
        return {"xla_gpu_deterministic_ops": True}
    return None


def known(options: Options) -> Options | None:
    """Those options that this XLA has; None: none of them."""
    return {name: value for name, value in options.items() if _is_known(name, value)} or None


@functools.cache
def _is_known(name: str, value: bool | int | str) -> bool:
    """Whether XLA has an option; it ends a compilation where it has not."""
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: jnp.zeros(()), compiler_options={name: value}).lower().compile()
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
    return _lower(train_step(networks, optimizer, config, mesh), state, batch, key)


def compile_step(
    step: TrainStep, config: Config, state: TrainState, key: Key[Array, ""], mesh: Mesh
) -> tuple[jax.stages.Compiled, float | None]:
    """`train_step` compiled, and its FLOPs (None: not known); says what memory it takes.

    A run's only compilation of it: the loop calls what this returns.
    """
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding.split(mesh))
        for name, shape in batch_shapes(config).items()
    }
    # Without a peak there is nothing to compare them with.
    counts = profiling.peak_flops(mesh.devices.flat[0].device_kind) is not None
    lowered = _lower(step, state, batch, key)
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        flops = beside.submit(step_flops, config) if counts else None  # XLA needs no Python
        compiled = lowered.compile()
    limit = profiling.memory_stats("bytes_limit")
    profiling.report_memory(profiling.step_bytes(compiled), limit, config)
    return compiled, flops.result() if flops else None


def _lower(step: TrainStep, *args: Any) -> jax.stages.Lowered:
    """`step.lower`, without a search for garbage: the millions of objects of a trace stay."""
    searches = gc.isenabled()
    gc.disable()
    try:
        return step.lower(*args)
    finally:
        if searches:
            gc.enable()


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
