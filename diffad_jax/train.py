"""The training loop, top to bottom."""

import functools
import logging
import math
import signal
import threading

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from diffad_jax import checkpoint, evaluate, logs, optim, report, sharding, steps, train_state
from diffad_jax import workdir as workdirs
from diffad_jax.config import Config
from input_pipeline import datasets, pipeline

logger = logging.getLogger(__name__)
PANEL_ROWS = 8  # training pictures shown in TensorBoard


def run(config: Config, workdir: epath.PathLike) -> dict[str, float] | None:
    """Train, or go on training, to the configured length; evaluate at the end.

    Returns the final evaluation's metrics; None where the process was told to stop (its state is
    saved, the same command continues) or the category has no test pictures.

    Raises:
      ValueError: unusable pictures, or a workdir of another configuration.
      FloatingPointError: a loss term is not finite; names the step and the term.
    """
    # Everything that can be wrong with the input is found here, before anything is compiled.
    mesh = sharding.data_mesh()
    category, textures = load(config, mesh)
    total_steps = length(config, len(category.train.images))
    workdirs.claim(workdir, config)

    networks = train_state.define(config.model)
    optimizer = optim.optimizer(config, total_steps)
    key = evaluate.run_key(config, mesh)
    checkpoints = checkpoint.Checkpoints(
        workdir, config.train.checkpoint_every, config.train.keep_checkpoints
    )
    state = start(config, optimizer, key, checkpoints, mesh)
    first_step = int(state.step)
    logger.info(
        "%s: %d good pictures, %d test pictures, steps %d to %d on %d %s device(s)",
        *(config.data.category, len(category.train.images), len(category.test.images)),
        *(first_step, total_steps, mesh.size, mesh.devices.flat[0].platform),
    )
    train_step = steps.jit_train_step(networks, optimizer, config, mesh)
    evaluate_step = steps.jit_evaluate_step(networks, config, mesh)
    batches = pipeline.numpy_batches(
        category,
        textures,
        config,
        start_step=first_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    log = logs.Log(workdir, first_step, total_steps, config.train.batch_size)
    # Steps that the next log line is the mean of; a checkpoint carries them over a restart.
    noted = checkpoints.notes().get("pending", []) if first_step else []
    pending = [(step, metrics) for step, metrics in noted]

    def evaluation(step: int) -> dict[str, float] | None:
        """The test split's metrics where they are due after `step`."""
        due_now = step >= total_steps or due(step, config.train.evaluate_every)
        if not due_now or not len(category.test.images):
            return None
        judged = evaluate.judge(evaluate_step, state, key, category.test, config, mesh)
        values = evaluate.write(workdir, step, judged, config)
        log.evaluation(step, values)
        log.pause()
        return values

    with checkpoints, log, Preemption() as preemption, jax.transfer_guard("disallow"):
        # Again, because the process may have been killed between this step's checkpoint and that.
        final = evaluation(first_step) if first_step else None
        for step in range(first_step + 1, total_steps + 1):
            batch = sharding.to_devices(next(batches), mesh)
            state, metrics = train_step(state, batch, key)
            pending.append((step, metrics))
            last, stop = step == total_steps, preemption.reached(step)
            save = last or stop or checkpoints.due(step)

            if save or due(step, config.train.log_every):
                # Before anything is saved: a checkpoint never holds a diverged state.
                pending = read(pending)
                if last or due(step, config.train.log_every):
                    log.train(step, means(pending))
                    pending = []
            if save:
                checkpoints.save(step, state, {"pending": pending})
            if stop and not last:
                logger.info("told to stop: saving step %d; the same command continues", step)
                return None
            if due(step, config.train.image_every):
                panel = training_picture(evaluate_step, state, batch, key, config, mesh)
                log.picture(step, "train/batch", panel)
                log.pause()
            final = evaluation(step)
    return final


def load(config: Config, mesh) -> tuple[datasets.Category, np.ndarray | None]:
    """The category and the anomaly sources, or a ValueError that says why they cannot be used."""
    train = config.train
    sharding.check_batch(train.batch_size, mesh, "train.batch_size")
    part = train.batch_size // train.accumulation_steps
    sharding.check_batch(part, mesh, "train.batch_size / train.accumulation_steps")
    category = datasets.load_category(config.data, config.model.image_size)
    pipeline.check(category, train.batch_size, jax.process_count())
    textures = datasets.load_textures(config.data, config.model.image_size)
    return category, textures


def start(config: Config, optimizer, key, checkpoints, mesh) -> train_state.TrainState:
    """The newest checkpoint's state, else the one that the key gives."""
    everywhere = sharding.replicated(mesh)
    init = functools.partial(train_state.init, config, optimizer)
    if checkpoints.latest is None:
        return jax.jit(init, out_shardings=everywhere)(key)
    return checkpoints.restore(checkpoint.abstract(jax.eval_shape(init, key), everywhere))


def length(config: Config, pictures: int) -> int:
    """Steps of a whole run; an epoch is floor(pictures / batch_size) of them."""
    return config.train.steps or config.train.epochs * (pictures // config.train.batch_size)


def due(step: int, every: int) -> bool:
    """Whether `step` is one of every `every`; never where that is 0."""
    return every > 0 and step % every == 0


def read(
    pending: list[tuple[int, dict[str, jax.Array | float]]],
) -> list[tuple[int, dict[str, float]]]:
    """The metrics of the steps waiting to be logged, as numbers.

    Read many steps at a time, because reading one makes the host wait for the device.

    Raises:
      FloatingPointError: a metric of a step is not finite.
    """
    values = [
        (step, {name: float(value) for name, value in jax.device_get(metrics).items()})
        for step, metrics in pending
    ]
    for step, metrics in values:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"step {step}: {', '.join(bad)} not finite; the newest checkpoint is older than "
                "that; lower the learning rates or train in float32"
            )
    return values


def means(values: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Mean of each metric over steps."""
    return {name: float(np.mean([m[name] for _, m in values])) for name in values[0][1]}


def training_picture(evaluate_step, state, batch, key, config: Config, mesh) -> np.ndarray:
    """u8[h,w,3]: input, guided reconstruction, anomaly map and mask of a training batch."""
    whole = jax.device_put((batch["image"], batch["mask"]), sharding.replicated(mesh))
    image, mask = (part[:PANEL_ROWS] for part in jax.device_get(whole))
    # In a batch of the evaluation's own shape, so that nothing is compiled for this.
    pictures = np.round(image * 255).astype(np.uint8)
    padded = evaluate.padded_batches(pictures, config.evaluate.batch_size, mesh)
    inputs, index, count = next(padded)
    judged = jax.device_get(evaluate_step(evaluate.weights(state, config), inputs, index, key))
    return report.training_panel(
        image[:count], judged.reconstruction[:count], judged.anomaly_map[:count], mask[:count]
    )


class Preemption:
    """Knows whether this run was told to stop (SIGTERM, as clusters send before they preempt)."""

    def __enter__(self) -> "Preemption":
        self._told = threading.Event()
        self._previous = None
        # With several hosts, JAX's own handler makes all of them stop after the same step.
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._told.set())
        return self

    def __exit__(self, *_) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step`; the same answer on every host."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._told.is_set()
