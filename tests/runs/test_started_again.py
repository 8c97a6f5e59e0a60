"""A run that is finished and judged is not judged again, unless something has changed."""

import json

import numpy as np
import pytest
from PIL import Image

import diffad_jax
from diffad_jax import evaluate, train
from diffad_jax.method import jitted
from diffad_jax.runs import checkpoint
from tests import test_train
from tests.support import folders
from tests.test_train import configured, outcome

toy = test_train.toy  # a fixture


@pytest.fixture
def data(tmp_path):
    folders.category(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def judged(monkeypatch):
    """The workdir of each evaluation, as it comes."""
    calls, original = [], evaluate.evaluate
    monkeypatch.setattr(evaluate, "evaluate", lambda *all: calls.append(all[2]) or original(*all))
    return calls


def test_what_was_judged_stands(toy, data, judged, tmp_path, monkeypatch, caplog):
    config, work = configured(data), tmp_path / "run"
    values, before = train.run(config, work), outcome(work)
    assert len(judged) == 3
    monkeypatch.setattr(jitted, "compile_step", lambda *_: pytest.fail("nothing is left to train"))
    with caplog.at_level("INFO", "diffad_jax.train"):
        np.testing.assert_equal(train.run(config, work), values)
    assert len(judged) == 3 and outcome(work) == before
    assert f"step 7 was evaluated before: see {work}/eval/7" in caplog.text

    # What was measured then chooses the best now.
    train.run(configured(data, train__keep_best="image_ap"), work)
    assert len(judged) == 3
    with checkpoint.Checkpoints(work, writer=False, name=checkpoint.BEST) as checkpoints:
        assert checkpoints.latest == 7
        assert checkpoints.notes(7)["metrics"]["image_ap"] == values["image_ap"]


def another_mask(data):
    path = sorted((data / "disc/ground_truth").glob("*/*.png"))[0]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def not_logged(work):
    log = work / "metrics.jsonl"
    rows = log.read_text().splitlines(keepends=True)
    assert json.loads(rows[-1])["kind"] == "eval"
    log.write_text("".join(rows[:-1]))


def test_what_has_changed_is_judged_again(toy, data, judged, tmp_path, monkeypatch):
    work, given = tmp_path / "run", {"train__evaluate_every": 0}
    train.run(configured(data, **given), work)
    metrics, threshold = work / "eval/7/metrics.json", work / "threshold.json"
    changes = {
        "score": lambda: given.update(evaluate__top_pixels=3),
        "rule": lambda: given.update(evaluate__threshold="false_alarms:0.1"),
        "log": lambda: not_logged(work),
        "gone": metrics.unlink,
        "damaged": lambda: metrics.write_text("{}"),
        "no threshold": threshold.unlink,
        "damaged threshold": lambda: threshold.write_text("[1]"),
        "mask": lambda: another_mask(data),
        "version": lambda: monkeypatch.setattr(diffad_jax, "__version__", "another"),
    }
    for count, (name, change) in enumerate(changes.items(), 2):
        change()
        train.run(configured(data, **given), work)
        assert len(judged) == count, name
    train.run(configured(data, **given), work)
    assert len(judged) == count  # nothing has changed
