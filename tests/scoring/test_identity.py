"""Predict scores as the evaluation did, or refuses: what a score depends on is stored beside it."""

import csv
import json
import shutil

import pytest

from configs.errors import UserError
from diffad_jax import evaluate, predict, train
from diffad_jax.scoring import threshold
from diffad_jax.scoring.identity import SETTINGS, Identity, identify
from tests import test_train
from tests.support import folders, helpers
from tests.test_safety import toy_run
from tests.test_train import configured

toy = test_train.toy  # fixture


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a category and a finished run."""
    root = tmp_path_factory.mktemp("trained")
    folders.category(root)
    toy_run(configured(root), root / "run")
    return root


@pytest.fixture
def run(toy, trained, tmp_path):
    """(configuration, workdir) of a finished run of the test's own."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return configured(tmp_path), tmp_path / "run"


def verdicts(path):
    with open(path) as file:
        rows = list(csv.DictReader(file))
    name = "name" if "name" in rows[0] else "picture"
    return {row[name]: (float(row["score"]), row["verdict"]) for row in rows}


def test_predict_scores_as_the_evaluation_did(run, tmp_path):
    _, work = run
    other = configured(tmp_path, evaluate__top_pixels=500, evaluate__weights="raw")
    evaluate.run(other, work)
    found = verdicts(work / "eval/7/scores.csv")
    predict.run(work, tmp_path / "disc", tmp_path / "results")
    predicted = verdicts(tmp_path / "results/predictions.csv")
    for name, (score, verdict) in found.items():
        assert predicted[name] == (pytest.approx(score, abs=1e-6), verdict)
    assert predict.load(work).config.evaluate.top_pixels == 500

    for name in ("threshold.json", "eval/7/metrics.json"):
        stored = Identity.from_dict(json.loads((work / name).read_text())["identity"])
        assert stored == threshold.read(work).identity
        assert stored.settings["evaluate.top_pixels"] == 500
        assert stored.settings["evaluate.weights"] == "raw" and stored.step == 7


def test_another_way_to_score_is_refused_unless_a_threshold_is_given(run, tmp_path):
    config, work = run
    told = r"evaluate\.draws is 2, but the threshold of .* was found with 1: leave it, run --mode"
    with pytest.raises(UserError, match=told):
        predict.load(work, overrides={"evaluate.draws": 2})
    with pytest.raises(UserError, match=told):
        predict.load(work, configured(tmp_path, evaluate__draws=2))
    overrides = {"evaluate.draws": 2, "predict.tile_overlap": 0.5}
    model = predict.load(work, threshold=0.5, overrides=overrides)
    assert (model.config.evaluate.draws, model.config.predict.tile_overlap) == (2, 0.5)
    assert predict.load(work, config).config == config


def test_the_checkpoint_is_the_thresholds(run, tmp_path):
    _, work = run
    assert predict.load(work).step == 7
    kept = threshold.read(work)
    train.run(configured(tmp_path, train__steps=9), work)
    threshold.write(work, kept)
    assert predict.load(work).step == 7
    assert predict.load(work, threshold=0.5).step == 9
    train.run(configured(tmp_path, train__steps=12), work)
    threshold.write(work, kept)
    with pytest.raises(UserError, match=r"was found at step 7, but there are only checkpoints of"):
        predict.load(work)


def test_every_setting_is_in_the_identity():
    changes = {
        "seed": 3,
        "model.compute_dtype": "bfloat16",
        "model.matmul_precision": "highest",
        "diffusion.guidance_weight": 0.5,
        "evaluate.checkpoint": "best",
        "evaluate.weights": "raw",
        "evaluate.draws": 2,
        "evaluate.residual": 0.25,
        "evaluate.smoothing": 1.5,
        "evaluate.top_pixels": 3,
        "evaluate.less_noisy": 100,
        "evaluate.noisier": 500,
    }
    assert set(changes) == set(SETTINGS)
    source = helpers.test.get_config()
    source.update_from_flattened_dict(changes)
    config = helpers.schema.parse(source)
    found = identify(config, 7, "0123456789ab")
    assert found.settings == changes and found.category == config.data.category
    assert Identity.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_run_of_the_kernel_of_gpus_that_was_evaluated_in_float32(run, tmp_path):
    """float32 comes from the evaluation, and the kernel that knows bfloat16 alone from the run."""
    _, work = run
    values = json.loads((work / "config.json").read_text())
    values["model"] |= {"attention": "cudnn", "compute_dtype": "bfloat16"}
    (work / "config.json").write_text(json.dumps(values))
    evaluate.run(configured(tmp_path), work)
    assert predict.load(work).config.model.compute_dtype == "float32"
