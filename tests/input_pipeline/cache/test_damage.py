"""A damaged cache: prepared again with one line, or refused by one line that names the folder."""

import errno
import logging
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.errors import UserError
from input_pipeline import builder, datasets, foreground, pipeline, sealed
from input_pipeline.folders import contents
from tests.support import sets

FILES = {
    "info": "dataset_info.json",
    "features": "features.json",
    "metadata": "metadata.json",
    "train": "anomaly_pictures-train.array_record-00000-of-00001",
    "test": "anomaly_pictures-test.array_record-00000-of-00001",
    "seal": sealed.SEAL,
}


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def zeroed(path):
    content = path.read_bytes()
    size = min(4096, len(content) // 2)
    path.write_bytes(content[:8] + bytes(size) + content[8 + size :])


def as_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "missing": pathlib.Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "flipped byte": flipped,
    "zeroed block": zeroed,
    "other bytes": lambda path: path.write_bytes(b"x" * path.stat().st_size),
    "a list": lambda path: path.write_text("[]"),
    "an empty object": lambda path: path.write_text("{}"),
    "a folder": as_folder,
}
SEALED = [(file, damage) for file in FILES for damage in DAMAGES]
# Without its seal, as `tfds build` leaves a set, what cannot be read is found.
UNSEALED = [
    (file, damage)
    for file in ("info", "features", "metadata", "train")
    for damage in ("missing", "empty", "truncated", "other bytes", "a list", "a folder")
] + [("train", "zeroed block")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A category and its cache, prepared once for all tests."""
    top = tmp_path_factory.mktemp("made")
    sets.make(top / "data", "mvtec", "nut")
    datasets.prepared_category(sets.options(top / "data", "nut"), sets.SIZE)
    return top


@pytest.fixture
def place(made, tmp_path):
    """(root, folder of the prepared set) of a copy."""
    shutil.copytree(made, tmp_path / "top")
    (folder,) = (tmp_path / "top/cache/anomaly_pictures").glob("nut-*/*")
    return tmp_path / "top/data", folder


def load(root, **changes):
    return datasets.load_category(sets.options(root, "nut", **changes), sets.SIZE)


def is_right(category):
    images = [sets.picture(stem) for stem in sets.TRAIN]
    np.testing.assert_array_equal(category.train.images[np.arange(4)], images)
    np.testing.assert_array_equal(category.test.images[1], sets.picture(sets.BAD))
    return category.test.masks[1].sum() == 35


def warnings(caplog):
    found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [text for text in found if "data.textures" not in text]


@pytest.mark.parametrize(
    ("seal", "file", "damage"),
    [(True, *one) for one in SEALED] + [(False, *one) for one in UNSEALED],
)
def test_a_damaged_set(place, caplog, seal, file, damage):
    """Prepared again where the pictures are; else one line. A damaged seal costs one reading."""
    root, folder = place
    if not seal:
        (folder / sealed.SEAL).unlink()
    DAMAGES[damage](folder / FILES[file])
    if file == "seal":
        # It cannot name what is wrong but by a wrong digest; then the set is made anew.
        assert is_right(load(root)) and len(warnings(caplog)) <= 1
        return
    with pytest.raises(UserError) as error:
        load(root, layout="prepared")
    text = str(error.value)
    assert text.startswith(f"the prepared pictures in {folder} are damaged (") and "\n" not in text
    assert text.endswith("remove the folder, and prepare them again where the pictures are")
    assert is_right(load(root))
    (line,) = warnings(caplog)
    assert str(folder) in line and line.endswith("preparing them again") and "\n" not in line
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert is_right(load(root)) and is_right(load(root, layout="prepared"))
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("what", ["a file", "an empty folder"])
def test_a_set_that_is_no_set(place, caplog, what):
    root, folder = place
    shutil.rmtree(folder)
    folder.write_text("x") if what == "a file" else folder.mkdir()
    assert is_right(load(root))
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error")],
)
@pytest.mark.parametrize("layout", ["auto", "prepared"])
def test_a_set_that_cannot_be_read_now_is_left_alone(place, monkeypatch, error, layout):
    root, folder = place
    read = contents.Known.stamp

    def refuse(self, file):
        if str(folder) in str(file):
            raise error
        return read(self, file)

    monkeypatch.setattr(contents.Known, "stamp", refuse)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match=f"{folder} cannot be read .{error.strerror}.: mend that"):
        load(root, layout=layout)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_failure_of_an_object_store_proves_nothing(place, monkeypatch):
    root, folder = place
    monkeypatch.setattr(sealed, "is_remote", lambda path: True)
    with monkeypatch.context() as patch:
        patch.setattr(tfds, "builder_from_directory", lambda path: 1 / 0)
        with pytest.raises(UserError, match=f"{folder} cannot be read"):
            load(root)
    assert is_right(load(root))
    # There, sizes tell; the store checks contents itself.
    DAMAGES["truncated"](folder / FILES["train"])
    with pytest.raises(UserError, match=r"bytes, .* were written"):
        load(root, layout="prepared")


def test_a_set_for_an_object_store_is_written_elsewhere_and_copied(place, monkeypatch):
    """The writer of shards knows no object stores."""
    root, folder = place
    shutil.rmtree(folder)
    seen = []
    real = builder.AnomalyPictures
    monkeypatch.setattr(builder, "is_remote", lambda path: True)
    monkeypatch.setattr(real, "__init__", _told(real.__init__, seen))
    assert is_right(load(root))
    assert {path.name for path in folder.iterdir()} >= set(FILES.values())
    assert seen and not any(str(folder).startswith(where) for where in seen)


def _told(method, seen):
    def init(self, *args, data_dir=None, **options):
        if options.get("config") is not None:
            seen.append(str(data_dir))
        method(self, *args, data_dir=data_dir, **options)

    return init


def test_a_set_without_seal_gets_one(place, caplog):
    """As `tfds build` leaves it; a folder that cannot be written stays without."""
    root, folder = place
    seal = (folder / sealed.SEAL).read_bytes()
    (folder / sealed.SEAL).unlink()
    assert is_right(load(root, layout="prepared"))
    assert (folder / sealed.SEAL).read_bytes() == seal and not warnings(caplog)


def test_a_damaged_set_that_cannot_be_removed_is_one_line(place, monkeypatch):
    root, folder = place
    DAMAGES["empty"](folder / FILES["train"])

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sealed, "delete", refuse)
    with pytest.raises(UserError, match=f"{folder} is damaged and cannot be removed .Permission"):
        load(root)


@pytest.mark.parametrize("damage", ["empty", "cut in the first picture", "zeroed", "other bytes"])
def test_damage_in_the_middle_of_training_is_one_line(place, damage):
    """Also where the reader of the pictures is a graph of TensorFlow."""
    root, folder = place
    data = sets.options(root, "nut", memory_gib=0.0, foreground="full")
    category, textures = load(root, memory_gib=0.0), datasets.load_textures(data, sets.SIZE)
    batches = pipeline.numpy_batches(category, textures, data, seed=0, batch_size=2, start_step=0)
    assert next(batches)["image"].shape == (2, sets.SIZE, sets.SIZE, 3)
    shard = folder / FILES["train"]
    content = shard.read_bytes()
    contents_of = {
        "empty": b"",
        "cut in the first picture": content[:2000],
        "zeroed": bytes(len(content)),
        "other bytes": b"x" * len(content),
    }
    shard.write_bytes(contents_of[damage])
    again = pipeline.numpy_batches(category, textures, data, seed=0, batch_size=2, start_step=0)
    for read in (lambda: category.train.images[np.arange(4)], lambda: [next(again) for _ in "ab"]):
        with pytest.raises(UserError) as error:
            read()
        text = str(error.value)
        assert text.startswith(f"the prepared pictures in {folder} cannot be read (")
        assert text.endswith("remove the folder to have them prepared again") and "\n" not in text


@pytest.mark.parametrize("memory_gib", [4.0, 0.0])
@pytest.mark.parametrize(
    "damage", [*DAMAGES, "another shape", "another type", "zeros of the right size", "none"]
)
def test_damaged_foregrounds_are_found_again(place, caplog, damage, memory_gib):
    root, _ = place
    category, cache = load(root, memory_gib=memory_gib), str(root.parent / "cache")
    found = np.array(foreground.foregrounds_for(category, "object", cache).computed)
    file = pathlib.Path(foreground.path_of(category, cache)) / "planes.npy"
    whole = file.read_bytes()
    if damage == "another shape":
        np.save(file, found[:2])
    elif damage == "another type":
        np.save(file, found.astype(np.float32))
    elif damage == "zeros of the right size":
        file.write_bytes(bytes(len(whole)))
    elif damage != "none":
        DAMAGES[damage](file)
    for expected in (0 if damage == "none" else 1, 0):
        caplog.clear()
        again = foreground.foregrounds_for(category, "object", cache).computed
        np.testing.assert_array_equal(again, found)
        assert len([text for text in warnings(caplog) if "foreground" in text]) == expected
    assert file.read_bytes() == whole
