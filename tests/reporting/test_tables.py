"""Files and tables of one evaluation; those of several runs are in test_compare."""

import csv
import io
import json
import pathlib

import numpy as np
import pytest
from etils import epath

from configs.schema import MEASURES
from diffad_jax.reporting import tables
from diffad_jax.scoring.identity import SETTINGS, Identity
from tests.support.evaluations import DEFECTS, IDENTITY, NAMES, evaluated, judged


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    tables.write_metrics(path, {"a": 1.0}, IDENTITY)
    tables.write_metrics(path, {"a": 2.0}, IDENTITY)
    assert json.loads(path.read_text())["a"] == 2.0

    def fail(*_, **__):
        raise OSError("killed")

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    monkeypatch.setattr(type(epath.Path(path)), "replace", fail)
    with pytest.raises(OSError, match="killed"):
        tables.write_metrics(path, {"a": 3.0}, IDENTITY)
    assert json.loads(path.read_text())["a"] == 2.0


def test_scores_csv_reads_back_exactly(tmp_path):
    tests = judged()
    evaluation = evaluated(tests)
    tables.write_scores(tmp_path / "scores.csv", evaluation)
    data = (tmp_path / "scores.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
    assert [row["name"] for row in rows] == NAMES
    assert [row["defect"] for row in rows] == DEFECTS
    assert [int(row["label"]) for row in rows] == tests.labels.tolist()
    assert [float(row["score"]) for row in rows] == tests.scores.tolist()
    verdicts = ["good", "defective", "defective", "good", "defective", "defective"]
    assert [row["verdict"] for row in rows] == verdicts
    sure = [float(row["confidence"]) for row in rows]
    assert sure == pytest.approx(1 / (1 + (0.6 / tests.scores) ** 2), rel=1e-12)
    tables.write_scores(tmp_path / "again.csv", evaluation)
    assert (tmp_path / "again.csv").read_bytes() == data


def test_scores_csv_without_threshold_and_with_undecodable_name(tmp_path):
    names = [b"odd\xff.png".decode("utf-8", "surrogateescape"), *NAMES[1:]]
    tables.write_scores(tmp_path / "scores.csv", evaluated(judged(names=names), threshold=None))
    lines = (tmp_path / "scores.csv").read_text("utf-8").splitlines()
    assert lines[1] == "odd\\udcff.png,good,0,0.1,,"


def test_metrics_json_is_sorted_and_has_no_nan(tmp_path):
    values = {"b": float("nan"), "a": np.float32(0.5), "c": {"inf": np.inf, "n": np.int64(3)}}
    tables.write_metrics(tmp_path / "metrics.json", values, IDENTITY)
    text = (tmp_path / "metrics.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert Identity.from_dict(content.pop("identity")) == IDENTITY
    assert content == {"a": 0.5, "b": None, "c": {"inf": None, "n": 3}}
    assert text.index('"a"') < text.index('"b"') < text.index('"identity"')


def test_table():
    lines = tables.summary({"image_auroc": 0.98765, "image_ap": float("nan")}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:4] == ["", "AUROC", "AP", "F1-max"]
    assert cells[2] == ["image", "0.9877", "n/a", "-", "-", "-", "-"]
    assert cells[3] == ["pixel", *["-"] * 6]
    assert len({len(line) for line in lines}) == 1


def test_every_measure_has_a_place_in_the_table():
    keys = {key for column in tables.measure_columns() for key in column[1:]}
    assert keys - {"", "image_f1_threshold", "pixel_f1_threshold"} == set(MEASURES)


def test_everything_a_score_was_made_with_is_named_and_explained():
    made = tables.made_with(IDENTITY)
    assert list(made) == list(tables.MEANINGS)
    assert len(made) == len(SETTINGS) + 3  # no two settings share a short name
    assert (made["step"], made["weights"], made["pictures"]) == ("7", "ema", "0123456789ab")
