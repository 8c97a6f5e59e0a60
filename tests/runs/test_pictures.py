"""What a run trains on and what it holds out: stored by content, used by everything later."""

import csv
import logging
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from diffad_jax import evaluate, train
from diffad_jax.runs import pictures
from input_pipeline import datasets
from tests import test_train
from tests.support import folders, sets
from tests.test_safety import toy_run
from tests.test_train import configured

toy = test_train.toy  # fixture


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with good pictures alone, data, and a run that was stopped after 3 of 7 steps."""
    root = tmp_path_factory.mktemp("stopped")
    for path in folders.category(root / "data", test=0).rglob("*.png"):
        Image.open(path).save(path, "BMP")  # any picture of this size has as many bytes
    toy_run(configured(root / "data", train__steps=3), root / "run")
    return root


@pytest.fixture
def data(stopped, tmp_path):
    return shutil.copytree(stopped / "data", tmp_path / "data")


@pytest.fixture
def begun(toy, data, stopped, tmp_path):
    """The test's own workdir, and the one picture that the run holds out."""
    (name,) = pictures.held_out(stopped / "run")
    return shutil.copytree(stopped / "run", tmp_path / "run"), name


def judged(workdir):
    with open(workdir / "eval/3/scores.csv") as file:
        return [row["name"] for row in csv.DictReader(file)]


def test_new_good_pictures_are_not_taken_for_held_out_ones(begun, data):
    """Nor does another data.holdout change what was trained on; a new name changes nothing."""
    work, name = begun
    for i in range(20):
        new = folders.part(np.random.default_rng(100 + i))
        folders.save(data / f"disc/train/good/{i:03}_new.png", new)
    evaluate.run(configured(data, data__holdout=0.5), work)
    assert judged(work) == [name]
    (data / "disc" / name).rename(data / "disc/train/good/renamed.png")
    evaluate.run(configured(data), work)
    assert judged(work) == ["train/good/renamed.png"]


@pytest.mark.parametrize("change", ["gone", "another"])
def test_without_the_held_out_pictures_an_evaluation_is_refused(begun, data, change):
    work, name = begun
    before = (work / "threshold.json").read_bytes()
    if change == "gone":
        (data / "disc" / name).unlink()
    else:
        folders.save(data / "disc" / name, folders.part(np.random.default_rng(7)))
    with pytest.raises(UserError, match=f"held out of training, .* gone or changed: {name}; put"):
        evaluate.run(configured(data), work)
    assert (work / "threshold.json").read_bytes() == before
    # Where good and defective test pictures give the threshold, they are not needed.
    shutil.copytree(labelled(data.parent / "more"), data / "disc", dirs_exist_ok=True)
    evaluate.run(configured(data), work)
    assert len(judged(work)) == 5
    # A share of false alarms is that of the held-out ones all the same.
    with pytest.raises(UserError, match=f"held out of training, .* gone or changed: {name}; put"):
        evaluate.run(configured(data, evaluate__threshold="false_alarms:0.01"), work)


def labelled(root):
    """A folder with the test pictures and masks alone."""
    folder = folders.category(root)
    shutil.rmtree(folder / "train")
    return folder


def test_training_goes_on_with_its_own_list(begun, data):
    """By today's folder, which has test pictures now, none would be held out."""
    work, name = begun
    shutil.copytree(labelled(data.parent / "more"), data / "disc", dirs_exist_ok=True)
    assert train.run(configured(data), work) is not None
    assert list(pictures.held_out(work)) == [name]


def test_a_run_without_a_list_holds_nothing_out(begun, data):
    """As one that was imported: what it was trained on is not known."""
    work, _ = begun
    (work / "pictures.json").unlink()
    with pytest.raises(UserError, match=r"held none out of training .*: nothing to evaluate"):
        evaluate.run(configured(data, data__holdout=0.3), work)


def test_what_was_trained_on_cannot_be_held_out_later(toy, data, tmp_path):
    assert train.run(configured(data, data__holdout=0.0), tmp_path / "run") is None
    with pytest.raises(UserError, match=r"held none out of training .*: nothing to evaluate"):
        evaluate.run(configured(data, data__holdout=0.1), tmp_path / "run")


@pytest.mark.parametrize("same_inode", [True, False])
def test_a_replaced_file_of_equal_size_and_time_is_refused(begun, data, same_inode):
    """As unzip, rsync -t and the layers of Docker leave it."""
    work, name = begun
    path = next(p for p in (data / "disc/train/good").iterdir() if p.name not in name)
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # of a pixel
    if not same_inode:
        path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(UserError, match=f"another file: train/good/{path.name}; put"):
        train.run(configured(data), work)


@pytest.mark.parametrize(
    ("test", "holdout", "told"),
    [
        (0, -1.0, "1 of 9 good pictures are held out of training"),
        (0, 0.5, "5 of 9 good pictures are held out of training"),
        (0, 0.0, "no threshold will be found"),
        (5, -1.0, ""),
    ],
)
def test_how_many_are_held_out_is_said_at_the_start(tmp_path, caplog, test, holdout, told):
    folders.category(tmp_path / "data", test=test)
    config = configured(tmp_path / "data", data__holdout=holdout)
    category = datasets.load_category(config.data, config.model.image_size)
    textures = datasets.load_textures(config.data, config.model.image_size)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        pictures.claim(tmp_path / "run", category, textures)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(told) and all(told in text for text in said)


def test_held_out_pictures_are_found_by_content(tmp_path):
    """Under another name, too; of two equal files the one of that name is meant."""
    good = sets.make(tmp_path / "data", "mvtec", "nut") / "train/good"
    first, second = (f"train/good/{stem}.png" for stem in sets.TRAIN[1::2])

    def held(kept, **changes):
        options = sets.options(tmp_path / "data", "nut", **changes)
        found = datasets.load_category(options, sets.SIZE, kept)
        assert len(found.train.names) + len(found.held_out.names) == len(list(good.iterdir()))
        return dict(zip(found.held_out.names, found.held_out.stamps, strict=True))

    every = held(None, holdout=0.99)
    kept = {name: held(None, holdout=0.5).get(name, every.get(name)) for name in (first, second)}
    assert held({}) == {} and list(held(kept)) == [first, second]
    shutil.copy(good / f"{sets.TRAIN[1]}.png", good / "a copy.png")  # sorted before it
    sets.save(good / "new.png", sets.picture("new"))
    assert list(held(kept)) == [first, second]
    (good / f"{sets.TRAIN[3]}.png").rename(good / "last.png")
    assert list(held(kept)) == [first, "train/good/last.png"]
    (good / "last.png").unlink()
    assert list(held(kept)) == [first]
