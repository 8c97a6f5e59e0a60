"""Which files are meant, and that none of ours ever takes the place of another."""

import os
import pathlib

import pytest

from diffad_jax.predicting import files


@pytest.fixture
def tree(tmp_path):
    """Make files below a folder."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def found(pattern, output="nowhere"):
    return [source.name for source in files.find(pattern, output)]


def test_a_folder_with_all_in_it_sorted(tree):
    root = tree("b/2.png", "b/10.JPG", "a.tiff", "c.txt", ".d.png", ".e/f.png", "b/g/h.webp", "i")
    assert found(root) == found(f"{root}/") == ["a.tiff", "b/10.JPG", "b/2.png", "b/g/h.webp"]
    assert next(s.path for s in files.find(root, "x")) == root / "a.tiff"


def test_one_file_whatever_it_is_called(tree):
    root = tree("a/photo", "a/.b.png")
    assert found(root / "a/photo") == ["photo"] and found(root / "a/.b.png") == [".b.png"]


def test_patterns(tree, monkeypatch):
    root = tree(
        "x1/a.png", "x1/b.jpg", "x2/a.png", "x2/sub/c.png", "y/a.png", "x1/n.txt", "[1].png"
    )
    assert found(f"{root}/x*/a.png") == ["x1/a.png", "x2/a.png"]
    assert found(f"{root}/x?") == ["x1/a.png", "x1/b.jpg", "x2/a.png", "x2/sub/c.png"]
    assert found(f"{root}/**/*.png") == [
        *("[1].png", "x1/a.png", "x2/a.png", "x2/sub/c.png", "y/a.png")
    ]
    assert found(f"{root}/x2/**") == ["a.png", "sub/c.png"]
    assert found(f"{root}/[1].png") == ["[1].png"]  # a file of that name comes first
    monkeypatch.chdir(root / "x1")
    assert found("*.jpg") == ["b.jpg"]
    assert found("../x2/*.png") == ["a.png"] and found("..")[1] == "x1/a.png"
    with pytest.raises(ValueError, match=r"has '\.\.' after a wildcard"):
        found("../x*/../y/a.png")


@pytest.mark.parametrize("name", ["", "no", "no/*.png", "empty", "words", "words/*.txt"])
def test_nothing_to_read_is_an_error(tree, name):
    root = tree("words/a.txt", "empty/.hidden.png")
    with pytest.raises(ValueError, match=r"no input|no such file|no pictures"):
        found(str(root / name) if name else "")


def test_what_was_written_is_not_read(tree, tmp_path):
    root = tree("a.png", "out/maps/a.png.png", "out/overlays/a.png.png", "out/own.png")
    ours = ["a.png", "out/own.png"]
    theirs = ["a.png", "out/maps/a.png.png", "out/overlays/a.png.png", "out/own.png"]
    assert found(root, root / "out") == ours
    assert found(f"{root}/**", root / "out") == ours
    assert found(root, root / "other") == theirs  # folders that happen to be called so
    tree("out/predictions.jsonl.partial")  # of another run, that was killed
    assert found(root, root / "other") == ours
    tree("predictions.csv", "overlays/a.png.png")
    assert found(root, root) == ours
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(root / "out")
    (root / "out/predictions.jsonl.partial").unlink()
    assert found(root, link) == ours


def test_links_are_followed_once(tree):
    root = tree("a/b.png")
    (root / "a/loop").symlink_to(root)
    (root / "a/link.png").symlink_to(root / "a/b.png")
    (root / "a/broken.png").symlink_to(root / "none.png")
    # A broken link is listed as unreadable later.
    assert found(root) == ["a/b.png", "a/broken.png", "a/link.png"]


def test_no_two_files_of_ours_share_a_name():
    long = "a" * 240
    names = [
        *("a.png", "a.jpg", "a", "a.png.png", "b/a.png", "a.png/b", "a.png_/b", "a.png.png/b"),
        *("a.npy/b.png", f"{long}.png", f"{long}.jpg", f"x/{long}.png", f"{long}ü.png"),
    ]
    sources = [files.Source(name, pathlib.Path(name)) for name in names]
    written = [source.output(suffix) for source in sources for suffix in (".png", ".npy")]
    assert len(set(written)) == len(written)
    folders = {str(parent) for name in written for parent in pathlib.PurePath(name).parents}
    assert not folders & set(written)
    assert all(len(os.fsencode(part)) < 220 for name in written for part in name.split("/"))
    assert sources[0].output(".png") == "a.png.png"
    assert sources[4].output(".png") == "b/a.png.png"
