"""What people corrected is judged, finds the threshold anew, and is learnt from."""

import io
import json
import logging
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from configs import stored
from configs.errors import UserError
from diffad_jax import adapt, evaluate, train
from diffad_jax.runs import folder
from diffad_jax.scoring import threshold
from diffad_jax.serving.corrections import Corrections
from input_pipeline import datasets
from tests import test_safety, test_train
from tests.support import folders

data, toy, whole = test_train.data, test_train.toy, test_safety.whole  # fixtures


def told(station, seed, verdict, mask=None):
    """A person's word about a new picture of 32 px."""
    buffer = io.BytesIO()
    Image.fromarray(folders.part(np.random.default_rng(seed))).save(buffer, "png")
    row = {"width": 32, "height": 32, "score": 0.5, "threshold": 0.4, "error": None}
    part = types.SimpleNamespace(
        id=f"part-{seed}", name="x", data=buffer.getvalue(), row=row | {"verdict": "defective"}
    )
    return Corrections(station).add(part, verdict, mask, float(seed))


@pytest.fixture
def station(tmp_path):
    """Three good pictures and two defective ones, one of them marked."""
    place = tmp_path / "station"
    place.mkdir()
    for seed in (101, 102, 103):
        told(place, seed, "good")
    mask = np.zeros((32, 32), np.uint8)
    mask[4:9, 6:20] = 255
    told(place, 104, "defective", mask)
    told(place, 105, "defective")
    return place / "corrections.jsonl"


@pytest.fixture
def run(toy, whole, tmp_path):
    """A finished run of the test's own."""
    return shutil.copytree(whole[0], tmp_path / "run")


def test_corrections_are_judged_and_find_the_threshold_anew(run, data, station, caplog):
    config, before = test_train.configured(data), threshold.read(run)
    with caplog.at_level(logging.INFO):
        values = evaluate.run(config, run, str(station))
    assert "3 good and 2 defective pictures more to judge" in caplog.text
    assert "in 1 of them nobody marked the defect" in caplog.text and values["pixel_pictures"] == 9
    found = threshold.read(run)
    assert (before.pictures, found.pictures, values["corrections"]) == (5, 10, 5)
    rows = (run / "eval/7/scores.csv").read_text().splitlines()[1:]
    judged = [row for row in rows if "corrections/" in row]
    assert len(rows) == 10 and len(judged) == 5
    assert sum("corrected" in row for row in judged) == 2
    met = json.loads((run / "eval/7/metrics.json").read_text())["corrections_met"]
    assert met == values["corrections_met"] and 0 <= met <= 5
    # Withdrawn, one is gone; and without the file all is as before.
    Corrections(station.parent).withdraw(json.loads(station.read_text().splitlines()[4])["id"])
    assert "pixel_ap" in evaluate.run(config, run, str(station))
    evaluate.run(config, run)
    assert threshold.read(run) == before


def test_a_run_goes_on_with_corrections(run, data, station, tmp_path, caplog, monkeypatch):
    config, before = test_train.configured(data, train__steps=10), test_train.outcome(run)
    seen = []
    batches = test_train.toy_batches

    def watched(category, *rest, start_step, **options):
        seen.append((start_step, category.train.names, category.test.names))
        return batches(category, *rest, start_step=start_step, **options)

    monkeypatch.setattr(train.pipeline, "numpy_batches", watched)
    new = tmp_path / "new"
    adapt.run(config, run, new, str(station))
    ((start, trained, tested),) = seen
    corrected = [name for name in trained if name.startswith("corrections/")]
    assert start == 7 and len(trained) == 12 and len(corrected) == 3
    assert sum(name.startswith("corrections/") for name in tested) == 2 and len(tested) == 7
    lines = test_train.lines(new)
    assert lines[-1]["step"] == 10 and (new / "checkpoints/10").is_dir()
    assert stored.read(new)["data"]["corrections"] == str(new / "corrections.jsonl")
    assert test_train.outcome(run) == before  # the old run is only read

    # The station's folder may go; the same command goes on, here to nothing; and what is trained on
    # does not count as a test picture.
    station.rename(station.with_name("gone"))
    adapt.run(test_train.configured(data, train__steps=10), run, new, str(station))
    assert test_train.lines(new) == lines
    own = folder.read_config(new)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        evaluate.run(own, new, str(new / "corrections.jsonl"))
    assert "0 good and 0 defective pictures more to judge" in caplog.text


def test_a_tenth_more_where_nothing_is_asked_for(run, data, station, tmp_path):
    adapt.run(test_train.configured(data), run, tmp_path / "new", str(station))
    assert stored.read(tmp_path / "new")["train"]["steps"] == 8


def test_pictures_held_out_stay_so(toy, tmp_path, station):
    folders.category(tmp_path / "data", good=20, test=0)
    config = test_train.configured(tmp_path / "data", train__evaluate_every=0)
    train.run(config, tmp_path / "run")
    aside = json.loads((tmp_path / "run/pictures.json").read_text())["held_out"]
    adapt.run(config, tmp_path / "run", tmp_path / "new", str(station))
    now = json.loads((tmp_path / "new/pictures.json").read_text())
    assert len(aside) == 2 and now["held_out"] == aside and len(now["train"]) == 18 + 3


@pytest.mark.parametrize("name", ["none", "wrong name", "empty", "damaged", "a picture is gone"])
def test_unusable_corrections_are_one_line(run, data, station, tmp_path, name):
    config, file = test_train.configured(data), station
    if name == "none":
        file = tmp_path / "corrections.jsonl"
    elif name == "wrong name":
        file = station.rename(station.with_name("words.jsonl"))
    elif name == "empty":
        station.write_text("")
    elif name == "damaged":
        station.write_text(station.read_text() + "{}\n")
    else:
        next((station.parent / "corrections").glob("*.png")).unlink()
    expected = {
        "none": "no corrections: .* is no file called corrections.jsonl",
        "wrong name": "no corrections: .* is no file called corrections.jsonl",
        "empty": "holds no correction$",
        "damaged": "line 6 is no correction",
        "a picture is gone": "No such file or directory",
    }[name]
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError, match=expected):
        evaluate.run(config, run, str(file))
    with pytest.raises((UserError, OSError), match=expected):
        adapt.run(config, run, tmp_path / "new", str(file))
    assert sorted(run.rglob("*")) == before and not folder.has_checkpoint(tmp_path / "new")


def test_a_test_picture_that_is_trained_on_is_no_test_picture_any_more(data, station):
    known = (data / "disc/test/good/000.png").read_bytes()
    row = {"width": 32, "height": 32, "score": 0.5, "threshold": 0.4, "error": None}
    part = types.SimpleNamespace(id="p", name="x", data=known, row=row | {"verdict": "defective"})
    Corrections(station.parent).add(part, "good", None, 1.0)
    config = test_train.configured(data, data__corrections=str(station))
    found = datasets.load_category(config.data, config.model.image_size)
    assert len(found.train.names) == 13 and "test/good/000.png" not in found.test.names
    assert len(found.test.names) == 5 - 1 + 2


def test_what_does_not_fit_into_memory_is_said(data, station):
    config = test_train.configured(data, data__corrections=str(station), data__memory_gib=0.0)
    with pytest.raises(UserError, match=r"12 pictures with corrections do not fit into data\.mem"):
        datasets.load_category(config.data, config.model.image_size)
