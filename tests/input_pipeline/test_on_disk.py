"""Chunks, files that are whole or not there, and what identifies the pictures of a folder."""

import concurrent.futures
import shutil

import numpy as np
import pytest
from PIL import Image

from input_pipeline import datasets, on_disk
from input_pipeline.on_disk import chunks, replacing
from tests.support import sets


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_chunks_are_all_rows_in_order(count):
    found = list(chunks(count))
    assert np.concatenate([np.empty(0, int), *found]).tolist() == list(range(count))
    assert all(len(rows) == 64 for rows in found[:-1])
    assert [len(rows) for rows in chunks(5, 2)] == [2, 2, 1]


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "new folder" / ("a" * 200 + ".txt")
    for content in ("one", "two"):
        with replacing(path) as partial:
            assert partial.parent == path.parent and partial.suffix == ".txt"
            assert partial.name.startswith(".")  # a scan for pictures passes over it
            partial.write_text(content)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == content and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with replacing(tmp_path / "set") as partial:
        (partial / "deep").mkdir(parents=True)
        (partial / "deep/file").write_text("x")
        assert not (tmp_path / "set").exists()
    assert (tmp_path / "set/deep/file").read_text() == "x"
    with pytest.raises(OSError), replacing(tmp_path / "set") as partial:
        partial.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["set"] and (tmp_path / "set/deep").is_dir()


@pytest.mark.parametrize("folder", [True, False])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, folder):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file") as partial:
        if folder:
            partial.mkdir()
            (partial / "half").write_text("n")
        else:
            partial.write_text("n")
        raise KeyboardInterrupt
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_threads_do_not_share_a_partial_file(tmp_path):
    def write(content):
        with replacing(tmp_path / "file") as partial:
            partial.write_text(content * 100_000)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, "abcdefgh"))
    text = (tmp_path / "file").read_text()
    assert len(text) == 100_000 and len(set(text)) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def root(tmp_path):
    """A category with masks, one foreground, and a texture's parts."""
    root = tmp_path / "data"
    folder = sets.make(root, "mvtec", "nut")
    sets.save(
        folder / f"DISthresh/good/{sets.TRAIN[1]}.png", sets.noise("fore", 32, 32) // 128 * 255
    )
    sets.save(folder / "thresh/1.png", sets.noise("part", 32, 32) // 128 * 255)
    sets.save(root / "stuff/a/1.png", sets.picture("stuff"))
    return root


def load(root, **changes):
    data = sets.options(root, "nut", kind="texture", **changes)
    return datasets.load_category(data, sets.SIZE)


def prints(category):
    return category.train.fingerprint, category.test.fingerprint


def test_a_moved_folder_has_the_same_fingerprints_and_is_not_prepared_again(root):
    first, textures = (
        load(root),
        datasets.load_textures(sets.options(root, textures=str(root / "stuff")), sets.SIZE),
    )
    cache = root.parent / "cache/anomaly_pictures"
    prepared = sorted(p.name for p in cache.iterdir())
    moved = root.rename(root.parent / "elsewhere")
    again = load(moved)
    assert again.train.stamps == first.train.stamps and prints(again) == prints(first)
    assert prints(load(moved, layout="prepared")) == prints(first)
    data = sets.options(moved, textures=str(moved / "stuff"))
    assert datasets.load_textures(data, sets.SIZE).fingerprint == textures.fingerprint
    assert sorted(p.name for p in cache.iterdir()) == prepared
    copied = root.parent / "copied"
    shutil.copytree(moved, copied, copy_function=shutil.copyfile)  # at other times
    (copied / "nut").rename(copied / "bolt")
    data = sets.options(copied, "bolt", kind="texture")
    assert prints(datasets.load_category(data, sets.SIZE)) == prints(first)


def change(path):
    """One pixel."""
    pixels = np.array(Image.open(path))
    pixels.reshape(-1)[0] ^= 255
    sets.save(path, pixels)


def test_a_changed_file_changes_the_stamp_of_its_picture_alone(root):
    before = load(root)
    assert all(len(stamp) == 12 for stamp in before.train.stamps + before.test.stamps)
    nut = root / "nut"
    places = sets.PLACES["mvtec"]
    for file, split, row in (
        (places.train.format(sets.TRAIN[0]), "train", 0),
        (f"DISthresh/good/{sets.TRAIN[1]}.png", "train", 1),
        (places.mask.format(sets.BAD), "test", 1),
    ):
        change(nut / file)
        after = load(root)
        for name in ("train", "test"):
            one, other = getattr(before, name), getattr(after, name)
            changed = [a != b for a, b in zip(one.stamps, other.stamps, strict=True)]
            assert changed == [name == split and i == row for i in range(len(changed))]
            assert (one.fingerprint != other.fingerprint) == (name == split)
        before = after


def test_parts_a_new_picture_and_the_split_change_what_training_sees(root):
    before = load(root)
    change(root / "nut/thresh/1.png")
    after = load(root)
    assert after.train.stamps == before.train.stamps
    assert after.train.fingerprint != before.train.fingerprint
    assert after.test.fingerprint == before.test.fingerprint
    held = load(root, holdout=0.3)
    assert held.train.fingerprint != after.train.fingerprint
    (root / f"nut/train/good/{sets.TRAIN[2]}.png").unlink()
    fewer = load(root)
    assert fewer.train.fingerprint not in (held.train.fingerprint, after.train.fingerprint)


def test_mean_picture_and_spread_about_it(monkeypatch):
    images = np.random.default_rng(3).integers(0, 256, (9, 4, 5, 3), np.uint8)
    monkeypatch.setattr(on_disk.chunks, "__defaults__", (4,))
    mean, spread = on_disk.mean_and_spread(images)
    exact = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(spread, np.std(exact - exact.mean(0)), rtol=1e-6)
    assert (mean.dtype, spread.dtype) == (np.float32, np.float32)
    assert on_disk.mean_and_spread(images[:1])[1] == np.float32(1 / 255)  # all alike
