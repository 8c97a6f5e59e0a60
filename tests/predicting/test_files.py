"""Which files are meant, and that none of ours ever takes the place of another."""

import os
import pathlib

import pytest

from configs.errors import UserError
from diffad_jax.predicting import files
from input_pipeline.folders import listing

MARKED = b"\x89PNG" + b"tEXtSoftware\0diffad_jax"


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


def found(pattern):
    return [source.name for source in files.find(pattern) if not source.left_out]


def left_out(pattern):
    return {source.name: source.left_out for source in files.find(pattern) if source.left_out}


@pytest.fixture
def closed(monkeypatch):
    """Folders of these names cannot be read, whoever asks (root may read all)."""

    def close(*names):
        scan = os.scandir

        def refuse(path="."):
            if os.path.basename(os.path.abspath(os.fspath(path))) in names:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return close


def test_a_folder_with_all_in_it_sorted(tree):
    root = tree("b/2.png", "b/10.JPG", "a.tiff", "c.txt", ".d.png", ".e/f.png", "b/g/h.webp", "i")
    assert found(root) == found(f"{root}/") == ["a.tiff", "b/10.JPG", "b/2.png", "b/g/h.webp"]
    assert next(s.path for s in files.find(root)) == root / "a.tiff"


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
    with pytest.raises(UserError, match=r"has '\.\.' after a wildcard"):
        found("../x*/../y/a.png")


@pytest.mark.parametrize("name", ["", "no", "no/*.png", "empty", "words", "words/*.txt"])
def test_nothing_to_read_is_an_error(tree, name):
    root = tree("words/a.txt", "empty/.hidden.png")
    with pytest.raises(UserError, match=r"no input|no such file|no pictures"):
        found(str(root / name) if name else "")


def test_what_was_written_is_not_read(tree):
    """By its mark, wherever it is: a folder of the user's may be called maps as well."""
    root = tree(
        "a.png", "maps/b.png", "out/maps/x/c.png.png", "out/overlays/x/c.png.png", "out/d.png"
    )
    everything = [
        "a.png",
        "maps/b.png",
        "out/d.png",
        "out/maps/x/c.png.png",
        "out/overlays/x/c.png.png",
    ]
    assert found(root) == everything
    for name in ("maps", "overlays"):
        (root / f"out/{name}/x/c.png.png").write_bytes(MARKED)
    (root / "out/maps/x/c.png.png").rename(root / "out/maps/x/c.png.npy")
    tree("out/maps/x/own.npy")
    ours = ["a.png", "maps/b.png", "out/d.png"]
    assert found(root) == found(f"{root}/**") == found(f"{root}/*") == ours
    assert left_out(root) == {"out/maps/x/own.npy": ".npy"}
    assert found(root / "out/overlays") == ["x/c.png.png"]  # where just these are asked for


OTHERS = (".heic", ".GIF", ".jp2", ".raw", ".avif", ".dng", ".svg")


@pytest.mark.parametrize("pattern", ["", "/*", "/**", "/**/*"])
def test_what_looks_like_a_picture_is_never_left_out_silently(tree, closed, pattern):
    names = [f"sub/x{ending}" for ending in OTHERS]
    root = tree("sub/a.png", *names, "b.png", "shut/c.png", "sub/deep/shut/d.png")
    closed("shut")
    assert found(f"{root}{pattern}") == ["b.png", "sub/a.png"]
    expected = {name: pathlib.Path(name).suffix.lower() for name in names}
    shut = dict.fromkeys(("shut/", "sub/deep/shut/"), listing.UNREADABLE)
    assert left_out(f"{root}{pattern}") == expected | shut
    problems = [source.problem for source in files.find(f"{root}{pattern}") if source.left_out]
    assert len(set(problems)) == len(expected) + 2
    assert all(problem.startswith(str(root)) and "\n" not in problem for problem in problems)
    assert left_out(f"{root}/*.png") == {}
    assert found(f"{root}/*/a.png") == ["sub/a.png"]
    assert left_out(f"{root}/*/a.png") == {"shut/": listing.UNREADABLE}  # it may hold one


@pytest.mark.parametrize("pattern", ["", "/*", "/**", "/**/*.png"])
def test_what_nobody_misses(tree, pattern):
    junk = (".DS_Store", "Thumbs.db", "._a.png", "notes.txt", "README", "model.pt", ".cache/x.png")
    folders = ("__MACOSX/a.png", "@eaDir/a.png/SYNO.png", "#recycle/b.png", "$RECYCLE.BIN/b.png")
    root = tree("a.png", *junk, *folders)
    assert found(f"{root}{pattern}") == ["a.png"] and left_out(f"{root}{pattern}") == {}


def test_only_other_formats_are_an_error_that_counts_them(tree):
    root = tree("a.heic", "b.heic", "c.gif", "notes.txt")
    with pytest.raises(UserError, match=r"no file in \.png .*; left out: 1 \.gif, 2 \.heic$"):
        files.find(root)


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
