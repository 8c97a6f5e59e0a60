"""Thresholds, the large test set, and what an evaluation writes."""

import csv
import dataclasses
import json
import logging

import jax
import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax import evaluate, train
from diffad_jax.runs import folder
from diffad_jax.scoring import metrics, threshold
from input_pipeline.datasets import Category
from input_pipeline.on_disk import Pictures, chunks
from tests.support import folders, helpers
from tests.support.judged import pictures_of, stored, toy_scorer, with_images


def run(workdir, test, held_out=(), **changes):
    """`evaluate.evaluate` with the toy network."""
    config = helpers.parsed(evaluate__batch_size=3, **changes)
    test = test if isinstance(test, Pictures) else pictures_of(test)
    held_out = pictures_of(held_out, seed=7, masks=False)
    whole = Category(test, test, held_out, "object", "disc")
    return evaluate.evaluate(toy_scorer(config), whole, workdir)


def written(workdir):
    values = json.loads((workdir / "eval/7/metrics.json").read_text())
    with open(workdir / "eval/7/scores.csv") as file:
        return values, list(csv.DictReader(file))


def test_a_large_set_gives_what_a_small_one_gives(tmp_path, monkeypatch):
    labels = np.arange(11) % 3 % 2
    pictures = pictures_of(labels)
    pictures.masks[2, 0, 0] = 1  # of a good picture: a second region
    monkeypatch.setattr(chunks, "__defaults__", (4,))
    small = run(tmp_path / "small", pictures)
    judged = []
    write = evaluate.write
    monkeypatch.setattr(evaluate, "write", lambda *all: judged.append(all[1].judged) or write(*all))
    on_disk = with_images(pictures, stored(pictures.images))
    large = run(tmp_path / "large", on_disk, evaluate__exact_pictures=10)
    for field in ("maps", "images", "reconstructions"):
        assert isinstance(getattr(judged[0], field), np.memmap), field
    assert large.keys() == small.keys()
    for name, value in large.items():
        assert value == pytest.approx(small[name], abs=1e-6), name
    for name in ("scores.csv", "grid.png"):
        a, b = (tmp_path / kind / "eval/7" / name for kind in ("small", "large"))
        assert a.read_bytes() == b.read_bytes(), name


def test_labelled_pictures_give_the_threshold_of_the_best_f1(tmp_path):
    values = run(tmp_path, np.arange(9) % 2)
    found = threshold.read(tmp_path)
    assert (found.source, found.pictures, found.identity.step) == ("f1", 9, 7)
    assert found.image == values["image_f1_threshold"] == values["threshold_image"]
    assert found.pixel == values["pixel_f1_threshold"] == values["threshold_pixel"]
    kept, rows = written(tmp_path)
    assert kept.pop("identity") == found.identity.to_dict()
    assert kept == values
    good = [row["verdict"] == "defective" for row in rows if row["label"] == "0"]
    assert np.mean(good) == found.false_alarm_rate == values["threshold_false_alarm_rate"]
    bad = [row["verdict"] == "defective" for row in rows if row["label"] == "1"]
    assert np.mean(bad) == found.recall == values["threshold_recall"]
    for row in rows:
        score, sure = float(row["score"]), float(row["confidence"])
        assert row["verdict"] == ("good", "defective")[score >= found.image]
        assert sure == pytest.approx(1 / (1 + (found.image / score) ** found.slope))
        assert (sure >= 0.5) == (score >= found.image)


def test_without_masks_the_pixel_threshold_is_a_share_of_good_pictures(tmp_path):
    pictures = dataclasses.replace(pictures_of(np.arange(9) % 2), has_mask=np.zeros(9, bool))
    values = run(tmp_path, pictures, evaluate__threshold="false_alarms:0.2")
    assert "pixel_auroc" not in values and values["threshold_image"] > 0
    red, green = (pictures.images[::2, ..., c].astype(float) / 255 for c in (0, 1))
    peaks = np.sort(1 / (1 + np.exp(4 - 8 * (red - green).max((1, 2)))))
    # 5 good pictures, of which one may be called defective.
    assert values["threshold_pixel"] == pytest.approx((peaks[-2] + peaks[-1]) / 2, abs=1e-6)


@pytest.mark.parametrize("exact", [100, 5])
def test_pixel_measures_leave_out_defective_pictures_without_a_mask(tmp_path, monkeypatch, exact):
    monkeypatch.setattr(chunks, "__defaults__", (4,))
    pictures = pictures_of(np.arange(11) % 3 % 2)
    defective = np.flatnonzero(pictures.labels)
    pictures.has_mask[defective[1]] = False
    pictures.masks[defective[1]] = 1  # what nobody marked, nobody reads
    values = run(tmp_path / "some", pictures, evaluate__exact_pictures=exact)
    marked = pictures.picked([row for row in range(11) if row != defective[1]])
    expected = run(tmp_path / "marked", marked)
    names = (*metrics.PIXEL_MEASURES, "pixel_f1_threshold", "threshold_pixel", "pixel_pictures")
    for name in names:
        assert values[name] == pytest.approx(expected[name], abs=1e-6), name
    assert values["pixel_pictures"] == 10 and values["threshold_pictures"] == 11
    report = (tmp_path / "some/eval/7/report.html").read_text()
    assert "1 defective without a mask: pixel-level measures leave them out." in report


def test_a_recall_that_was_asked_for(tmp_path):
    values = run(tmp_path, np.arange(9) % 2, [0] * 5, evaluate__threshold="recall:0.7")
    found, (_, rows) = threshold.read(tmp_path), written(tmp_path)
    assert (found.source, found.pictures) == ("recall:0.7", 4)
    called = [row["verdict"] == "defective" for row in rows if row["label"] == "1"]
    assert sum(called) == 3 and found.recall == values["threshold_recall"] == 0.75
    assert found.recall_interval == threshold.interval(3, 4)
    assert found.pixel == values["pixel_f1_threshold"]


def test_false_alarms_that_were_asked_for_are_those_of_held_out_pictures(tmp_path):
    """Though the test pictures are labelled."""
    values = run(tmp_path, np.arange(9) % 2, [0] * 20, evaluate__threshold="false_alarms:0.1")
    found = threshold.read(tmp_path)
    assert (found.source, found.pictures) == ("false_alarms:0.1", 20)
    assert found.image != values["image_f1_threshold"]
    assert found.pixel == values["pixel_f1_threshold"]
    alone = run(tmp_path, np.arange(9) % 2, evaluate__threshold="false_alarms:0.1")
    assert alone["threshold_pictures"] == 5


def test_a_recall_needs_defective_pictures():
    config = helpers.parsed(evaluate__threshold="recall:0.9")
    test, train = pictures_of([0] * 3), pictures_of([0] * 3)
    category = Category(train, test, pictures_of([]), "object", "disc")
    told = r"^evaluate\.threshold=recall:0\.9, but disc has no defective test pictures: use f1 or "
    with pytest.raises(UserError, match=told):
        evaluate.check(config, category)
    evaluate.check(helpers.parsed(evaluate__threshold="false_alarms:0.1"), category)
    labelled = dataclasses.replace(category, test=pictures_of([0, 1]))
    evaluate.check(config, labelled)


def test_that_is_said_before_anything_is_made(tmp_path):
    folders.category(tmp_path, test=0)
    config = helpers.parsed(
        data__root=str(tmp_path),
        data__category="disc",
        data__cache_dir=str(tmp_path / "cache"),
        train__batch_size=8,
        evaluate__threshold="recall:0.9",
    )
    told = "threshold=recall:0.9, but .*disc has no defective test pictures"
    with pytest.raises(UserError, match=told):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    folder.claim(tmp_path / "run", config)
    with pytest.raises(UserError, match=told):
        evaluate.run(config, tmp_path / "run")


def test_good_test_pictures_and_held_out_ones(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        values = run(tmp_path, [0] * 6, [0] * 20, evaluate__threshold="false_alarms:0.1")
    found, (kept, rows) = threshold.read(tmp_path), written(tmp_path)
    assert (found.source, found.pictures) == ("false_alarms:0.1", 20)
    assert [row["name"] for row in rows] == [f"{i}.png" for i in range(6)]
    called = [row["verdict"] == "defective" for row in rows]
    assert found.false_alarm_rate == np.mean(called) == kept["threshold_false_alarm_rate"]
    assert kept["image_auroc"] is None and np.isnan(values["image_auroc"])
    assert "false alarms of at most 0.1 on 20 held-out pictures" in caplog.text
    assert f"{sum(called)} of 6 good test pictures called defective, 95 %" in caplog.text
    assert kept["threshold_recall"] is kept["threshold_recall_low"] is found.recall_interval is None
    assert not np.isnan(found.pixel)


def test_without_test_pictures_the_held_out_ones_are_judged(tmp_path, caplog):
    run(tmp_path, [], [0] * 12)
    found, (_, rows) = threshold.read(tmp_path), written(tmp_path)
    assert (found.source, found.pictures) == ("false_alarms:0.005", 12)
    assert len(rows) == 12 and {row["verdict"] for row in rows} == {"good"}
    assert found.false_alarm_rate == 0.0
    assert found.image == pytest.approx(max(float(row["score"]) for row in rows) + 1e-6)
    assert (
        "from 12 good pictures no share of false alarms below 0.0833 can be estimated, and 0.005 "
        "was asked for" in caplog.text
    )


def test_only_defective_pictures_give_no_threshold(tmp_path, caplog):
    values = run(tmp_path, [1, 1, 1])
    assert threshold.read(tmp_path) is None
    assert not [name for name in values if name.startswith("threshold")]
    assert {row["verdict"] for row in written(tmp_path)[1]} == {""}
    assert "no good pictures, so no threshold" in caplog.text
    # Their good pixels still say something, and so do held-out pictures.
    assert values["pixel_auroc"] > 0.5
    assert run(tmp_path, [1, 1, 1], [0] * 4)["threshold_pictures"] == 4
    assert threshold.read(tmp_path).pixel == values["pixel_f1_threshold"]
    # They are enough for a recall.
    (tmp_path / "threshold.json").unlink()
    recall = run(tmp_path, [1, 1, 1], evaluate__threshold="recall:1")
    assert recall["threshold_recall"] == 1 and np.isnan(recall["threshold_false_alarm_rate"])
    assert {row["verdict"] for row in written(tmp_path)[1]} == {"defective"}


def test_intervals_are_those_of_the_scores(tmp_path):
    labels = np.arange(9) % 2
    values = run(tmp_path, labels)
    scores = np.array([float(row["score"]) for row in written(tmp_path)[1]])
    low, high = metrics.bootstrap(labels, scores)["auroc"]
    assert (values["image_auroc_low"], values["image_auroc_high"]) == (low, high)


@pytest.mark.parametrize("when", ["at once", "later"])
def test_too_little_memory_is_one_line(tmp_path, monkeypatch, when):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9G")

    if when == "at once":
        monkeypatch.setattr("tests.support.judged.toy_step", refuse)
    else:
        monkeypatch.setattr(jax, "device_get", refuse)
    told = r"^out of device memory: try an evaluate\.batch_size below 3, model\.compute_dtype="
    with pytest.raises(UserError, match=told) as raised:
        run(tmp_path, np.arange(9) % 2)
    assert "\n" not in str(raised.value)
