"""A station under load: clients in a closed loop, beside its own runtime in batches.

python -m benchmarks.serve --bundle bottle_model --pictures photos [--seconds 60] [--clients 8]

It starts the station and asks it over HTTP, each client for its next picture when the last one is
judged. In the same run the bundle's `infer.py` judges the same files in batches of 8, half of its
time (as long as the clients have, a minute at most) before and half after, while the station rests;
the clients take their part of the same processors. Printed is a row for RESULTS.md: pictures/s of
both, P50 and P95 of a request, the station's memory at the start, in the middle and at the end, and
whether each score is to the last bit what `--mode predict` says of the file.
"""

import contextlib
import http.client
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from absl import app, flags
from PIL import Image

from diffad_jax.exporting import infer

HEAD = (
    "| clients | station, pictures/s | infer.py, pictures/s | ratio | P50, ms | P95, ms | judged | "
    "lost | memory, MB | scores |\n|---|---|---|---|---|---|---|---|---|---|"
)


class Load(NamedTuple):
    """What clients saw: seconds of each answer, scores by file, answers that were none."""

    seconds: list[float]
    scores: dict[str, set[float]]
    lost: int
    wall: float


@contextlib.contextmanager
def station(bundle: str, output: str) -> Iterator[tuple[int, str]]:
    """A station of its own process: its process id and its host and port."""
    command = [sys.executable, "-m", "diffad_jax.main", "--mode=serve", f"--model={bundle}"]
    command += ["--port=0", f"--output={output}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = next(filter(None, (re.search(r"http://(\S+)/\?", text) for text in process.stderr)))
    try:
        yield process.pid, found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def clients(place: str, files: dict[str, bytes], count: int, seconds: float) -> Load:
    """So many clients, each asking for one picture after another, for so long."""
    load = Load([], {name: set() for name in files}, 0, 0.0)
    begun, lost = time.perf_counter(), itertools.count()
    end = begun + seconds

    def ask(first: int) -> None:
        line = http.client.HTTPConnection(urlsplit(f"//{place}").netloc, timeout=60)
        names = itertools.cycle(files)
        for name in itertools.islice(names, first, None):
            start = time.perf_counter()
            if start >= end:
                break
            line.request(
                "POST", "/judge", files[name], {"Content-Type": "application/octet-stream"}
            )
            answer = line.getresponse()
            said = json.loads(answer.read())
            if answer.status != 200:
                next(lost)
                continue
            load.scores[name].add(said["parts"][0]["score"])
            load.seconds.append(time.perf_counter() - start)
        line.close()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load._replace(lost=next(lost), wall=time.perf_counter() - begun)


def batches(model: infer.Model, paths: Sequence[pathlib.Path], seconds: float) -> tuple[int, float]:
    """How many pictures the runtime judges from files in so long, 8 at a time; and how long."""
    begun, done = time.perf_counter(), 0
    for start in itertools.cycle(range(0, len(paths), 8)):
        done += len(model(list(paths[start : start + 8])))
        if time.perf_counter() - begun >= seconds:
            return done, time.perf_counter() - begun
    raise ValueError("no pictures")


def memory(process: int) -> float:
    """MB that a process holds."""
    pages = int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def predicted(bundle: str, pictures: pathlib.Path, output: pathlib.Path) -> dict[str, float]:
    """Scores of `--mode predict`, by file."""
    command = [sys.executable, "-m", "diffad_jax.main", "--mode=predict", f"--model={bundle}"]
    subprocess.run([*command, f"--input={pictures}", f"--output={output}"], check=True)
    lines = (output / "predictions.jsonl").read_text().splitlines()
    return {row["picture"]: row["score"] for row in map(json.loads, lines)}


def made(folder: pathlib.Path, count: int, size: int) -> pathlib.Path:
    """Pictures of soft noise, JPEG."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for n in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
        small.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{n:03}.jpg")
    return folder


def row(count: int, load: Load, alone: float, held: list[float], equal: bool) -> str:
    """Markdown."""
    speed = len(load.seconds) / load.wall
    median, high = 1e3 * np.percentile(load.seconds, [50, 95])
    told = " -> ".join(f"{held[at]:.0f}" for at in (0, len(held) // 2, -1))
    cells = [f"{count}", f"{speed:.1f}", f"{alone:.1f}", f"{speed / alone:.2f}", f"{median:.0f}"]
    cells += [f"{high:.0f}", f"{len(load.seconds):,}", f"{load.lost}", told]
    return f"| {' | '.join(cells)} | {'equal' if equal else 'DIFFERENT'} |"


def main(_: Sequence[str]) -> None:
    """Measure, print."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the station is ended, too
    given = flags.FLAGS
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        pictures = pathlib.Path(given.pictures or made(place / "in", 64, given.size))
        expected = predicted(given.bundle, pictures, place / "out")
        paths = [pictures / name for name in expected]
        files = {name: (pictures / name).read_bytes() for name in expected}
        model = infer.Model(given.bundle)
        batches(model, paths, 1.0)
        with station(given.bundle, f"{place}/station") as (process, address):
            clients(address, files, given.clients, 2.0)
            half = min(given.seconds, 60) / 2
            halves = [batches(model, paths, half)]
            held, over = [memory(process)], threading.Event()

            def look() -> None:
                while not over.wait(1.0):
                    held.append(memory(process))

            looking = threading.Thread(target=look)
            looking.start()
            load = clients(address, files, given.clients, given.seconds)
            over.set()
            looking.join()
            halves.append(batches(model, paths, half))
        alone = sum(count for count, _ in halves) / sum(seconds for _, seconds in halves)
        equal = all(found <= {expected[name]} for name, found in load.scores.items())
        print(HEAD, row(given.clients, load, alone, held, equal), sep="\n")


if __name__ == "__main__":
    flags.DEFINE_string("bundle", None, "what --mode export wrote", required=True)
    flags.DEFINE_string("pictures", None, "a folder; default: 64 made ones")
    flags.DEFINE_integer("size", 512, "px of made ones")
    flags.DEFINE_integer("clients", 8, "in a closed loop")
    flags.DEFINE_float("seconds", 60.0, "for the clients")
    app.run(main)
