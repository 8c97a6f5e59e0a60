"""A run exported: the bundle judges files as the run does, and says what it is."""

import csv
import dataclasses
import datetime
import functools
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax import evaluate, export, predict
from diffad_jax.exporting import bundle, infer, runtime, stablehlo
from diffad_jax.method import jitted, optim, train_state
from diffad_jax.models import torch_file, torch_weights
from diffad_jax.runs import checkpoint, folder
from diffad_jax.scoring import threshold
from tests.support import folders, helpers, odd_pictures

STEP = 7


@pytest.fixture(scope="module")
def one_program(fast_compiles):
    """All that judge with JAX share what is compiled; times are of few pictures."""
    few = functools.partial(runtime.milliseconds, count=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jitted, "evaluate_step", functools.cache(jitted.evaluate_step))
        patch.setattr(runtime, "milliseconds", few)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_program):
    """An evaluated run with random weights: its workdir, and the folder of its category."""
    root = tmp_path_factory.mktemp("run")
    category = folders.category(root, test=11, size=48)
    config = helpers.parsed(
        data__root=str(root),
        data__category="disc",
        data__cache_dir=str(root / "cache"),
        data__fit="pad",
    )
    variables = helpers.random_variables(config)
    state = train_state.start(variables, optim.optimizer(config, total_steps=1))
    folder.claim(root / "run", config)
    with checkpoint.Checkpoints(root / "run") as checkpoints:
        checkpoints.save(STEP, jax.device_put(dataclasses.replace(state, step=np.int32(STEP))))
    evaluate.run(config, root / "run")
    return root / "run", category


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """The run's bundle."""
    target = tmp_path_factory.mktemp("exported") / "model"
    export.run(run[0], target)
    return target


def facts(made):
    return json.loads((made / "bundle.json").read_text())


def rows(output):
    with open(output / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_files_are_judged_as_by_the_run(run, made, tmp_path):
    """By the runtime alone, and by prediction with the bundle; of many sizes and formats."""
    odd_pictures.write_all(tmp_path / "in")
    assert predict.run(run[0], tmp_path / "in", tmp_path / "run") == 3
    assert predict.run(made, tmp_path / "in", tmp_path / "bundle") == 3
    words = [str(tmp_path / "in"), "--output", str(tmp_path / "alone"), "--bundle", str(made)]
    assert infer.main(words) == 3
    ours = {row["picture"]: row for row in rows(tmp_path / "run")}
    for name, least in (("bundle", len(ours)), ("alone", 6)):
        theirs = [row for row in rows(tmp_path / name) if not row["error"]]
        assert len(theirs) >= min(least, sum(not row["error"] for row in ours.values()))
        for row in theirs:
            same = ours[row["picture"]]
            for key in ("picture", "verdict", "width", "height", "boxes"):
                assert row[key] == same[key], (row["picture"], key)
            for key in ("score", "threshold", "confidence"):
                assert float(row[key]) == pytest.approx(float(same[key]), abs=1e-5)


def test_it_says_what_it_is(run, made):
    said, found = facts(made), threshold.read(run[0])
    assert said["identity"] == found.identity.to_dict() and said["precision"] == "float32"
    assert said["thresholds"]["image"] == found.image and said["thresholds"]["slope"] == found.slope
    assert said["thresholds"]["source"] == "f1"
    names = {path.name for path in made.iterdir()} - {"bundle.json"}
    assert names >= {"model.onnx", "model.stablehlo", "infer.py", "image_files.py", "README.md"}
    for name, checksum in said["files"].items():
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == checksum
    assert set(said["files"]) == names
    theirs, ours = (
        json.loads((place / "reference.json").read_text())["pictures"]
        for place in (made, run[0] / f"eval/{STEP}")
    )
    assert len(theirs) == 11 and {one["label"] for one in theirs} == {0, 1}
    for a, b in zip(theirs, ours, strict=True):
        assert a | {"score": 0} == b | {"score": 0}
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
    stored = json.loads((run[0] / f"eval/{STEP}/metrics.json").read_text())
    for by in ("jax", "exported"):
        assert said["metrics"][by]["image_auroc"] == pytest.approx(stored["image_auroc"], abs=1e-9)
    assert said["parity"]["pictures"] == 11 and said["parity"]["turned"] == []
    assert 0 <= said["parity"]["score"] < 1e-5 and 0 < said["parity"]["anomaly_map"] < 1e-5
    assert said["warnings"] == []
    created, until = (
        datetime.date.fromisoformat(day)
        for day in (said["created"], said["stablehlo"]["readable_until"])
    )
    assert until - created == stablehlo.PROMISED
    assert [time["batch"] for time in said["latency"]["milliseconds"]] == [1, 8]
    assert all(0 < time["median"] <= time["p95"] for time in said["latency"]["milliseconds"])
    assert "# disc" in (made / "README.md").read_text()


def test_another_precision_has_a_threshold_of_its_own(run, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "write", lambda model: b"")  # of no precision
    export.run(run[0], tmp_path / "model", "int8")
    said, found = facts(tmp_path / "model"), threshold.read(run[0])
    assert said["precision"] == "int8" and said["thresholds"]["image"] != found.image
    assert said["thresholds"]["image"] == said["metrics"]["exported"]["image_f1_threshold"]
    assert 1e-5 < said["parity"]["score"] < 0.5


def test_what_it_costs_is_said():
    said = {
        "precision": "int8",
        "metrics": {"jax": {"image_auroc": 0.99}, "exported": {"image_auroc": 0.986}},
        "parity": {"turned": []},
    }
    assert bundle.warnings(said) == []
    said["metrics"]["exported"]["image_auroc"] = 0.98
    said["parity"]["turned"] = ["a.png", "b.png"]
    cost, turned = bundle.warnings(said)
    assert "0.9800, 0.9900" in cost and turned.endswith(
        "2 pictures have another verdict than by JAX: a.png, b.png"
    )
    assert bundle.warnings(said | {"metrics": {"jax": {}, "exported": {}}}) == [turned]


def test_what_cannot_be_exported_is_one_line(run, made, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"{made} is there already"):
        export.run(run[0], made)
    with pytest.raises(UserError, match="must be local"):
        export.run(run[0], "gs://bucket/model")
    with pytest.raises(UserError, match=r"tile_overlap is 0\.25, but a bundle judges whole"):
        export.run(run[0], tmp_path / "m", overrides={"predict.tile_overlap": 0.25})
    with pytest.raises(UserError, match="its configuration cannot be changed"):
        predict.load(made, overrides={"predict.tile_overlap": 0.5})
    with pytest.raises(UserError, match=r"model\.prediction is 'preconditioned', the authors'"):
        export.check_theirs(helpers.parsed(model__prediction="preconditioned").model)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "model.stablehlo")

    monkeypatch.setattr(stablehlo, "write", full)
    with pytest.raises(OSError, match="No space left"):
        export.run(run[0], tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_slower_of_two_exports_leaves_the_other_s(run, made, tmp_path, monkeypatch):
    """Both were begun before there was anything."""

    def meanwhile(_):
        shutil.copytree(made, tmp_path / "model")
        return b""

    monkeypatch.setattr(stablehlo, "write", meanwhile)
    with pytest.raises(UserError, match="model is there already"):
        export.run(run[0], tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert facts(tmp_path / "model") == facts(made)


def test_a_damaged_bundle_is_one_line(made, tmp_path):
    shutil.copytree(made, tmp_path / "model")
    data = (tmp_path / "model/model.onnx").read_bytes()
    (tmp_path / "model/model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"model\.onnx is not the file that was exported"):
        predict.load(tmp_path / "model")


def test_the_authors_code_gets_its_file(run, tmp_path):
    """Read back by what reads theirs."""
    pytest.importorskip("torch")
    export.to_torch(run[0], tmp_path / "params-last.pt")
    epoch, *states = torch_file.read(tmp_path / "params-last.pt")
    config = helpers.parsed()
    params, statistics = torch_weights.from_torch(*states, config.model)
    expected = helpers.random_variables(config)
    assert epoch == STEP
    for a, b in zip(
        jax.tree.leaves((params, statistics)),
        jax.tree.leaves((expected.params, expected.batch_stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
