"""Time and memory of each step of the work, for categories of many pictures.

python -m benchmarks.cluster.long_lists --out runs/long --counts 10000,50000,200000

Makes a category of so many good training pictures, and a quarter as many test pictures, a tenth of
them defective (32 px each, all different; kept in OUT, about 1 KB a picture), and gives it to the
program with the smallest networks (configs/test.py, attention at 8 px alone, two steps). Each
command is a process of its own: prints its seconds, those of processors, and its peak memory, by
picture too. What was made and prepared before is not made again, so give another --out for another
try.
"""

import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from absl import app, flags
from PIL import Image

SIZE = 32
TEST, DEFECTIVE = 4, 10  # every so many: test pictures per good one, defective ones of those

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "folder for pictures, prepared data and runs", required=True)
flags.DEFINE_list("counts", ["10000"], "numbers of good training pictures")


def main(argv: Sequence[str]) -> None:
    """Print a Markdown table."""
    del argv
    print("| pictures | command | s | CPU s | CPU ms/picture | peak MiB | KiB/picture |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for count in map(int, FLAGS.counts):
        folder = pathlib.Path(FLAGS.out) / str(count)
        make(folder / "many", count)
        pictures = count + count // TEST
        for name, words in commands(folder):
            seconds, busy, peak = measured(words, folder / f"{name}.log")
            print(
                f"| {pictures:,} | {name} | {seconds:.1f} | {busy:.1f} "
                f"| {1e3 * busy / pictures:.2f} "
                f"| {peak / 2**20:.0f} | {peak / 2**10 / pictures:.2f} |",
                flush=True,
            )
        report = next(folder.glob("run/eval/*/report.html"))
        print(f"| {pictures:,} | report.html: {report.stat().st_size / 1e6:.1f} MB | | | | | |")


def make(folder: pathlib.Path, count: int) -> None:
    """A category in MVTec AD's layout; nothing where it is there."""
    if (folder / "done").exists():
        return
    rng = np.random.default_rng(count)
    ground = np.broadcast_to(np.linspace(60, 180, SIZE)[:, None, None], (SIZE, SIZE, 3))
    places = [f"train/good/{n:06}.png" for n in range(count)]
    for number in range(count // TEST):
        kind = "spot" if number % DEFECTIVE == 0 else "good"
        places.append(f"test/{kind}/{number:06}.png")
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = (ground + rng.integers(-20, 20, (1, SIZE, 3))).astype(np.uint8)
        if "/spot/" in place:
            picture[8:14, 8:14] = 255
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[8:14, 8:14] = 255
            masked = folder / "ground_truth/spot" / f"{path.stem}_mask.png"
            masked.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(masked)
        Image.fromarray(picture).save(path)
    (folder / "done").touch()


def commands(folder: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """What is measured, in order: a name, and the words of the command line."""
    data = [
        *("--config=test", "--config.data.category=many", f"--config.data.root={folder}"),
        *(f"--config.data.cache_dir={folder}/cache", "--config.train.steps=2"),
        *("--config.evaluate.batch_size=64", "--config.model.unet_multipliers=(1,1,1)"),
        "--config.model.attention_widths=()",
    ]
    run = [f"--workdir={folder}/run"]
    yield "check", ["--mode=check", *data]
    yield "prepare", ["--mode=prepare", *data]
    yield "prepare again", ["--mode=prepare", *data]
    yield "train 2 steps and evaluate", ["--mode=train", *data, *run]
    yield "start again", ["--mode=train", *data, *run]
    yield "evaluate", ["--mode=evaluate", *run]
    predict = [f"--input={folder}/many/test", f"--output={folder}/predicted", "--maps=none"]
    yield "predict", ["--mode=predict", *run, *predict]


def measured(words: list[str], log: pathlib.Path) -> tuple[float, float, int]:
    """Seconds, those of processors, and bytes of peak memory, of a process and its children.

    Raises:
      RuntimeError: it failed.
    """
    begun = time.monotonic()
    child = os.fork()
    if not child:
        with log.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        os.execv(sys.executable, [sys.executable, "-m", "diffad_jax.main", *words])
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} failed: see {log}")
    unit = 1 if sys.platform == "darwin" else 1024
    busy = usage.ru_utime + usage.ru_stime
    return time.monotonic() - begun, busy, usage.ru_maxrss * unit


if __name__ == "__main__":
    app.run(main)
