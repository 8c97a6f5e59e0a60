"""What a cache holds that is not used is named and removed; nothing else is."""

import json
import logging
import os

import numpy as np
import pytest

from diffad_jax.command_line import arguments
from diffad_jax.data_tools import prepare
from input_pipeline import cache, datasets, foreground
from input_pipeline.folders import contents
from tests.support import helpers, sets


@pytest.fixture
def root(tmp_path):
    """Categories nut and bolt, and textures."""
    for name in ("nut", "bolt"):
        sets.make(tmp_path / "data", "mvtec", name)
    sets.save(tmp_path / "stuff/1.png", sets.picture("stuff"))
    return tmp_path / "data"


def config(root, category, **changes):
    values = {
        "root": str(root),
        "category": category,
        "cache_dir": str(root.parent / "cache"),
        "textures": str(root.parent / "stuff"),
    } | changes
    return helpers.parsed(**{f"data__{key}": value for key, value in values.items()})


def filled(root):
    """Fill the cache: two states of nut, nut at another fit, bolt, textures, foregrounds."""
    used = {}
    for name in ("nut", "bolt"):
        data = config(root, name).data
        if name == "nut":
            prepare.run(config(root, name))
            foreground.foregrounds_for(datasets.load_category(data, 32), "auto", data.cache_dir)
            sets.save(root / "nut/train/good/new.png", sets.picture("new"))
            prepare.run(config(root, name, fit="pad"))
        prepare.run(config(root, name))
        category = datasets.load_category(data, 32)
        foreground.foregrounds_for(category, "auto", data.cache_dir)
        used[name] = [
            datasets.prepared_category(data, 32).path,
            str(foreground.path_of(category, data.cache_dir)),
        ]
    used["stuff"] = [datasets.prepared_textures(config(root, "nut").data, 32).path]
    return used


def everything(root):
    top = root.parent / "cache"
    return {str(p) for p in (*top.glob("anomaly_pictures/*-*/*"), *top.glob("foregrounds/*"))}


@pytest.mark.parametrize("which", ["nut", "bolt", "nut,bolt", "all"])
def test_what_is_not_used_is_removed(root, capsys, which):
    used, before = filled(root), everything(root)
    top = root.parent / "cache"
    others = [top / "notes.txt", top / "foregrounds/mine.npy", top / "anomaly_pictures/mine/1.0.0"]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("not ours")
    kept = {path for paths in used.values() for path in paths}
    stale = before - kept
    # nut's old state and its foregrounds; nut and the textures at another fit
    assert len(stale) == 4
    capsys.readouterr()
    prepare.run(config(root, which), prune=True)
    lines = capsys.readouterr().out.splitlines()
    gone = {path for path in stale if which != "bolt" or "/stuff-" in path}
    assert len(gone) == (1 if which == "bolt" else 4)
    assert before - everything(root) == gone and (top / "anomaly_pictures/.config").is_dir()
    removed = [line for line in lines if line.startswith("removed /")]
    assert len(removed) == len(gone) and all(line.endswith(" MB)") for line in removed)
    assert {line.split()[1] for line in removed} == gone
    assert f"holds {7 - 1 - len(gone) + (which != 'bolt')} prepared sets" in lines[-1]
    assert all(other.read_text() == "not ours" for other in others)
    prepare.run(config(root, which), prune=True)
    assert "removed 0.0 MB" in capsys.readouterr().out


def test_other_categories_go_with_all_only(root, capsys):
    used = filled(root)
    (root / "bolt").rename(root.parent / "bolt")
    prepare.run(config(root, "nut"), prune=True)
    assert set(used["bolt"]) <= everything(root)
    prepare.run(config(root, "all"), prune=True)
    assert everything(root) == {*used["nut"], *used["stuff"]}
    assert capsys.readouterr().out.count("removed /") == 6


def test_what_killed_processes_left_goes_when_it_is_old(root, capsys):
    prepare.run(config(root, "nut"))
    top = root.parent / "cache"
    state = next((top / "anomaly_pictures").glob("nut-*"))
    (top / "foregrounds").mkdir()
    left = [state / "4.0.0.incomplete.ABC_123", top / "foregrounds/.nut-1.partial.npy"]
    left[0].mkdir()
    left[1].write_bytes(b"half")
    prepare.run(config(root, "nut"), prune=True)
    assert all(path.exists() for path in left)  # somebody may be writing them
    for path in left:
        os.utime(path, (1, 1))
    prepare.run(config(root, "nut"), prune=True)
    assert not any(path.exists() for path in left) and list(state.iterdir())


def test_what_is_remembered_of_folders_that_are_gone_goes(root, monkeypatch, capsys):
    monkeypatch.setattr(contents, "_SETTLED", -(10.0**9))
    filled(root)
    memories = root.parent / "cache" / contents.MEMORY

    def remembered():
        return {json.loads(path.read_text())["folder"] for path in memories.iterdir()}

    assert str(root / "nut") in remembered()
    (root / "nut").rename(root.parent / "moved")
    (memories / "odd.json").write_text("[")
    prepare.run(config(root, "all"), prune=True)
    (memories / "odd.json").unlink()
    assert str(root / "nut") not in remembered() and str(root / "bolt") in remembered()


def test_names_that_look_alike_are_told_apart(root):
    """ä and ö both begin with _ in the cache."""
    for name in ("ä", "ö"):
        sets.make(root, "mvtec", name)
        sets.save(root / name / "train/good/new.png", sets.picture(name))
        prepare.run(config(root, name))
    other = datasets.prepared_category(config(root, "ö").data, 32).path
    sets.save(root / "ä/train/good/more.png", sets.picture("more"))
    prepare.run(config(root, "ä"), prune=True)
    assert other in everything(root) and len(everything(root)) == 3


def test_preparing_says_how_much_the_cache_holds(root, caplog):
    with caplog.at_level(logging.INFO):
        prepare.run(config(root, "nut"))
    assert "holds 2 prepared sets, " in caplog.text and "--mode prepare --prune" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        prepare.run(config(root, "nut"))
    assert "prepared sets" not in caplog.text


def test_sizes_are_those_of_the_files(tmp_path):
    (tmp_path / "foregrounds").mkdir()
    np.save(tmp_path / f"foregrounds/a-{1:016x}.npy", np.zeros(3 * 10**6, np.uint8))
    assert "holds 0 prepared sets, 3 MB" in cache.told(str(tmp_path))
    (path,) = cache.unused(str(tmp_path), [], None)
    assert cache.remove(path) == pytest.approx(3.0, abs=1e-3)


def test_the_flag_needs_no_value():
    line = ["diffad", "--mode", "prepare", "--config", "test", "--prune"]
    assert arguments.arguments(line)[-1] == "--prune"
    assert arguments.arguments([*line, "true"])[-1] == "--prune=true"
