"""Never lose work: full disks, damaged and deleted checkpoints, two processes, other devices."""

import errno
import gc
import json
import logging
import os
import resource
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from diffad_jax import evaluate, train
from diffad_jax.runs import checkpoint, lock, logs, sharding
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


@pytest.fixture(scope="module")
def state():
    """A state larger than the limits below, over all devices."""
    rng = np.random.default_rng(0)
    tree = {"step": np.int32(3), "w": rng.standard_normal(100_000).astype(np.float32)}
    return jax.device_put(tree, sharding.replicated(sharding.data_mesh()))


def target(state, devices=8):
    mesh = sharding.data_mesh(jax.devices()[:devices])
    return checkpoint.abstract(jax.eval_shape(lambda: state), sharding.replicated(mesh))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_a_checkpoint_of_eight_devices_is_read_on_one_and_two(state, tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
    for devices in (1, 2, 8):
        with checkpoint.Checkpoints(tmp_path, writer=False) as checkpoints:
            restored = checkpoints.restore(target(state, devices))
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)} == {devices}
        assert same(restored, state)


def test_a_disk_full_while_saving(state, tmp_path, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=rf"^{tmp_path}/checkpoints: a checkpoint cannot be") as told:
        with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
            checkpoints.save(1, state, {"a": 1})
            checkpoints._checkpointer.wait()
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
                checkpoints.save(2, state, {"a": 2})
                checkpoints.save(3, state, {"a": 3})  # tells of the one before
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value) and "File too large" in str(told.value)
    assert not [record for record in caplog.records if record.exc_info]
    with checkpoint.Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.latest == 1 and checkpoints.notes(1) == {"a": 1}
        assert same(checkpoints.restore(target(state)), state)
        checkpoints.save(2, state, {"a": 2})
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_every_half_written_file_is_noticed_or_does_not_matter(state, tmp_path):
    older = jax.tree.map(lambda x: x - 1, state)
    with checkpoint.Checkpoints(tmp_path / "good", keep=2) as checkpoints:
        checkpoints.save(1, older, {"is": 1})
        checkpoints.save(2, state, {"is": 2})
    files = [p for p in (tmp_path / "good/checkpoints/2").rglob("*") if p.is_file()]
    fallbacks = 0
    for file in files:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "run")
        broken = tmp_path / "run" / file.relative_to(tmp_path / "good")
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
        with checkpoint.Checkpoints(tmp_path / "run", writer=False) as checkpoints:
            seen = checkpoints.restore(target(state))
        assert (tmp_path / "run/checkpoints/2").is_dir()  # who only reads moves nothing
        with checkpoint.Checkpoints(tmp_path / "run", keep=2) as checkpoints:
            restored = checkpoints.restore(target(state))
            step = int(restored["step"])
            assert same(restored, state if step == 3 else older) and same(restored, seen)
            assert checkpoints.latest == step - 1 and checkpoints.notes(step - 1) == {
                "is": step - 1
            }
        aside = tmp_path / "run/checkpoints_damaged/2"
        assert aside.is_dir() == (step == 2)
        fallbacks += step == 2
    assert 5 <= fallbacks < len(files)


def test_another_structure_is_not_damage(state, tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    other = target(state) | {"w": jax.ShapeDtypeStruct((5,), np.float32)}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"/1 is of another structure.* w is \(100000,\)"):
            checkpoints.restore(other)
    assert (tmp_path / "checkpoints/1").is_dir()


def halve(folder):
    """Cut the largest file of a checkpoint in two."""
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run that nothing happens to: folder and outcome."""
    work = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        test_train.make_toy(patch)
        patch.setattr(pipeline, "numpy_batches", test_train.toy_batches)
        train.run(configured(data), work)
    return work, outcome(work)


def test_damaged_and_deleted_checkpoints_cost_only_time(toy, data, whole, tmp_path, caplog):
    work = tmp_path / "run"
    shutil.copytree(whole[0], work)
    halve(work / "checkpoints/7")
    with caplog.at_level(logging.WARNING):
        train.run(configured(data), work)
    assert f"{work}/checkpoints/7 cannot be read, trying the one before it" in caplog.text
    assert outcome(work) == whole[1]
    assert (work / "checkpoints_damaged/7").is_dir()

    shutil.rmtree(work / "checkpoints/7")
    train.run(configured(data), work)
    assert outcome(work) == whole[1]

    for step in (6, 7):
        halve(work / f"checkpoints/{step}")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: tried \[6, 7\]"):
        train.run(configured(data), work)
    assert len(list((work / "checkpoints_damaged").iterdir())) == 3


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
        with pytest.raises(ValueError, match=f"in use by another process, {holder.pid} on host"):
            train.run(configured(data), work)
        assert holder.poll() is None and not (work / "checkpoints").exists()
    finally:
        holder.kill()  # leaves the file, but not the lock
        holder.wait()
        holder.stdout.close()
    assert (work / ".lock").exists()
    train.run(configured(data), work)
    assert outcome(work) == whole[1] and not (work / ".lock").exists()


def test_on_an_object_store_the_newcomer_takes_over(data, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "is_remote", lambda workdir: True)
    first, second = (lock.Hold(tmp_path) for _ in range(2))
    with first:
        first.check()
        second._me = first._me | {"pid": 1, "host": "elsewhere"}
        with second:
            second.check()
            with pytest.raises(ValueError, match="in use by another process, 1 on host elsewhere"):
                first.check()


def test_the_best_on_the_test_split_is_kept_apart(toy, data, tmp_path, monkeypatch):
    original, values = evaluate.evaluate, {3: 0.5, 6: 0.9, 7: 0.7}

    def scored(model, category, workdir):
        return original(model, category, workdir) | {"pixel_ap": values[model.step]}

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
    with pytest.raises(ValueError, match="holds no run"):
        scorer.restored(chosen, tmp_path / "x", mesh)


def test_a_profile_of_some_steps(toy, data, tmp_path):
    train.run(configured(data, train__profile_steps=(2, 3)), tmp_path)
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 <= row["input_wait"] <= 1 and row["images_per_second"] > 0
