"""Time of all measures on one core, exact and streaming, and the streaming form's memory.

python -m benchmarks.metrics

Prints one JSON line. Time: `--pictures` maps of `--size` px, three quarters of them with a mask;
smooth anomaly maps, 0 in their quiet parts and 1 in their loudest, as a trained network gives them.
Seconds are of the CPU, over all threads, the fastest of `--repeats`. Memory: how much larger the
peak of a process is that takes in `--streamed` such maps (and half of them), 16 at a time, than
that of one that takes in 16.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
import scipy.ndimage
from absl import app, flags

from diffad_jax.scoring import metrics, pixel_sketch

_PICTURES = flags.DEFINE_integer("pictures", 83, "Maps in the timed set.", lower_bound=2)
_SIZE = flags.DEFINE_integer("size", 256, "Width and height of a map, px.", lower_bound=8)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs; the fastest counts.", lower_bound=1)
_STREAMED = flags.DEFINE_integer("streamed", 10000, "Maps in the memory test.", lower_bound=10)
_CHILD = flags.DEFINE_integer("child", 0, "Take in that many maps and print the peak memory.")

BATCH = 16


def main(_) -> None:
    """Measure and print."""
    if _CHILD.value:
        print(streamed_peak(_CHILD.value, _SIZE.value))
        return
    masks, maps = pictures(np.random.default_rng(0), _PICTURES.value, _SIZE.value)
    labels, scores = masks.any((1, 2)), np.sort(maps.reshape(len(maps), -1))[:, -50:].mean(1)
    exact, exact_s = timed(lambda: metrics.evaluate(labels, scores, masks, maps))
    stream, stream_s = timed(
        lambda: metrics.of_images(labels, scores) | metrics.of_pixels(collect(masks, maps))
    )
    base = peak_of_child(BATCH)
    growth = {n: peak_of_child(n) - base for n in (_STREAMED.value // 2, _STREAMED.value)}
    print(
        json.dumps(
            {
                "pictures": f"{_PICTURES.value} of {_SIZE.value} px, {labels.sum()} defective",
                "saturated": f"{(maps == 0).mean():.3f} at 0, {(maps == 1).mean():.3f} at 1",
                "exact_s": round(exact_s, 3),
                "streaming_s": round(stream_s, 3),
                "largest_difference": max(
                    abs(exact[name] - stream[name])
                    for name in metrics.IMAGE_MEASURES + metrics.PIXEL_MEASURES
                ),
                "memory_growth_mib": {f"{n} maps": round(mib, 1) for n, mib in growth.items()},
            }
        )
    )


def pictures(
    generator: np.random.Generator, count: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool[n,s,s], the first quarter empty, and maps f32[n,s,s] that find them in part."""
    noise, shape = (
        np.stack(
            [
                scipy.ndimage.gaussian_filter(
                    generator.standard_normal((size, size), np.float32), width, mode="wrap"
                )
                for _ in range(count)
            ]
        )
        for width in (size / 32, size / 20)
    )
    noise, shape = noise / noise.std(), shape / shape.std()
    shape -= np.quantile(shape, 0.98, axis=(1, 2), keepdims=True)
    masks = (shape > 0) & (np.arange(count) >= count // 4)[:, None, None]
    maps = 1 / (1 + np.exp(7 - 4 * noise - (3 + 9 * shape) * masks))
    return masks, np.where(maps < 1e-3, 0, np.where(maps > 1 - 1e-3, 1, maps)).astype(np.float32)


def collect(masks: np.ndarray, maps: np.ndarray) -> metrics.Ranking:
    """The ranking from batches."""
    pixels = pixel_sketch.Pixels()
    for start in range(0, len(maps), BATCH):
        pixels.add(masks[start : start + BATCH], maps[start : start + BATCH])
    return pixels.ranking()


def streamed_peak(count: int, size: int) -> float:
    """Peak memory (MiB) of this process after `count` maps, made on the fly.

    Few maps are drawn; each batch shifts, mirrors and bends them, so that no score comes twice.
    """
    generator = np.random.default_rng(1)
    masks, maps = pictures(generator, BATCH, size)
    pixels = pixel_sketch.Pixels()
    for start in range(0, count, BATCH):
        move, bend = int(generator.integers(size)), generator.uniform(0.8, 1.25)
        rows = min(BATCH, count - start)
        batch = np.roll(maps[:rows], move, axis=2) ** np.float32(bend)
        pixels.add(np.roll(masks[:rows], move, axis=2), batch)
    metrics.of_pixels(pixels.ranking())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def peak_of_child(count: int) -> float:
    """`streamed_peak` of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.metrics", f"--child={count}"]
    command += [f"--size={_SIZE.value}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def timed(function):
    """The function's result and the CPU seconds of its fastest run."""
    spent = []
    for _ in range(_REPEATS.value):
        start = time.process_time()
        result = function()
        spent.append(time.process_time() - start)
    return result, min(spent)


if __name__ == "__main__":
    app.run(main)
