"""What a prediction writes: nothing is lost, nothing is left out without a word."""

import copy
import json
import pathlib

import jax
import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax import predict
from diffad_jax.method import judging, optim, train_state
from diffad_jax.predicting import predictor
from diffad_jax.predicting.parts import Parts
from diffad_jax.runs import lock, sharding
from diffad_jax.scoring import scorer
from tests.support import folders, helpers, toy_model

RUN = "runs/never"  # is not looked at


@pytest.fixture(scope="module")
def model():
    """A model that compiles at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_state, "init", toy_model.toy_init)
        patch.setattr(judging, "evaluate", toy_model.toy_evaluate)
        config = helpers.parsed()
        state = train_state.init(config, optim.optimizer(config, total_steps=1), jax.random.key(0))
        judge = scorer.fresh(config, sharding.data_mesh(), state)
        yield predictor.Predictor(judge, 0.5, 0.5)


@pytest.fixture
def shared(model, monkeypatch):
    """`predict.run` with that model."""
    monkeypatch.setattr(predict, "load", lambda *_: model)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of six."""
    return folders.category(tmp_path_factory.mktemp("pictures"), test=11) / "test/good"


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_stopped_run_leaves_the_old_results_and_goes_on(
    model, shared, pictures, monkeypatch, tmp_path
):
    predict.run(RUN, pictures, tmp_path)
    complete = contents(tmp_path)
    other = copy.copy(model)
    other.threshold, other.slope = 0.0, 1.0  # so that the new results are not the old ones
    monkeypatch.setattr(predict, "load", lambda *_: other)
    add = Parts.add

    def stopped(self, source, row):
        if source.name == "006.png":
            raise KeyboardInterrupt
        add(self, source, row)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "add", stopped)
        with pytest.raises(KeyboardInterrupt, match=r"^by Ctrl-C, 3 pictures are done: the same"):
            predict.run(RUN, pictures, tmp_path)
    partial = tmp_path / "predictions.partial"
    rows = lines(partial / "0000000000.jsonl")
    assert [r["picture"] for r in rows] == ["000.png", "002.png", "004.png"]
    assert all((partial / row[key]).exists() for row in rows for key in ("map", "overlay"))
    now = contents(tmp_path)
    assert {path: now[path] for path in complete} == complete
    assert set(now) - set(complete) == {path for path in now if path.parts[0] == partial.name}
    seen = []
    monkeypatch.setattr(Parts, "add", lambda *args: (seen.append(args[1].name), add(*args)))
    predict.run(RUN, pictures, tmp_path)
    assert seen == ["006.png", "008.png", "010.png"]
    assert set(contents(tmp_path)) == set(complete)
    rows = lines(tmp_path / "predictions.jsonl")
    assert {row["threshold"] for row in rows} == {0.0} and len(rows) == 6


def test_what_is_left_out_is_told(shared, monkeypatch, tmp_path, caplog):
    """In the tables, in the last line, and by the number that makes the exit status 3."""
    for name in ("a.png", "maps/b.png", "overlays/c.png"):  # called like folders of ours
        folders.save(tmp_path / "in" / name, folders.part(np.random.default_rng(len(name)), 32))
    for name in ("x.heic", "y.HEIC", "maps/z.gif", "notes.txt", ".hidden.png"):
        (tmp_path / "in" / name).write_bytes(b"")
    with caplog.at_level("INFO"):
        assert predict.run(RUN, tmp_path / "in", tmp_path / "in") == 3
        assert predict.run(RUN, tmp_path / "in", tmp_path / "in") == 3  # ours are no input
    rows = {row["picture"]: row["error"] for row in lines(tmp_path / "in/predictions.jsonl")}
    assert [name for name, error in rows.items() if not error] == [
        *("a.png", "maps/b.png", "overlays/c.png")
    ]
    assert set(rows) == {
        *("a.png", "maps/b.png", "overlays/c.png", "maps/z.gif", "x.heic", "y.HEIC")
    }
    for name in ("x.heic", "y.HEIC", "maps/z.gif"):
        assert str(tmp_path / "in" / name) in rows[name]
    last = caplog.messages[-1]
    assert last.startswith("3 pictures: ") and "; left out: 1 .gif, 2 .heic -> " in last


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -0.1, 1.5])
def test_an_impossible_threshold_touches_nothing(pictures, tmp_path, threshold):
    (tmp_path / "predictions.csv").write_text("as it was")
    with pytest.raises(UserError, match=rf"^the threshold is {threshold}, but .* in \[0, 1\]$"):
        predict.run(RUN, pictures, tmp_path, threshold=threshold)
    with pytest.raises(UserError, match="the threshold is"):
        predict.load(RUN, threshold=threshold)
    assert contents(tmp_path) == {pathlib.Path("predictions.csv"): b"as it was"}


def test_two_predictions_into_one_folder(shared, pictures, tmp_path):
    with (
        lock.Hold(tmp_path),
        pytest.raises(UserError, match=rf"^{tmp_path} is in use by another process, \d+ on host"),
    ):
        predict.run(RUN, pictures, tmp_path)
    assert predict.run(RUN, pictures, tmp_path) == 0
