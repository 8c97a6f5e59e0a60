"""Folders to arrays: listing, decoding, resizing, the cache, and every complaint."""

import concurrent.futures
import contextlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import default, schema
from configs.errors import UserError
from input_pipeline import builder, datasets
from input_pipeline.decoding import pictures
from input_pipeline.folders import layouts, scan
from input_pipeline.on_disk import Stored

SIZE = 32


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def noise(name, *shape):
    rng = np.random.default_rng(sum(name.encode()))
    return rng.integers(0, 256, shape, np.uint8)


@pytest.fixture
def root(tmp_path):
    """A category 'nut' with 5 training and 3 test pictures of 32 x 32 px."""
    nut = tmp_path / "data" / "nut"
    for i in range(5):
        save(nut / f"train/good/{i:03}.png", noise(f"train{i}", SIZE, SIZE, 3))
    save(nut / "test/good/000.PNG", noise("good", SIZE, SIZE, 3))
    for i in range(2):
        save(nut / f"test/scratch/{i:03}.png", noise(f"bad{i}", SIZE, SIZE, 3))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[4 + i : 9, 3:20] = 255
        save(nut / f"ground_truth/scratch/{i:03}_mask.png", mask)
    return tmp_path / "data"


def options(root, **changes):
    values = default.get_config().data.to_dict()
    values |= {"root": str(root), "category": "nut", "cache_dir": str(root.parent / "cache")}
    return schema.DataConfig(**values | changes)


def load(root, size=SIZE, **changes):
    return datasets.load_category(options(root, **changes), size)


def prepared(root):
    return sorted(p.name for p in (root.parent / "cache/anomaly_pictures").glob("nut-*"))


def test_loads_exactly_what_lies_on_disk(root, capsys):
    category = load(root)
    train, test = category.train, category.test
    assert train.names == [f"train/good/{i:03}.png" for i in range(5)]
    for i in range(5):
        np.testing.assert_array_equal(train.images[i], noise(f"train{i}", SIZE, SIZE, 3))
    assert train.masks is None and train.foregrounds is None and not train.labels.any()
    assert test.names == ["test/good/000.PNG", "test/scratch/000.png", "test/scratch/001.png"]
    assert test.defects == ["good", "scratch", "scratch"]
    assert test.labels.tolist() == [0, 1, 1] and test.has_mask.all()
    assert test.masks.sum((1, 2, 3)).tolist() == [0, 5 * 17, 4 * 17]
    assert test.masks[2, 5:9, 3:20].all()
    assert category.folder == str(root / "nut")
    assert capsys.readouterr().out == ""  # nothing about downloads


@pytest.mark.parametrize(
    ("category", "kind", "expected"),
    [
        ("nut", "auto", "object"),
        ("nut", "texture", "texture"),
        ("grid", "auto", "texture"),
        ("Class7", "auto", "texture"),
        ("Class70", "auto", "object"),
    ],
)
def test_kind(root, category, kind, expected):
    (root / "nut").rename(root / category)
    assert load(root, category=category, kind=kind).kind == expected


def test_order_does_not_depend_on_how_the_folder_lists_its_files(root, monkeypatch):
    folder = root / "nut"
    expected = scan.scan(folder, layouts.LAYOUTS["mvtec"])
    listed = os.scandir
    backwards = lambda path: contextlib.nullcontext(reversed(list(listed(path))))  # noqa: E731
    monkeypatch.setattr(os, "scandir", backwards)
    assert scan.scan(folder, layouts.LAYOUTS["mvtec"]) == expected


def test_passes_over_hidden_and_other_files(root):
    (root / "nut/train/good/._000.png").write_bytes(b"resource fork")
    (root / "nut/train/good/Thumbs.db").write_bytes(b"thumbnails")
    (root / "nut/test/readme.txt").write_text("notes")
    assert len(load(root).train.names) == 5


def test_missing_or_empty_test_split_is_an_empty_set(root):
    shutil.rmtree(root / "nut/test")
    test = load(root).test
    assert test.images.shape == (0, SIZE, SIZE, 3) and test.masks.shape == (0, SIZE, SIZE, 1)
    assert test.names == [] and test.labels.shape == (0,)


def test_pictures_are_held_out_where_no_defect_is_known(root):
    """None with known defects; else a tenth, and at least one; never all."""
    assert load(root).held_out.names == []
    category = load(root, holdout=0.5)
    assert category.held_out.names == [f"train/good/{i:03}.png" for i in (0, 2, 4)]
    assert category.train.names == [f"train/good/{i:03}.png" for i in (1, 3)]
    np.testing.assert_array_equal(category.held_out.images[1], noise("train2", SIZE, SIZE, 3))
    assert len(load(root, holdout=0.99).train.names) == 1
    shutil.rmtree(root / "nut/test/scratch")
    category = load(root)
    assert category.held_out.names == ["train/good/002.png"] and len(category.train.names) == 4
    assert len(load(root, holdout=0.0).train.names) == 5


@pytest.mark.parametrize("left", ["good", "scratch", ""])
def test_pictures_are_held_out_where_test_pictures_alone_give_no_threshold(root, left):
    """Only good ones, only defective ones, or none."""
    for kind in {"good", "scratch"} - {left}:
        shutil.rmtree(root / "nut/test" / kind)
    assert load(root).held_out.names == ["train/good/002.png"]


def test_foreground_files_are_read_where_they_exist(root):
    soft = noise("soft", SIZE, SIZE) // 128 * 255
    save(root / "nut/DISthresh/good/001.jpg", np.zeros((SIZE, SIZE), np.uint8))
    save(root / "nut/DISthresh/good/003.png", soft)
    train = load(root).train
    assert train.has_foreground.tolist() == [False, True, False, True, False]
    np.testing.assert_array_equal(train.foregrounds[3, ..., 0], soft)
    assert not train.foregrounds[1].any()


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_no_such_folder(root):
    with pytest.raises(UserError, match="no such folder") as error:
        load(root, category="bolt")
    assert one_line(error).endswith("data/bolt")


@pytest.mark.parametrize("exists", [True, False])
def test_no_good_pictures(root, exists):
    shutil.rmtree(root / "nut/train/good")
    if exists:
        (root / "nut/train/good").mkdir()
    with pytest.raises(UserError, match="no good pictures") as error:
        load(root)
    assert f"in {root}/nut: looked into train/good, " in one_line(error)


def test_missing_mask(root):
    (root / "nut/ground_truth/scratch/001_mask.png").unlink()
    with pytest.raises(UserError, match="has no mask") as error:
        load(root)
    assert "test/scratch/001.png" in one_line(error) and "001_mask.png" in str(error.value)
    test = load(root, missing_masks="ignore").test
    assert test.has_mask.tolist() == [True, True, False]
    assert test.labels.tolist() == [0, 1, 1] and not test.masks[2].any()


def test_mask_of_another_size(root):
    save(root / "nut/ground_truth/scratch/001_mask.png", np.ones((20, 30), np.uint8))
    with pytest.raises(UserError, match="30x20 px") as error:
        load(root)
    text = one_line(error)
    assert "32x32" in text and "scratch/001_mask.png" in text and "test/scratch/001.png" in text


@pytest.mark.parametrize("file", ["train/good/002.png", "test/scratch/001.png"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_file_is_named_and_leaves_no_cache(root, file, damage):
    path = root / "nut" / file
    whole = path.read_bytes()
    damaged = {"truncated": whole[: len(whole) // 2], "text": b"not a picture", "empty": b""}
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match="cannot be read as a picture") as error:
        load(root)
    assert one_line(error).startswith(str(path))
    path.write_bytes(whole)
    assert load(root).train.images.shape[0] == 5  # nothing half-made was taken for whole


def test_what_a_killed_preparation_leaves_is_not_read(root, monkeypatch):
    cache, snapshot = root.parent / "cache", root.parent / "snapshot"
    load_record = builder.load_record

    def killed(folder, record, *how):
        if record.picture == "test/scratch/001.png" and not snapshot.exists():
            shutil.copytree(cache, snapshot)  # the disk as SIGKILL leaves it at this moment
        return load_record(folder, record, *how)

    monkeypatch.setattr(builder, "load_record", killed)
    expected = load(root).train.images
    assert [p for p in snapshot.rglob("*") if "incomplete" in p.name]
    shutil.rmtree(cache)
    snapshot.rename(cache)
    category = load(root)
    np.testing.assert_array_equal(category.train.images, expected)
    assert len(category.test.names) == 3


def test_prepared_once_and_again_only_when_changed(root, monkeypatch):
    decoded = []
    decode = pictures.decode_rgb
    monkeypatch.setattr(
        builder, "decode_rgb", lambda path: decoded.append(path.name) or decode(path)
    )
    load(root)
    assert len(decoded) == 8
    load(root)
    assert len(decoded) == 8 and len(prepared(root)) == 1

    save(root / "nut/train/good/0005.png", noise("new", SIZE, SIZE, 3))
    assert load(root).train.names[5 - 4] == "train/good/0005.png"  # sorted: 000, 0005, 001
    assert len(prepared(root)) == 2

    path = root / "nut/train/good/000.png"
    before = path.stat()
    changed = np.full((SIZE, SIZE, 3), 7, np.uint8)
    save(path, changed)
    assert load(root).train.images[0].max() == 7

    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    load(root)
    assert len(prepared(root)) == 3  # it is the same picture

    (root / "nut/ground_truth/scratch/000_mask.png").write_bytes(
        (root / "nut/ground_truth/scratch/001_mask.png").read_bytes()
    )
    assert load(root).test.masks[1].sum() == 4 * 17


def test_each_size_and_resize_is_its_own(root):
    assert load(root, 16).train.images.shape == (5, 16, 16, 3)
    sharp, smooth = load(root, 16), load(root, 16, resize="antialias")
    assert not np.array_equal(sharp.train.images, smooth.train.images)
    assert len(prepared(root)) == 2


def test_two_folders_of_the_same_name_do_not_meet(root):
    other = root.with_name("other")
    shutil.copytree(root, other)  # keeps sizes and times
    save(other / "nut/train/good/000.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    assert load(root).train.images[0].any() and not load(other).train.images[0].any()


def test_nothing_is_written_into_the_source(root):
    def listing():
        return sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))

    folders = [root, *(p for p in root.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    before = listing()
    try:
        load(root)
        assert listing() == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_textures(tmp_path):
    folder = tmp_path / "images"
    for name in ("woven/b", "banded/z", "banded/a"):
        save(folder / f"{name}.jpg", noise(name, SIZE, SIZE, 3), quality=95)

    def load(path, **changes):
        return datasets.load_textures(options(folder, textures=str(path), **changes), SIZE)

    textures = load(folder)
    assert textures.names == ["banded/a.jpg", "banded/z.jpg", "woven/b.jpg"]
    assert not textures.procedural
    found = textures.images
    assert found.shape == (3, SIZE, SIZE, 3)
    order = [
        np.asarray(Image.open(folder / f"{n}.jpg")) for n in ("banded/a", "banded/z", "woven/b")
    ]
    np.testing.assert_array_equal(found, order)
    stored = load(folder, memory_gib=0.0).images
    assert isinstance(stored, Stored) and stored.shape == found.shape
    np.testing.assert_array_equal(stored[np.array([2, 0])], found[[2, 0]])
    procedural = load("")
    assert procedural.procedural and len(procedural.names) == len(procedural.images) == 64
    assert procedural.names[1] == "marble 1"
    assert len({procedural.fingerprint, textures.fingerprint}) == 2
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "none")


def test_parts_of_textures_are_found(root):
    """A texture's own thresh/, else carpet's; an object has none."""
    assert load(root, kind="texture").parts is None
    soft = noise("parts", 2, SIZE, SIZE) // 128 * 255
    for i in range(2):
        save(root / f"carpet/thresh/{i:03}.png", soft[i])
    assert load(root).parts is None
    category = load(root, kind="texture")
    np.testing.assert_array_equal(category.parts[..., 0], soft)
    assert len(category.train.names) == 5 and len(category.test.names) == 3
    save(root / "nut/thresh/000.png", soft[1])
    np.testing.assert_array_equal(load(root, kind="texture").parts[..., 0], soft[1:])


def test_what_does_not_fit_into_memory_stays_on_disk_and_is_the_same(root):
    save(root / "nut/DISthresh/good/002.png", noise("soft", SIZE, SIZE) // 128 * 255)
    whole, on_disk = load(root, holdout=0.4), load(root, holdout=0.4, memory_gib=0.0)
    for name in ("train", "test", "held_out"):
        memory, disk = getattr(whole, name), getattr(on_disk, name)
        images = disk.images
        assert isinstance(images, Stored) and isinstance(memory.images, np.ndarray)
        assert images.shape == memory.images.shape and len(images) == len(memory.images)
        assert images.dtype == memory.images.dtype
        index = np.random.default_rng(0).integers(0, len(images), 7)
        np.testing.assert_array_equal(images[index], memory.images[index])
        for other in (index[:0], index[0], 0, index.reshape(7, 1), slice(0, 1)):
            np.testing.assert_array_equal(images[other], memory.images[other], strict=True)
        for field in ("labels", "has_mask", "has_foreground", "masks", "defects", "names"):
            np.testing.assert_array_equal(getattr(disk, field), getattr(memory, field))
    has = whole.train.has_foreground
    assert has.tolist() == [False, True, False]
    np.testing.assert_array_equal(on_disk.train.foregrounds[has], whole.train.foregrounds[has])


def test_a_stored_set_is_read_by_many_threads_at_once(root):
    memory, disk = load(root).train.images, load(root, memory_gib=0.0).train.images
    draws = np.random.default_rng(0).integers(0, len(memory), (400, 3))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for index, read in zip(draws, pool.map(disk.__getitem__, draws), strict=True):
            np.testing.assert_array_equal(read, memory[index])
