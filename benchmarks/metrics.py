"""Time of all measures, exact, sketched and by scikit-learn; memory of the sketch.

python -m benchmarks.metrics

Prints one JSON line. Time: `--pictures` maps of `--size` px, three quarters of them with a mask;
smooth anomaly maps, 0 in their quiet parts and 1 in their loudest, as a trained network gives them.
Seconds are of the CPU, over all threads, the fastest of `--repeats`: exact_s and sketch_s of all
measures; pixels_s of our five pixel measures, exact; sklearn_s of scikit-learn's AUROC and AP of
the same pixels, the two of the five that it has. Memory: how much larger the peak of a process is
that takes in `--sketched` such maps (and half of them), 16 at a time, than that of one that takes
in 16.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
import scipy.ndimage
import sklearn.metrics
from absl import app, flags

from configs.schema import MEASURES
from diffad_jax.scoring import metrics, pixel_sketch, ranking

BATCH = 16


def main(_) -> None:
    """Measure and print."""
    given = flags.FLAGS
    if given.child:
        print(sketched_peak(given.child, given.size))
        return
    masks, maps = pictures(np.random.default_rng(0), given.pictures, given.size)
    result = {
        "pictures": f"{len(maps)} of {given.size} px, {masks.any((1, 2)).sum()} defective",
        "saturated": f"{(maps == 0).mean():.3f} at 0, {(maps == 1).mean():.3f} at 1",
        **times(masks, maps, given.repeats),
    }
    base, half = peak_of_child(BATCH, given.size), given.sketched // 2
    result["memory_growth_mib"] = {
        f"{count} maps": round(peak_of_child(count, given.size) - base, 1)
        for count in (half, given.sketched)
    }
    print(json.dumps(result))


def times(masks: np.ndarray, maps: np.ndarray, repeats: int) -> dict[str, float]:
    """Seconds of each way, and the largest difference between two of them."""
    labels, scores = masks.any((1, 2)), np.sort(maps.reshape(len(maps), -1))[:, -50:].mean(1)
    flat_masks, flat_maps = masks.ravel(), maps.ravel()

    def exact():
        return metrics.evaluate(labels, scores, masks, maps)

    def sketched():
        return metrics.of_images(labels, scores) | metrics.of_pixels(collect(masks, maps))

    def of_pixels():
        return metrics.of_pixels(ranking.rank_pixels(masks, maps))

    def theirs():
        return {
            "pixel_auroc": sklearn.metrics.roc_auc_score(flat_masks, flat_maps),
            "pixel_ap": sklearn.metrics.average_precision_score(flat_masks, flat_maps),
        }

    found, seconds = {}, {}
    for way in (exact, sketched, of_pixels, theirs):
        found[way], seconds[way] = timed(way, repeats)
    return {
        "exact_s": round(seconds[exact], 3),
        "sketch_s": round(seconds[sketched], 3),
        "pixels_s": round(seconds[of_pixels], 3),
        "sklearn_s": round(seconds[theirs], 3),
        "sklearn_over_ours": round(seconds[theirs] / seconds[of_pixels], 2),
        "difference_of_sketch": max(abs(found[exact][m] - found[sketched][m]) for m in MEASURES),
        "difference_of_sklearn": max(abs(found[exact][m] - v) for m, v in found[theirs].items()),
    }


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


def collect(masks: np.ndarray, maps: np.ndarray) -> ranking.Ranking:
    """The ranking from batches."""
    pixels = pixel_sketch.Pixels()
    for start in range(0, len(maps), BATCH):
        pixels.add(masks[start : start + BATCH], maps[start : start + BATCH])
    return pixels.ranking()


def sketched_peak(count: int, size: int) -> float:
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


def peak_of_child(count: int, size: int) -> float:
    """`sketched_peak` of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.metrics", f"--child={count}", f"--size={size}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def timed(function, repeats: int):
    """The function's result and the CPU seconds of its fastest run."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        spent.append(time.process_time() - start)
    return result, min(spent)


if __name__ == "__main__":
    flags.DEFINE_integer("pictures", 83, "Maps in the timed set.", lower_bound=2)
    flags.DEFINE_integer("size", 256, "Width and height of a map, px.", lower_bound=8)
    flags.DEFINE_integer("repeats", 3, "Runs; the fastest counts.", lower_bound=1)
    flags.DEFINE_integer("sketched", 10000, "Maps in the memory test.", lower_bound=10)
    flags.DEFINE_integer("child", 0, "Take in that many maps and print the peak memory.")
    app.run(main)
