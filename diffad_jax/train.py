"""The training loop, top to bottom."""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from configs.errors import UserError
from configs.schema import Config
from diffad_jax import evaluate
from diffad_jax.method import jitted, optim, train_state
from diffad_jax.method.train_state import TrainState
from diffad_jax.reporting import grid
from diffad_jax.runs import (
    checkpoint,
    folder,
    lock,
    logs,
    pictures,
    processes,
    profiling,
    sharding,
    stopping,
)
from diffad_jax.scoring import scorer
from input_pipeline import datasets, on_disk, pipeline

logger = logging.getLogger(__name__)
PANEL_ROWS = 8  # training pictures shown in TensorBoard
# Metrics of steps waiting to be logged: arrays on the devices, numbers once they are read.
Pending = list[tuple[int, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same during a run."""

    config: Config
    workdir: epath.PathLike
    category: datasets.Category
    hold: lock.Hold
    total_steps: int
    key: jax.Array  # that all draws of training follow from
    train_step: Callable
    scorer: scorer.Scorer
    batches: Iterator[dict[str, np.ndarray]]
    painted: pipeline.Painted
    checkpoints: checkpoint.Checkpoints
    best: checkpoint.Best
    log: logs.Log
    meter: profiling.Meter
    trace: profiling.Trace


def run(config: Config, workdir: epath.PathLike) -> dict[str, float] | None:
    """Train, or go on training, to the configured length; evaluate at the end.

    Of several processes all call this, with a folder that all of them see.

    Returns the final evaluation's metrics; None where there is nothing to evaluate: no test
    pictures and no held-out ones.

    Raises:
      UserError: unusable or changed pictures, a workdir of other settings or in use by another
        process, checkpoints that are all damaged or gone, or too little device memory.
      KeyboardInterrupt: told to stop by Ctrl-C; once training has begun, its state is saved.
      stopping.Stopped: told to stop by SIGTERM, and stopped; its state is saved.
      FloatingPointError: a loss term is not finite; names the step and the term.
      OSError: something cannot be written; names the path. The newest checkpoint stays.
    """
    # Everything that can be wrong with the input is found here, before anything is compiled.
    mesh = sharding.data_mesh()
    category, textures = load(config, mesh, pictures.held_out(workdir))
    hold = lock.Hold(workdir)
    claim = claimed(hold, config, workdir, category, textures)
    helps = profiling.advice(config)
    with processes.by_the_first(claim), profiling.fitting(helps), processes.watched():
        started, state, pending = prepare(config, workdir, mesh, category, textures, hold)
        return loop(started, state, pending)


@contextlib.contextmanager
def claimed(
    hold: lock.Hold,
    config: Config,
    workdir: epath.PathLike,
    category: datasets.Category,
    textures: datasets.Textures,
) -> Iterator[None]:
    """A context in which the folder is this process's, and this run's."""
    folder.check_claim(workdir, config)  # before another process's hold is taken over
    with hold:
        folder.claim(workdir, config)
        pictures.claim(workdir, category, textures)
        yield


def prepare(
    config: Config,
    workdir: epath.PathLike,
    mesh: Mesh,
    category: datasets.Category,
    textures: datasets.Textures,
    hold: lock.Hold,
) -> tuple[Run, TrainState, Pending]:
    """Compile, find the newest checkpoint, open the logs.

    Also returns the state to start from and the steps not yet logged.
    """
    total_steps = length(config, len(category.train.images))
    networks = train_state.define(config.model)
    optimizer = optim.optimizer(config, total_steps)
    key = scorer.run_key(config.seed, mesh)
    checkpoints = checkpoint.Checkpoints(
        workdir, config.train.checkpoint_every, config.train.keep_checkpoints
    )
    folder.check_resumed(workdir, checkpoints.latest)
    state, notes = start(config, optimizer, key, checkpoints, mesh, category.train.images)
    step = int(state.step)
    planned = notes.get("total_steps", total_steps)
    for change in optim.changed_rates(config, step, planned, total_steps):
        logger.warning("%s", change)
    logger.info(
        "%s: %d good pictures, %d test pictures, steps %d to %d on %d %s device(s)",
        config.data.category,
        len(category.train.images),
        len(category.test.images),
        step,
        total_steps,
        mesh.size,
        mesh.devices.flat[0].platform,
    )
    lazy = jitted.train_step(networks, optimizer, config, mesh)
    made: tuple[Callable, float | None] = (lazy, None)
    if step < total_steps:
        made = jitted.compile_step(lazy, config, state, key, mesh)
    train_step, flops = made
    run = Run(
        config=config,
        workdir=workdir,
        category=category,
        hold=hold,
        total_steps=total_steps,
        key=key,
        train_step=train_step,
        scorer=scorer.fresh(config, mesh, state),
        batches=pipeline.numpy_batches(
            category,
            textures,
            config.data,
            seed=config.seed,
            batch_size=config.train.batch_size,
            start_step=step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            with_clean=config.loss.target == "clean",
        ),
        painted=pipeline.painted(category, textures, config.data),
        checkpoints=checkpoints,
        best=checkpoint.Best(workdir, config.train.keep_best),
        log=logs.Log(workdir, step, total_steps, config.train.batch_size),
        meter=profiling.Meter(step, config.train.batch_size, mesh, flops),
        trace=profiling.Trace(workdir, config.train.profile_steps),
    )
    return run, state, [(step, metrics) for step, metrics in notes.get("pending", [])]


def loop(run: Run, state: TrainState, pending: Pending) -> dict[str, float] | None:
    """The loop itself: from the state's step to the last."""
    config, train, first_step = run.config, run.config.train, int(state.step)
    stop = stopping.Stop()
    with (
        stop, run.checkpoints, run.best, run.log, run.meter, run.trace,
        processes.watched(), jax.transfer_guard("disallow"),
    ):  # fmt: skip
        try:
            # Again, because the process may have been killed between this step's checkpoint and it.
            final = evaluation(run, state, first_step, stop, again=True) if first_step else None
        except stopping.Stopped:
            stop.leave(first_step)
            return None
        for step in range(first_step + 1, run.total_steps + 1):
            run.trace.before(step)
            batch = sharding.to_devices(run.meter.fetch(run.batches), run.scorer.mesh)
            state, metrics = run.train_step(state, batch, run.key)
            run.meter.started(metrics)
            run.trace.after(step, metrics)
            pending.append((step, metrics))
            last, stopped = step == run.total_steps, stop.reached(step)
            saved = last or stopped or run.checkpoints.due(step)

            if saved or due(step, train.log_every):
                # Before anything is saved: a checkpoint never holds a diverged state.
                pending = read(pending)
                if last or due(step, train.log_every):
                    rates = optim.learning_rates(config, step, run.total_steps)
                    run.log.train(step, means(pending) | rates, run.meter.window(step))
                    pending = []
            if saved:
                save(run, step, state, pending)
            if stopped and not last:
                stop.leave(step)
                return None
            if due(step, train.image_every):
                with run.meter.paused():
                    run.log.picture(step, "train/batch", training_picture(run, state, batch))
            try:
                final = evaluation(run, state, step, stop)
            except stopping.Stopped:  # it is made up for at the next start
                if not saved:
                    save(run, step, state, read(pending))
                stop.leave(step)
                return None
        if run.total_steps > first_step:
            logger.info(run.meter.verdict())
    return final


def save(run: Run, step: int, state: TrainState, pending: Pending) -> None:
    """Hand the state to the thread that writes, with what the next start needs besides."""
    run.hold.check()
    run.checkpoints.save(step, state, {"pending": pending, "total_steps": run.total_steps})


def evaluation(
    run: Run, state: TrainState, step: int, stop: stopping.Stop, again: bool = False
) -> dict[str, float] | None:
    """Metrics and threshold where they are due after `step`; see `evaluate.evaluate`.

    `again`: perhaps an earlier process has measured them, and to the end; then they stand.

    Raises `stopping.Stopped` where the process is told to stop before they are there.
    """
    due_now = step >= run.total_steps or due(step, run.config.train.evaluate_every)
    if not due_now or not len(evaluate.shown(run.category).images):
        return None
    values = earlier(run, step) if again else None
    with run.meter.paused():
        if values is None:
            with stop.interrupting():
                model = run.scorer.holding(state)
                values = evaluate.evaluate(model, run.category, run.workdir, run.painted)
        run.log.evaluation(step, values)
        run.best.offer(step, state, values)
    return values


def earlier(run: Run, step: int) -> dict[str, float] | None:
    """What an earlier process measured after `step`, where all that it depends on is the same."""
    values = run.log.evaluated(step)  # logged when all the files were there
    stand = bool(values) and evaluate.stands(run.config, run.category, run.workdir, step)
    if processes.anywhere(not stand):
        return None
    logger.info("step %d was evaluated before: see %s/eval/%d", step, run.workdir, step)
    return values


def load(
    config: Config, mesh: Mesh, kept_aside: Mapping[str, str] | None
) -> tuple[datasets.Category, datasets.Textures]:
    """The category and the anomaly sources, or a UserError that says why they cannot be used."""
    train, platform = config.train, mesh.devices.flat[0].platform
    if config.model.attention == "cudnn" and platform != "gpu":
        raise UserError(f"model.attention=cudnn needs a CUDA GPU, this is a {platform}: use xla")
    sharding.check_batch(train.batch_size, mesh, "train.batch_size")
    part = train.batch_size // train.accumulation_steps
    sharding.check_batch(part, mesh, "train.batch_size / train.accumulation_steps")
    category = datasets.load_category(config.data, config.model.image_size, kept_aside)
    pipeline.check(category, train.batch_size, jax.process_count())
    evaluate.check(config, category)
    textures = datasets.load_textures(config.data, config.model.image_size)
    seen = f"{category.train.fingerprint} {category.test.fingerprint} {textures.fingerprint}"
    processes.check_same("pictures (fingerprints of train, test and textures)", seen)
    return category, textures


def start(
    config: Config, optimizer, key, checkpoints, mesh, images
) -> tuple[TrainState, dict[str, Any]]:
    """The newest whole checkpoint's state and notes, else the state that the key gives.

    A preconditioned U-Net is told the mean of the training pictures and their spread about it.
    """
    if checkpoints.latest is None:
        known = None
        if config.model.prediction == "preconditioned":
            mean, spread = map(jnp.asarray, on_disk.mean_and_spread(images))
            known = {"mean": mean, "spread": spread}
        return jitted.init(optimizer, config, mesh, known)(key), {}
    shapes = jax.eval_shape(functools.partial(train_state.init, config, optimizer), key)
    state = checkpoints.restore(checkpoint.abstract(shapes, sharding.replicated(mesh)))
    return state, checkpoints.notes(int(state.step))


def length(config: Config, pictures: int) -> int:
    """Steps of a whole run; an epoch is floor(pictures / batch_size) of them."""
    return config.train.steps or config.train.epochs * (pictures // config.train.batch_size)


def due(step: int, every: int) -> bool:
    """Whether `step` is one of every `every`; never where that is 0."""
    return every > 0 and step % every == 0


def read(pending: Pending) -> Pending:
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


def means(values: Pending) -> dict[str, float]:
    """Mean of each metric over steps."""
    return {name: float(np.mean([m[name] for _, m in values])) for name in values[0][1]}


def training_picture(run: Run, state: TrainState, batch) -> np.ndarray:
    """u8[h,w,3]: input, guided reconstruction, anomaly map and mask of a training batch."""
    whole = sharding.gather((batch["image"], batch["mask"]), run.scorer.mesh)
    image, mask = (part[:PANEL_ROWS] for part in jax.device_get(whole))
    model = run.scorer.holding(state)
    some = slice(model.batch_size)  # a batch of the evaluation's own shape: nothing is compiled
    judged = model.batch(np.round(image[some] * 255).astype(np.uint8))
    return grid.training_panel(image[some], judged.reconstruction, judged.anomaly_map, mask[some])
