"""The model that judges: weights, key, mesh and compiled step, made once by whoever scores.

Training, evaluation and prediction all score through a `Judge`, so a picture has one score.
"""

import abc
import dataclasses
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float32, UInt8

from configs.errors import UserError
from configs.schema import Config, ModelConfig
from diffad_jax.method import jitted, judging, optim
from diffad_jax.method.judging import Judgement
from diffad_jax.method.train_state import TrainState, Variables, define, init
from diffad_jax.runs import checkpoint, folder, profiling, sharding
from diffad_jax.scoring.results import Judged
from input_pipeline.on_disk import Pictures, chunks

FOLDERS = {"last": checkpoint.LAST, "best": checkpoint.BEST}  # by evaluate.checkpoint


class Found(NamedTuple):
    """What the model says about n pictures, on the host, all in [0, 1]."""

    score: Float32[np.ndarray, " n"]
    anomaly_map: Float32[np.ndarray, "n s s 1"]
    reconstruction: Float32[np.ndarray, "n s s 3"]


class Judge(abc.ABC):
    """Judges pictures of the model's own size, in batches.

    config: of the run; `evaluate` decides how a picture is scored.
    step: of training, which the weights belong to.
    """

    config: Config
    step: int

    @abc.abstractmethod
    def padded(self, size: int) -> int:
        """The batch size that takes the place of `size`, where not all can be."""

    @abc.abstractmethod
    def batch(self, images: UInt8[np.ndarray, "n s s 3"], size: int | None = None) -> Found:
        """Judge at most a batch of pictures: `size`, else `batch_size`."""

    @abc.abstractmethod
    def stream(self, images: UInt8[np.ndarray, "n s s 3"]) -> Iterator[Found]:
        """Judge any number, batch by batch."""

    @property
    def batch_size(self) -> int:
        """`evaluate.batch_size`, or what takes its place."""
        return self.padded(self.config.evaluate.batch_size)

    def judge(self, pictures: Pictures) -> Judged:
        """Run every picture through the model.

        All get the same noise, so neither the batch size, the number of devices nor the other
        pictures change a score. Of more than `evaluate.exact_pictures`, maps and reconstructions
        lie in temporary files, read where they are looked at.

        Raises:
          OSError: the disk of temporary files is full.
        """
        images = pictures.images
        in_memory = len(images) <= self.config.evaluate.exact_pictures
        scores = Rows((), np.float64)
        maps = Rows(images.shape[1:3], np.float32, in_memory)
        reconstructions = Rows(images.shape[1:], np.uint8, in_memory)
        if not isinstance(images, np.ndarray):  # read by index from disk; reports pick single ones
            copy = Rows(images.shape[1:], np.uint8, in_memory)
            for rows in chunks(len(images)):
                copy.append(images[rows])
            images = copy.array()
        for judged in self.stream(images):
            scores.append(judged.score)
            maps.append(judged.anomaly_map[..., 0])
            reconstructions.append(np.round(judged.reconstruction * 255))
        return Judged(
            names=pictures.names,
            defects=pictures.defects,
            labels=pictures.labels,
            scores=scores.array(),
            maps=maps.array(),
            images=images,
            reconstructions=reconstructions.array(),
            masks=pictures.masks,
            has_mask=pictures.has_mask,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer(Judge):
    """Judges with JAX; compiles at its first batch.

    config: of the run; `evaluate` decides how a picture is scored.
    mesh: the devices; a batch is split over them.
    noises: f32[k, 2, s, s, 3], the same for every picture (`judging.draw_evaluation`), on every
      device.
    judge_batch: the compiled step.
    variables: the weights, on every device. step: of training, which they belong to.
    """

    config: Config
    mesh: Mesh
    noises: jax.Array
    judge_batch: jitted.EvaluateStep
    variables: Variables
    step: int

    def holding(self, state: TrainState) -> "Scorer":
        """The same with the weights of another state; nothing is compiled again."""
        step = int(jax.device_get(state.step))
        return dataclasses.replace(self, variables=weights(state, self.config), step=step)

    def padded(self, size: int) -> int:
        """A batch size rounded up to a multiple of the devices."""
        return -(-size // self.mesh.size) * self.mesh.size

    def start(self, images: UInt8[np.ndarray, "n s s 3"], size: int) -> Judgement:
        """Hand up to `size` pictures to the devices, without waiting for what they find.

        The batch is filled up to `size` (see `padded`) by repeating the last picture.

        Raises:
          UserError: the devices have too little memory (`fetch` may find that, too).
        """
        missing = size - len(images)
        pictures = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)], mode="edge")
        with profiling.fitting(profiling.scoring_advice(size)):
            image = sharding.share(in_unit_range(pictures), self.mesh)
            return self.judge_batch(self.variables, image, self.noises)

    def batch(self, images: UInt8[np.ndarray, "n s s 3"], size: int | None = None) -> Found:
        """Judge at most a batch of pictures: `size`, else `batch_size`."""
        return fetch(self.start(images, size or self.batch_size), len(images))

    def stream(self, images: UInt8[np.ndarray, "n s s 3"]) -> Iterator[Found]:
        """Judge any number, batch by batch; the next one is under way while one is looked at."""
        running: tuple[Judgement, int] | None = None
        for start in range(0, len(images), self.batch_size):
            some = images[start : start + self.batch_size]
            started = self.start(some, self.batch_size), len(some)
            if running is not None:
                yield fetch(*running)
            running = started
        if running is not None:
            yield fetch(*running)


def fresh(config: Config, mesh: Mesh, state: TrainState) -> Scorer:
    """A scorer of a state that is on the devices."""
    runnable = dataclasses.replace(config, model=on_these_devices(config.model, mesh))
    judge_batch = jitted.evaluate_step(define(runnable.model), runnable, mesh)
    noises, variables = evaluation_noises(config, mesh), weights(state, config)
    return Scorer(runnable, mesh, noises, judge_batch, variables, int(jax.device_get(state.step)))


def restored(
    config: Config, workdir: epath.PathLike, mesh: Mesh, step: int | None = None
) -> Scorer:
    """A scorer of a run's checkpoint: the newest, or the one of `step`, as its threshold needs.

    Raises:
      UserError: no run, no such checkpoint, or a run of another model.
    """
    folder.check_model(workdir, config)
    name = FOLDERS[config.evaluate.checkpoint]
    with checkpoint.Checkpoints(workdir, writer=False, name=name) as checkpoints:
        if step is not None and step not in checkpoints.steps:
            raise UserError(
                f"the threshold of {workdir} was found at step {step}, but there are only "
                f"checkpoints of {checkpoints.steps}: run --mode evaluate, or give --threshold"
            )
        return fresh(config, mesh, checkpoints.restore(restore_target(config, mesh), step))


def restore_target(config: Config, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and placement of a checkpoint of this configuration."""
    # Only the structure of the optimizer's state matters here, not the length of its schedule.
    optimizer = optim.optimizer(config, total_steps=1)
    shapes = jax.eval_shape(lambda: init(config, optimizer, jax.random.key(config.seed)))
    return checkpoint.abstract(shapes, sharding.replicated(mesh))


def on_these_devices(model: ModelConfig, mesh: Mesh) -> ModelConfig:
    """The same model where its attention kernel may be missing: cuDNN's is on CUDA GPUs alone."""
    if mesh.devices.flat[0].platform == "gpu":
        return model
    return dataclasses.replace(model, attention="xla")


def weights(state: TrainState, config: Config) -> Variables:
    """The weights that `evaluate.weights` names: averaged ('ema') or those of the last step."""
    return state.ema if config.evaluate.weights == "ema" else state.variables


def run_key(seed: int, mesh: Mesh) -> jax.Array:
    """The key that all of a run's draws follow from, on every device."""
    return jax.jit(lambda: jax.random.key(seed), out_shardings=sharding.replicated(mesh))()


def evaluation_noises(config: Config, mesh: Mesh) -> jax.Array:
    """The noises of a run's evaluations, on every device; they follow from its seed."""

    def draw() -> jax.Array:
        key = jax.random.key(config.seed)
        return judging.draw_evaluation(key, config.evaluate, config.model.image_size)

    return jax.jit(draw, out_shardings=sharding.replicated(mesh))()


def in_unit_range(images: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, "n s s 3"]:
    """0..255 to [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def fetch(judged: Judgement, count: int) -> Found:
    """The first `count` results of a batch, once they are there; errors as `Scorer.start`."""
    with profiling.fitting(profiling.scoring_advice(len(judged.score))):
        score, anomaly_map, reconstruction = jax.device_get(
            (judged.score, judged.anomaly_map, judged.reconstruction)
        )
    return Found(score[:count], anomaly_map[:count], reconstruction[:count])


class Rows:
    """Rows of one shape and dtype, collected into an array: in memory, or in a temporary file.

    The file has no name, so nothing is left of it once the array is gone, however that comes.
    """

    def __init__(self, shape: tuple[int, ...], dtype, in_memory: bool = True):
        self._shape, self._dtype, self._count = shape, np.dtype(dtype), 0
        self._parts: list[np.ndarray] = []
        self._file = None if in_memory else tempfile.TemporaryFile()

    def append(self, rows: np.ndarray) -> None:
        """Add rows; their values are converted.

        Raises:
          OSError: the disk of temporary files (TMPDIR) is full.
        """
        rows = rows.astype(self._dtype)
        self._count += len(rows)
        if self._file is None:
            self._parts.append(rows)
        else:
            self._file.write(rows.tobytes())

    def array(self) -> np.ndarray:
        """All rows, once; read-only where they lie in a file."""
        shape = (self._count, *self._shape)
        if self._file is None:
            return np.concatenate([np.empty((0, *self._shape), self._dtype), *self._parts])
        with self._file as file:  # the map keeps it open
            file.flush()
            return np.memmap(file, self._dtype, "r", shape=shape)
