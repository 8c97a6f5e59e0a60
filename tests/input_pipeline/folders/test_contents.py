"""Identity by content: what is noticed, what is accepted, and what is not read twice."""

import os
import pathlib
import shutil

import pytest

from configs.errors import UserError
from diffad_jax.data_tools import check
from input_pipeline import builder, datasets
from input_pipeline.folders import contents
from tests.support import helpers, sets


@pytest.fixture
def root(tmp_path):
    """A texture with test pictures, a mask, a foreground and a part."""
    folder = sets.make(tmp_path / "data", "mvtec", "nut")
    plane = sets.noise("plane", 32, 32) // 128 * 255
    sets.save(folder / f"DISthresh/good/{sets.TRAIN[1]}.png", plane)
    sets.save(folder / "thresh/1.png", plane)
    sets.save(tmp_path / "data/stuff/a/1.png", sets.picture("stuff"))
    return tmp_path / "data"


FILES = {
    "picture": f"nut/train/good/{sets.TRAIN[0]}.png",
    "test picture": f"nut/test/good/{sets.GOOD}.png",
    "mask": f"nut/ground_truth/große Delle/{sets.BAD}_mask.png",
    "foreground": f"nut/DISthresh/good/{sets.TRAIN[1]}.png",
    "part": "nut/thresh/1.png",
    "texture": "stuff/a/1.png",
}


def prints(root):
    """Of training pictures with parts, of test pictures, of textures: what a run is bound to."""
    cache = str(root.parent / "cache")
    found = builder.PicturesConfig(folder=str(root / "nut"), kind="texture", cache_dir=cache)
    stuff = builder.PicturesConfig(folder=str(root / "stuff"), layout="textures", cache_dir=cache)
    test = [record.stamp for record in found.records if record.split == "test"]
    train = [record.stamp for record in found.records if record.split != "test"]
    assert len(train) == 5 and len(test) == 2
    return train, test, [record.stamp for record in stuff.records]


@pytest.fixture
def settled(monkeypatch):
    """Files that were written just now are remembered too."""
    monkeypatch.setattr(contents, "_SETTLED", -(10.0**9))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("way", ["in place", "renamed over", "removed first"])
def test_another_file_of_equal_size_and_time_is_noticed(root, settled, kind, way):
    before, path = prints(root), root / FILES[kind]
    facts, content = path.stat(), bytearray(path.read_bytes())
    content[-5] ^= 1
    target = path if way == "in place" else path.with_name("other")
    target.write_bytes(content)
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    if way == "removed first":
        path.unlink()
    target.replace(path)
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    changed = [a != b for a, b in zip(before, prints(root), strict=True)]
    test, texture = kind in ("mask", "test picture"), kind == "texture"
    assert changed == [not test and not texture, test, texture]


def test_a_copy_at_other_times_is_the_same(root, tmp_path):
    before = prints(root)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*.png"):
        os.utime(path, (1, 1))
    assert prints(copy) == before


def test_only_what_changed_is_read_again(root, settled, monkeypatch):
    read = []
    digest = contents.hashlib.file_digest
    monkeypatch.setattr(
        contents.hashlib,
        "file_digest",
        lambda file, name: read.append(pathlib.Path(file.name).name) or digest(file, name),
    )

    def reading():
        read.clear()
        prints(root)
        return sorted(name for name in read if name.endswith(".png"))

    assert len(reading()) == 4 + 2 + len(FILES) - 2
    assert reading() == []
    sets.save(root / FILES["mask"], sets.mask() * 2)
    assert reading() == [f"{sets.BAD}_mask.png"]
    os.utime(root / FILES["picture"], (1, 1))
    assert reading() == [f"{sets.TRAIN[0]}.png"]


def test_what_was_written_just_now_is_read_again(root):
    """It may be written once more before the clock of the file system moves."""
    cache = str(root.parent / "cache")
    known = contents.Known(root, cache)
    known.stamps([root / FILES["picture"]])
    assert not list((root.parent / "cache").rglob("*.json"))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": [1]}}', b"\xff\xfe", "{", None]
)
def test_a_damaged_memory_is_no_error(root, settled, content):
    before = prints(root)
    memories = list((root.parent / "cache" / contents.MEMORY).iterdir())
    assert len(memories) >= 2
    for memory in memories:
        memory.unlink()
        if content is None:
            memory.mkdir()
        else:
            memory.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert prints(root) == before


@pytest.mark.parametrize("cache", ["", "gs://bucket/cache", "file"])
def test_without_a_memory_all_is_read(root, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    path = root / FILES["picture"]
    assert len(contents.Known(root, cache).stamps([path])[str(path)]) == 64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "file"]


def test_a_pipe_is_refused_and_not_waited_for(root):
    path = root / FILES["picture"]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"{path} cannot be read as a picture: it is no file"):
        prints(root)


@pytest.mark.parametrize("kind", [*FILES, "kind of defect", "category"])
def test_a_name_that_is_not_utf8_is_one_line(root, kind):
    odd = os.fsdecode(b"Gr\xf6\xdfe")  # as Windows in Western Europe writes it
    name = "nut"
    if kind == "kind of defect":
        for place in ("test", "ground_truth"):
            (root / f"nut/{place}/große Delle").rename(root / f"nut/{place}/{odd}")
    elif kind == "category":
        name = odd
        (root / "nut").rename(root / odd)
    else:
        renamed = {"mask": f"{odd}_mask.png"}.get(kind, f"{odd}.png")
        for file in [FILES[kind], *others(kind)]:
            path = root / file
            path.rename(path.with_name(renamed if file == FILES[kind] else f"{odd}.png"))
    data = sets.options(root, name, kind="texture", textures=str(root / "stuff"))
    with pytest.raises(UserError) as error:
        datasets.load_category(data, sets.SIZE)
        datasets.load_textures(data, sets.SIZE)
    text = str(error.value)
    assert r"Gr\xf6\xdfe" in text and "is not UTF-8: rename it" in text and "\n" not in text
    text.encode()
    if kind not in ("texture", "part"):
        config = helpers.parsed(data__root=str(root), data__category=name, train__batch_size=1)
        findings, summary = check.check_category(config, name)
        assert any("is not UTF-8" in str(finding) for finding in findings)
        "\n".join([*map(str, findings), summary]).encode()


def others(kind):
    """The files that have the same stem, so that they still belong together."""
    return {
        "mask": [f"nut/test/große Delle/{sets.BAD}.png"],
        "foreground": [f"nut/train/good/{sets.TRAIN[1]}.png"],
    }.get(kind, [])
