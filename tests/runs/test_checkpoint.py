"""One checkpoint: on other devices, on a full disk, damaged in every file, of another structure."""

import gc
import json
import resource
import shutil

import jax
import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax.runs import checkpoint, checksums, sharding

# Of a checkpoint that cannot be written, orbax leaves coroutines behind that nobody waits for.
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


@pytest.fixture(scope="module")
def good(state, tmp_path_factory):
    """A folder with two checkpoints: of step 1, whose numbers are lower by 1, and of step 2."""
    place = tmp_path_factory.mktemp("good")
    with checkpoint.Checkpoints(place, keep=2) as checkpoints:
        checkpoints.save(1, jax.tree.map(lambda x: x - 1, state), {"is": 1})
        checkpoints.save(2, state, {"is": 2})
    return place


def target(state, devices=8):
    mesh = sharding.data_mesh(jax.devices()[:devices])
    return checkpoint.abstract(jax.eval_shape(lambda: state), sharding.replicated(mesh))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_a_checkpoint_of_eight_devices_is_read_on_one_and_two(state, good):
    for devices in (1, 2, 8):
        with checkpoint.Checkpoints(good, writer=False) as checkpoints:
            restored = checkpoints.restore(target(state, devices))
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)} == {devices}
        assert same(restored, state)


def test_a_checkpoint_comes_with_its_checksums_and_its_step_is_noted(good):
    for step in (1, 2):
        folder = good / f"checkpoints/{step}"
        files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        known = json.loads((folder / checksums.NAME).read_text())
        assert set(known) < files
        rest = {name.rpartition("/")[2] for name in files - set(known)}
        assert rest == {checksums.NAME, *checkpoint._LATER}
    assert json.loads((good / "saved.json").read_text()) == {"step": 2}


def test_a_step_is_noted_once_its_checkpoint_is_there(state, tmp_path, monkeypatch):
    """A process that is killed before has promised nothing."""
    noted, original = [], checkpoint.folder.note_saved

    def note(workdir, step):
        noted.append((step, (tmp_path / "checkpoints" / str(step)).is_dir()))
        original(workdir, step)

    monkeypatch.setattr(checkpoint.folder, "note_saved", note)
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state)
    assert noted == [(1, True), (2, True)]
    (tmp_path / "saved.json").unlink()  # the process was killed before it noted the second
    with checkpoint.Checkpoints(tmp_path, writer=False):
        pass
    assert not (tmp_path / "saved.json").exists()
    with checkpoint.Checkpoints(tmp_path):
        assert json.loads((tmp_path / "saved.json").read_text()) == {"step": 2}


@pytest.mark.parametrize("moment", ["metadata", "load"])
def test_what_a_store_does_not_let_be_read_is_one_line(state, good, monkeypatch, moment):
    """TensorStore tells it by a ValueError, as it does our own mistakes."""
    told = ValueError('PERMISSION_DENIED: Error reading "d/0"\nHTTP 403')

    def refuse(*_, **__):
        raise told

    monkeypatch.setattr(checkpoint.ocp.training.Checkpointer, moment, refuse)
    with checkpoint.Checkpoints(good, writer=False) as checkpoints:
        with pytest.raises(
            OSError, match=rf"^{good}/checkpoints/2 cannot be read \(V.*HTTP 403\)$"
        ):
            checkpoints.restore(target(state))
        told = ValueError("INVALID_ARGUMENT: ours")
        with pytest.raises(ValueError, match="ours"):
            checkpoints.restore(target(state))


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


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (TypeError("unexpected"), False),
        (ValueError("Unsupported leaf type"), False),
        (ValueError("INVALID_ARGUMENT: a shape"), False),
        (ValueError("RESOURCE_EXHAUSTED: Error writing: quota"), True),
        (PermissionError(13, "Permission denied"), True),
    ],
    ids=str,
)
def test_only_what_a_disk_refuses_is_called_so(state, tmp_path, monkeypatch, error, named):
    def refuse(*_, **__):
        raise error

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._checkpointer, "save_async", refuse)
        with pytest.raises(OSError if named else type(error)) as raised:
            checkpoints.save(1, state)
    assert (raised.value is not error) == named


def cut(content):
    return content[: len(content) // 2]


def zeroed(content):
    """As long as before, with a hole at its end."""
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [cut, zeroed, flipped, None], ids=lambda f: getattr(f, "__name__", "gone")
)
def test_damage_of_any_file_is_noticed_or_does_not_matter(state, good, tmp_path, damage):
    older = jax.tree.map(lambda x: x - 1, state)
    files = [p.relative_to(good) for p in (good / "checkpoints/2").rglob("*") if p.is_file()]
    noticed = set()
    for file in files:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(good, tmp_path / "run")
        broken = tmp_path / "run" / file
        broken.write_bytes(damage(broken.read_bytes())) if damage else broken.unlink()
        with checkpoint.Checkpoints(tmp_path / "run", writer=False) as checkpoints:
            seen = checkpoints.restore(target(state))
        assert (tmp_path / "run/checkpoints/2").is_dir()  # who only reads moves nothing
        with checkpoint.Checkpoints(tmp_path / "run", keep=2) as checkpoints:
            restored = checkpoints.restore(target(state))
            step = int(restored["step"])
            assert same(restored, state if step == 3 else older) and same(restored, seen)
            assert checkpoints.latest == step - 1
            assert checkpoints.notes(step - 1) == {"is": step - 1}
        aside = tmp_path / "run/checkpoints_damaged/2"
        assert aside.is_dir() == (step == 2)
        noticed |= {file.name} if step == 2 else set()
    # The arrays, their names, the notes and the checksums themselves.
    assert noticed >= {file.name for file in files} - {*checkpoint._LATER}


def test_another_structure_is_not_damage(state, tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    other = target(state) | {"w": jax.ShapeDtypeStruct((5,), np.float32)}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match=r"/1 is of another structure.* w is \(100000,\)"):
            checkpoints.restore(other)
    assert (tmp_path / "checkpoints/1").is_dir()
