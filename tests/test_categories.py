"""Many categories side by side: failures alone, restarts, stops, what is done stays as it is."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from etils import epath
from rich.console import Console

from configs.errors import UserError
from diffad_jax import categories
from diffad_jax.runs import stopping
from tests import test_train
from tests.support import folders, helpers


@pytest.fixture
def data(tmp_path):
    """Three times the same pictures; in the last category one is broken."""
    for name in ("a", "b", "broken"):
        folders.category(tmp_path / "data").rename(tmp_path / "data" / name)
    (tmp_path / "data/broken/train/good/003.png").write_bytes(b"not a picture")
    return tmp_path / "data"


def supervise(data, work, **options):
    config = helpers.parsed(data__root=str(data), data__category="all", train__batch_size=8)
    program = [sys.executable, "-m", "tests.support.cluster_worker", "category", str(data)]
    return categories.run(config, work, ["--killed=b"], workers=2, program=program, **options)


def results(folder):
    """When each file of checkpoints and evaluations was written, and the lines of the log."""
    files = (path for name in ("checkpoints", "eval") for path in (folder / name).rglob("*"))
    return {path: path.stat().st_mtime_ns for path in files}, test_train.lines(folder)


@pytest.mark.long
def test_all_categories(data, tmp_path, monkeypatch):
    monkeypatch.setattr(categories, "devices", lambda: ("cpu", 1))
    monkeypatch.chdir(folders.REPOSITORY)
    work = tmp_path / "runs"

    # Told to stop while the first is training: it saves, nothing else is started.
    def stop():
        while not (work / "a/metrics.jsonl").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(stopping.Stopped, match=r"^3 of 3 categories; the same command continues"):
        supervise(data, work)
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (work / "broken").exists()  # two at a time
    steps = [int(p.name) for p in (work / "a/checkpoints").iterdir() if p.name.isdigit()]
    assert 0 < max(steps) < 40

    # One is broken, one gets killed; each leaves the others alone.
    with pytest.raises(UserError, match=r"^1 of 3 categories failed: broken \(.*broken/log\.txt"):
        supervise(data, work)
    assert "003.png cannot be read" in (work / "broken/log.txt").read_text()
    assert test_train.lines(work / "a") == test_train.lines(work / "b")
    assert test_train.lines(work / "a")[-1]["step"] == 40

    # Mended, that one is run; the others' runs find that they are done.
    (data / "broken/train/good/003.png").write_bytes((data / "a/train/good/003.png").read_bytes())
    before = results(work / "a"), results(work / "b")
    supervise(data, work)
    assert (results(work / "a"), results(work / "b")) == before
    scores = [
        json.loads((work / name / "eval/40/metrics.json").read_text())["image_auroc"]
        for name in ("a", "b", "broken")
    ]
    rows = (work / "comparison.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in rows if row.startswith("|")][2:5] == [
        *("a", "b", "broken")
    ]
    assert f"{100 * np.mean(scores):.1f}" in (work / "comparison.md").read_text()


def job(tmp_path, **changes):
    return categories.Job("a", epath.Path(tmp_path) / "a", tmp_path / "a/log.txt", **changes)


def test_a_process_that_is_killed_again_and_again_fails(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(categories, "devices", lambda: ("cpu", 1))
    monkeypatch.setattr(categories, "POLL_SECONDS", 0.02)
    config = helpers.parsed(data__root=str(data), data__category="a,b", train__batch_size=8)
    program = ["bash", "-c", "echo started; kill -9 $$"]
    with pytest.raises(UserError, match="2 of 2 categories failed"):
        categories.run(config, tmp_path / "runs", [], program=program)
    assert "b: ended with code -9: started" in caplog.text
    for name in ("a", "b"):
        assert (tmp_path / "runs" / name / "log.txt").read_text() == "started\n" * 3


KILLED_PARENT = """
import os, signal, subprocess, sys
late = "import time; time.sleep(2)" if sys.argv[2] == "before" else ""
tether = [sys.executable, "-c", late + sys.argv[1], str(os.getpid())]
child = subprocess.Popen([*tether, "sleep", "60"], stdout=sys.stderr, start_new_session=True)
print(child.pid, flush=True)
while not late and open(f"/proc/{child.pid}/comm").read() != "sleep\\n":
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ties them")
@pytest.mark.parametrize("when", ["before", "after"])  # the process is tied to its parent
def test_processes_end_with_a_killed_supervisor(when):
    command = [sys.executable, "-c", KILLED_PARENT, categories.TETHER, when]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == -signal.SIGKILL

    def lives():
        try:
            return " Z " not in pathlib.Path(f"/proc/{int(result.stdout)}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False

    waited = time.monotonic()
    while lives():
        assert time.monotonic() - waited < 30
        time.sleep(0.05)


def test_ctrl_c_is_passed_on_once_and_a_second_time_ends(data, tmp_path, monkeypatch):
    monkeypatch.setattr(categories, "devices", lambda: ("cpu", 1))
    monkeypatch.setattr(categories, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(stopping, "DOUBLE_SECONDS", 0.2)
    config = helpers.parsed(data__root=str(data), data__category="a,b", train__batch_size=8)
    # It counts what it is told, and goes on.
    program = ["bash", "-c", "trap 'echo told' TERM; echo started; while :; do sleep 0.05; done"]
    log = tmp_path / "runs/a/log.txt"

    def until(text):
        while not log.exists() or log.read_text() != text:
            time.sleep(0.02)
        time.sleep(0.3)  # longer than it would take to be told again
        assert log.read_text() == text

    def interrupt():
        until("started\n")
        os.kill(os.getpid(), signal.SIGINT)
        until("started\ntold\n")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        categories.run(config, tmp_path / "runs", [], program=program)
    thread.join()
    assert not (tmp_path / "runs/b").exists()


def test_names(data):
    def named(text):
        return categories.names(helpers.parsed(data__root=str(data), data__category=text))

    assert named("all") == ["a", "b", "broken"] and named("b, a") == ["b", "a"]
    with pytest.raises(UserError, match=r"no categories \['c'\] in .* found \['a', 'b'"):
        named("a,c")


def test_devices_are_counted_elsewhere():
    assert categories.devices() == ("cpu", int(os.environ.get("JAX_NUM_CPU_DEVICES", 1)))


def test_each_process_sees_one_device():
    assert categories.pinned("cpu", 1, {}) == {}
    assert categories.pinned("gpu", 1, {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    visible = {"CUDA_VISIBLE_DEVICES": "4,6"}
    assert categories.pinned("gpu", 1, visible) == {"CUDA_VISIBLE_DEVICES": "6"}
    both = [categories.pinned("tpu", slot, {}) for slot in (0, 1)]
    assert [one["TPU_VISIBLE_CHIPS"] for one in both] == ["0", "1"]
    assert both[0]["TPU_PROCESS_PORT"] != both[1]["TPU_PROCESS_PORT"]


def test_the_table_shows_how_all_stand(tmp_path):
    config = helpers.parsed(train__batch_size=8)
    rows = [
        {"kind": "train", "step": 10, "total_steps": 100, "loss": 0.5, "images_per_second": 2.0},
        {"kind": "eval", "step": 10, "total_steps": 100, "image_auroc": 0.875},
    ]
    folder = tmp_path / "a"
    folder.mkdir()
    damaged = ["\0" * 80, '{"kind": "train", "st', "[]", "3", '{"kind": "train", "step": 99}']
    lines = [damaged[0], *map(json.dumps, rows), *damaged[1:]]
    (folder / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    console = Console(file=io.StringIO(), width=100)
    console.print(categories.table([job(tmp_path, state="running")], config))
    text = console.file.getvalue()
    for cell in ("10/100", "0.5000", "2.0", "0:06:00", "0.875", "0 of 1 done"):
        assert cell in text, text
