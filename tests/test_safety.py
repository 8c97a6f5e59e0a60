"""Never lose work: full disks, damaged and deleted checkpoints, two processes, other devices."""

import errno
import gc
import json
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from configs.errors import UserError
from diffad_jax import evaluate, train
from diffad_jax.runs import checkpoint, checksums, lock, logs, sharding
from diffad_jax.scoring import scorer
from input_pipeline import pipeline
from tests import test_train
from tests.support import folders
from tests.test_train import configured, outcome

data, toy = test_train.data, test_train.toy  # fixtures
# Of a checkpoint that it cannot read, orbax leaves coroutines behind that nobody waits for.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def leftovers():
    """Collected here, not in another module's tests."""
    yield
    gc.collect()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def halve(folder):
    """Cut the largest file of a checkpoint in two."""
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def toy_run(config, work):
    """A training of toy networks outside a test, whose folder tests copy."""
    with pytest.MonkeyPatch.context() as patch:
        test_train.make_toy(patch)
        patch.setattr(pipeline, "numpy_batches", test_train.toy_batches)
        train.run(config, work)
    return work


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run that nothing happens to: folder and outcome."""
    work = toy_run(configured(data), tmp_path_factory.mktemp("whole") / "run")
    return work, outcome(work)


def test_damaged_and_deleted_checkpoints_cost_only_time(toy, data, whole, tmp_path, caplog):
    work = tmp_path / "run"
    shutil.copytree(whole[0], work)
    halve(work / "checkpoints/7")
    with caplog.at_level(logging.WARNING):
        train.run(configured(data), work)
    assert re.search(
        rf"{work}/checkpoints/7 is damaged \(.* is not as it was written\)", caplog.text
    )
    assert outcome(work) == whole[1]
    assert (work / "checkpoints_damaged/7").is_dir()

    shutil.rmtree(work / "checkpoints/7")
    with caplog.at_level(logging.WARNING):
        train.run(configured(data), work)
    assert f"step 7 was saved in {work}, but it goes on from step 6" in caplog.text
    assert outcome(work) == whole[1]

    for step in (6, 7):
        halve(work / f"checkpoints/{step}")
    logged = (work / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole: tried \[6, 7\]"):
        train.run(configured(data), work)
    assert len(list((work / "checkpoints_damaged").iterdir())) == 3

    # It does not begin again by itself, and does when it is told to.
    refused = (
        f"step 7 was saved in {work}, but there is no checkpoint any more: .*{work}/saved.json"
    )
    for _ in range(2):
        with pytest.raises(UserError, match=refused):
            train.run(configured(data), work)
        shutil.rmtree(work / "checkpoints_damaged", ignore_errors=True)
    assert (work / "metrics.jsonl").read_bytes() == logged
    (work / "saved.json").unlink()
    train.run(configured(data), work)
    assert outcome(work) == whole[1]


@pytest.mark.parametrize("moment", ["checksums", "metadata", "load"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("gone")])
def test_a_failed_read_leaves_all_as_it_is(toy, data, whole, tmp_path, monkeypatch, moment, error):
    work = tmp_path / "run"
    shutil.copytree(whole[0], work)

    def refuse(*_, **__):
        raise error

    broken = {
        "checksums": (checksums, "_digest"),
        "metadata": (checkpoint.ocp.training.Checkpointer, "metadata"),
        "load": (checkpoint.ocp.training.Checkpointer, "load"),
    }
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(*broken[moment], refuse)
        for run in (train.run, evaluate.run):
            with pytest.raises(type(error), match=re.escape(str(error))):
                run(configured(data), work)
    after = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    changed = {path.name for path in before | after if before.get(path) != after.get(path)}
    assert changed <= {"run", "checkpoints"}  # the lock came and went
    assert outcome(work) == whole[1]


def test_a_damaged_line_of_the_log_is_left_out(toy, data, whole, tmp_path, caplog):
    work = tmp_path / "run"
    shutil.copytree(whole[0], work)
    rows = (work / "metrics.jsonl").read_bytes().splitlines()
    damaged = [b"\0" * len(rows[0]), *rows[1:], b'{"kind": "eval", "st', b"[]", b"\xff"]
    (work / "metrics.jsonl").write_bytes(b"\n".join(damaged))
    train.run(configured(data), work)
    assert "4 damaged lines are left out" in caplog.text
    assert test_train.lines(work) == whole[1][0][1:]


def test_a_rate_that_another_length_changes_is_told(toy, data, tmp_path, caplog):
    schedules = {
        "unet_optim__warmup_steps": 0,
        "unet_optim__schedule": "cosine",
        "segmentation_optim__schedule": "constant",
    }
    config = configured(data, train__steps=4, **schedules)
    train.run(config, tmp_path)
    train.run(config, tmp_path)
    assert "learning rate" not in caplog.text
    train.run(configured(data, train__steps=8, **schedules), tmp_path)
    rate = config.unet_optim.rate
    assert (
        f"unet_optim.schedule=cosine: of 8 steps instead of 4 the learning rate at step 4 is "
        f"{rate / 2:.3g} instead of 0" in caplog.text
    )
    assert "segmentation_optim.schedule" not in caplog.text


def test_checkpoints_deleted_under_a_run(toy, data, whole, tmp_path, monkeypatch):
    batches, work = pipeline.numpy_batches, tmp_path / "run"

    def deleting(*args, **kwargs):
        for step, batch in enumerate(batches(*args, **kwargs), 1):
            if step == 5:
                shutil.rmtree(work / "checkpoints")
            yield batch

    monkeypatch.setattr(pipeline, "numpy_batches", deleting)
    train.run(configured(data), work)
    assert outcome(work) == whole[1]


MACHINE = {"images_per_second": 1.0, "input_wait": 0.0}
WRITERS = {
    "metrics.jsonl": (type(epath.Path("x")), "write_bytes"),
    "tensorboard": (logs.EventsWriter, "write_event"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_full_while_logging(toy, data, whole, tmp_path, monkeypatch, name):
    batches, work = pipeline.numpy_batches, tmp_path / "run"

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:

        def filling(*args, **kwargs):
            for step, batch in enumerate(batches(*args, **kwargs), 1):
                if step == 5:
                    patch.setattr(*WRITERS[name], refuse)
                yield batch

        patch.setattr(pipeline, "numpy_batches", filling)
        with pytest.raises(OSError, match=rf"^{work}/{name} cannot be written: No space left on"):
            train.run(configured(data), work)
    train.run(configured(data), work)
    assert outcome(work) == whole[1]


HOLDER = """
import sys, time
from diffad_jax.runs import lock
with lock.Hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_processes_on_one_workdir(toy, data, whole, tmp_path):
    work = tmp_path / "run"
    work.mkdir()
    command = [sys.executable, "-c", HOLDER, str(work)]
    holder = subprocess.Popen(command, cwd=folders.REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by another process, {holder.pid} on host"):
            train.run(configured(data), work)
        assert holder.poll() is None and not (work / "checkpoints").exists()
    finally:
        holder.kill()  # leaves the file, but not the lock
        holder.wait()
        holder.stdout.close()
    assert (work / ".lock").exists()
    train.run(configured(data), work)
    assert outcome(work) == whole[1] and not (work / ".lock").exists()


@pytest.fixture()
def store(monkeypatch):
    """A folder stands in for an object store, and a second for a minute."""

    def whole_or_not_at_all(path, text):  # as an object store; a folder has it empty for a moment
        partial = pathlib.Path(f"{path}.partial")
        partial.write_text(text)
        partial.replace(path)

    monkeypatch.setattr(type(epath.Path()), "write_text", whole_or_not_at_all)
    monkeypatch.setattr(lock, "is_remote", lambda workdir: True)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "PATIENCE", 1.0)


def held_elsewhere(folder):
    hold = lock.Hold(folder)
    hold._me = hold._me | {"pid": 1, "host": "elsewhere"}
    return hold


def test_on_an_object_store_a_newcomer_is_refused(store, tmp_path):
    with held_elsewhere(tmp_path) as first:
        with pytest.raises(UserError, match="in use by another process, 1 on host elsewhere"):
            lock.Hold(tmp_path).__enter__()
        first.check()
    assert not list(tmp_path.iterdir())
    with lock.Hold(tmp_path) as second:  # at once
        second.check()


def test_on_an_object_store_the_lock_of_the_dead_gives_way(store, tmp_path, caplog):
    dead = held_elsewhere(tmp_path)
    with dead:
        dead._ended.set()  # no more signs of life
        with lock.Hold(tmp_path) as second:
            second.check()
            with pytest.raises(UserError, match=f"in use by another process, {os.getpid()} on"):
                dead.check()
        assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_reached_for_a_while_costs_no_lock(store, tmp_path, monkeypatch):
    refused, written = [], lock.Hold._write

    def write(hold, beat):
        if beat in (1, 2):
            refused.append(beat)
            raise OSError("503")
        written(hold, beat)

    monkeypatch.setattr(lock.Hold, "_write", write)
    with lock.Hold(tmp_path) as hold:
        while hold._holder().get("beat", 0) < 3:
            assert hold._thread.is_alive()
        hold.check()
    assert refused == [1, 2]


def test_on_an_object_store_the_board_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "is_remote", lambda folder: True)
    with logs.Log(tmp_path, 0, 2, 1) as log:
        log.train(1, {"loss": 1.0, "unet_rate": 0, "segmentation_rate": 0}, MACHINE)
        (file,) = (tmp_path / "tensorboard").iterdir()
        assert b"train/loss" in file.read_bytes()
        here = log._board._here.name
    assert not os.path.exists(here)


def test_the_best_on_the_test_split_is_kept_apart(toy, data, tmp_path, monkeypatch, caplog):
    original, values = evaluate.evaluate, {3: 0.5, 6: 0.9, 7: 0.7}

    def scored(model, *rest):
        return original(model, *rest) | {"pixel_ap": values[model.step]}

    monkeypatch.setattr(evaluate, "evaluate", scored)
    config = configured(data, train__keep_best="pixel_ap")
    for _ in range(2):  # again, as after a kill: nothing changes
        train.run(config, tmp_path)
        assert [p.name for p in (tmp_path / "checkpoints_best").iterdir()] == ["6"]
    mesh = sharding.data_mesh()
    last = scorer.restored(config, tmp_path, mesh)
    chosen = configured(data, evaluate__checkpoint="best")
    best = scorer.restored(chosen, tmp_path, mesh)
    assert (last.step, best.step) == (7, 6) and not same(last.variables, best.variables)
    with pytest.raises(UserError, match="holds no run"):
        scorer.restored(chosen, tmp_path / "x", mesh)

    # Another metric: what stands is compared by that one from now on.
    train.run(configured(data, train__keep_best="image_auroc"), tmp_path)
    assert "holds step 6, the best by pixel_ap until now: from here on the best by" in caplog.text
    # Damaged: the next evaluation is the best again.
    halve(tmp_path / "checkpoints_best/6")
    train.run(config, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints_best").iterdir()] == ["7"]


def test_a_profile_of_some_steps(toy, data, tmp_path):
    train.run(configured(data, train__profile_steps=(2, 3)), tmp_path)
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 <= row["input_wait"] <= 1 and row["images_per_second"] > 0
