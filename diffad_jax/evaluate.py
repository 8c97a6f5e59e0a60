"""A category's pictures -> anomaly maps, scores, metrics, threshold, report."""

import logging
import tempfile
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8

from configs.schema import Config
from diffad_jax.method import jitted, optim, steps
from diffad_jax.method.train_state import TrainState, Variables, define, init
from diffad_jax.reporting import grid, page, tables
from diffad_jax.runs import checkpoint, sharding
from diffad_jax.runs import folder as run_folder
from diffad_jax.scoring import metrics, pixel_sketch, results, threshold
from input_pipeline.datasets import Category, Pictures, load_category

logger = logging.getLogger(__name__)
_AT_ONCE = 64  # pictures, where many are copied or measured


def run(config: Config, folder: epath.PathLike) -> dict[str, float]:
    """Evaluate a run's checkpoint; see `category`.

    Raises:
      ValueError: no run, no checkpoint, another model's run, or unusable pictures.
    """
    run_folder.check_model(folder, config)  # before the pictures are read
    pictures = load_category(config.data, config.model.image_size)
    if not len(shown(pictures).images):
        raise ValueError(
            f"no test pictures in {pictures.folder}, and none held out of training (data.holdout): "
            "nothing to evaluate"
        )
    mesh = sharding.data_mesh()
    variables, step = restore(config, folder, mesh)
    step_fn = jitted.evaluate_step(define(config.model), config, mesh)
    key = run_key(config, mesh)
    return category(folder, step, step_fn, variables, key, pictures, config, mesh)


def shown(pictures: Category) -> Pictures:
    """What a report is about: the test pictures, or where there is none the held-out ones."""
    return pictures.test if len(pictures.test.images) else pictures.held_out


def category(
    folder: epath.PathLike,
    step: int,
    step_fn: jitted.EvaluateStep,
    variables: Variables,
    key: jax.Array,
    pictures: Category,
    config: Config,
    mesh: Mesh,
) -> dict[str, float]:
    """Judge the pictures that are `shown`, find the threshold, write all of it.

    WORKDIR/eval/STEP gets metrics.json, scores.csv, grid.png and report.html;
    WORKDIR/threshold.json the threshold. The held-out pictures are judged where the test pictures
    alone give no threshold.

    Returns:
      What metrics.json holds: the results of `metrics.of_images` and `of_pixels`, and threshold_*.
    """
    about = shown(pictures)
    if about is pictures.held_out:
        count = len(about.images)
        logger.info("no test pictures: judging the %d good ones held out of training", count)
    judged = judge(step_fn, variables, key, about, config, mesh)
    pixels = rank_pixels(judged, config)
    values = measure(judged, pixels)
    test, held_out = (None, judged) if about is pictures.held_out else (judged, None)
    if test is not None and np.isnan(values["image_f1_threshold"]):
        held_out = judge(step_fn, variables, key, pictures.held_out, config, mesh)
    quantile = config.evaluate.threshold_quantile
    found = threshold.choose(values, len(judged.names), good(test), good(held_out), quantile, step)
    if found is not None:
        values |= {
            f"threshold_{name}": float(getattr(found, name))
            for name in ("image", "pixel", "false_alarm_rate", "pictures")
        }
    write(folder, step, judged, values, pixels, found, config)
    return values


def good(judged: results.Evaluation | None) -> threshold.Good:
    """Scores and largest map values of the good pictures."""
    rows = [] if judged is None else np.flatnonzero(judged.labels == 0)
    peaks = [judged.maps[row].max() for row in rows]
    scores = [judged.scores[row] for row in rows]
    return threshold.Good(np.array(scores, np.float64), np.array(peaks, np.float64))


def restore(config: Config, folder: epath.PathLike, mesh: Mesh) -> tuple[Variables, int]:
    """The variables that evaluation reads, on every device, and the checkpoint's step.

    Raises:
      ValueError: no run, no such checkpoint, or another model's run.
    """
    run_folder.check_model(folder, config)
    name = {"last": checkpoint.LAST, "best": checkpoint.BEST}[config.evaluate.checkpoint]
    with checkpoint.Checkpoints(folder, writer=False, name=name) as checkpoints:
        state = checkpoints.restore(restore_target(config, mesh))
    return weights(state, config), int(state.step)


def restore_target(config: Config, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and placement of a checkpoint of this configuration."""
    # Only the structure of the optimizer's state matters here, not the length of its schedule.
    optimizer = optim.optimizer(config, total_steps=1)
    shapes = jax.eval_shape(lambda: init(config, optimizer, jax.random.key(config.seed)))
    return checkpoint.abstract(shapes, sharding.replicated(mesh))


def weights(state: TrainState, config: Config) -> Variables:
    """The variables that evaluation reads."""
    return state.ema if config.evaluate.weights == "ema" else state.variables


def run_key(config: Config, mesh: Mesh) -> jax.Array:
    """The key that all of a run's draws follow from, on every device."""
    return jax.jit(lambda: jax.random.key(config.seed), out_shardings=sharding.replicated(mesh))()


def judge(
    step_fn: jitted.EvaluateStep,
    variables: Variables,
    key: jax.Array,
    pictures: Pictures,
    config: Config,
    mesh: Mesh,
) -> results.Evaluation:
    """Run every picture through the model, in batches padded to one shape.

    The noise of a picture is a function of (key, the picture), so neither the batch size, the
    number of devices nor the other pictures change it. Of more than `evaluate.exact_pictures`, maps
    and reconstructions lie in temporary files, read where they are looked at.
    """
    images = pictures.images
    in_memory = len(images) <= config.evaluate.exact_pictures
    scores = Rows((), np.float64)
    maps = Rows(images.shape[1:3], np.float32, in_memory)
    reconstructions = Rows(images.shape[1:], np.uint8, in_memory)
    if not isinstance(images, np.ndarray):  # read by index from disk; the report picks single ones
        copy = Rows(images.shape[1:], np.uint8, in_memory)
        for rows in chunks(len(images)):
            copy.append(images[rows])
        images = copy.array()
    for judged in judgements(step_fn, variables, key, images, config, mesh):
        scores.append(judged.score)
        maps.append(judged.anomaly_map[..., 0])
        reconstructions.append(np.round(judged.reconstruction * 255))
    return results.Evaluation(
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


def judgements(
    step_fn: jitted.EvaluateStep,
    variables: Variables,
    key: jax.Array,
    images: UInt8[np.ndarray, "n s s 3"],
    config: Config,
    mesh: Mesh,
) -> Iterator[steps.Judgement]:
    """Batch by batch, on the host and without the padding.

    The devices are given the next batch before the results of one are fetched and used.
    """

    def fetched(judged: steps.Judgement, count: int) -> steps.Judgement:
        return jax.tree.map(lambda x: x[:count], jax.device_get(judged))

    running = None
    for batch, index, count in padded_batches(images, config.evaluate.batch_size, mesh):
        started = step_fn(variables, batch, index, key), count
        if running is not None:
            yield fetched(*running)
        running = started
    if running is not None:
        yield fetched(*running)


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


def chunks(count: int) -> Iterator[np.ndarray]:
    """The numbers below `count`, some at a time."""
    for start in range(0, count, _AT_ONCE):
        yield np.arange(start, min(start + _AT_ONCE, count))


def noise_index(images: UInt8[np.ndarray, "n s s 3"]) -> Int32[np.ndarray, " n"]:
    """What the noise of a picture follows from in `steps.evaluate_step`: 31 bits of its CRC-32.

    A function of the picture alone, as the networks see it (resized, 8 bit): not of its name, nor
    of its place among others.
    """
    hashes = [zlib.crc32(np.ascontiguousarray(image)) & 0x7FFFFFFF for image in images]
    return np.array(hashes, np.int32)


def padded_batches(
    images: np.ndarray, batch_size: int, mesh: Mesh
) -> Iterator[tuple[jax.Array, jax.Array, int]]:
    """(image f32[b,s,s,3] in [0,1], its `noise_index`, real pictures among them), over the mesh.

    b is `batch_size` rounded up to a multiple of the devices; the last batch repeats its last
    picture.
    """
    size = -(-batch_size // mesh.size) * mesh.size
    for start in range(0, len(images), size):
        real = np.arange(start, min(start + size, len(images)))
        picture = images[np.pad(real, (0, size - len(real)), mode="edge")]
        image = picture.astype(np.float32) / np.float32(255)
        index = noise_index(picture)
        yield sharding.share(image, mesh), sharding.share(index, mesh), len(real)


def measure(judged: results.Evaluation, pixels: metrics.Ranking | None) -> dict[str, float]:
    """`metrics.of_images`, and `of_pixels` where the truth of every picture is known."""
    values = metrics.of_images(judged.labels, judged.scores)
    return values if pixels is None else values | metrics.of_pixels(pixels)


def rank_pixels(judged: results.Evaluation, config: Config) -> metrics.Ranking | None:
    """The ranking of all pixels; None where a defective picture has no mask.

    Exact up to `evaluate.exact_pictures` pictures; in bounded memory beyond.
    """
    rows = range(len(judged.names))
    if any(judged.truth(row) is None for row in rows):
        return None
    if len(rows) <= config.evaluate.exact_pictures:
        truth = np.array([judged.truth(row) for row in rows]).reshape(judged.maps.shape)
        return metrics.rank_pixels(truth, judged.maps)
    pixels = pixel_sketch.Pixels()
    for some in chunks(len(rows)):
        pixels.add(
            np.stack([judged.truth(row) for row in some.tolist()]), np.array(judged.maps[some])
        )
    return pixels.ranking()


def write(
    folder: epath.PathLike,
    step: int,
    judged: results.Evaluation,
    values: dict[str, float],
    pixels: metrics.Ranking | None,
    found: threshold.Threshold | None,
    config: Config,
) -> None:
    """Write WORKDIR/threshold.json, and what people look at to WORKDIR/eval/STEP. First host only.

    Args:
      folder: WORKDIR.
      step: of the checkpoint.
      judged: the pictures and what the model made of them.
      values: for metrics.json.
      pixels: what `rank_pixels` gave, for the curves.
      found: from which score on a picture is called defective; None: no verdicts.
      config: of the run.
    """
    if jax.process_index() != 0:
        return
    target = epath.Path(folder) / "eval" / str(step)
    target.mkdir(parents=True, exist_ok=True)
    cut = float("nan")
    if found is not None:
        threshold.write(folder, found)
        cut = found.image
    tables.write_metrics(target / "metrics.json", values)
    tables.write_scores(target / "scores.csv", judged, cut)
    rows = grid.choose_rows(judged, config.evaluate.grid_rows)
    title = f"{config.data.category}, step {step}"
    grid.write_grid(target / "grid.png", judged, rows, title, cut)
    page.write(target / "report.html", step, judged, values, pixels, found, config)
    logger.info("%s\n%s", title, tables.summary(values))
    logger.info("report: %s", target / "report.html")
