"""Prediction equals evaluation, depends on the picture alone, and survives what people feed it."""

import copy
import csv
import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from diffad_jax import evaluate, predict
from diffad_jax.method import judging, optim, train_state
from diffad_jax.predicting import predictor, results
from diffad_jax.reporting import drawing
from diffad_jax.runs import checkpoint, folder, lock
from diffad_jax.scoring import scorer, threshold
from input_pipeline.decoding import resizing
from tests.support import folders, helpers, odd_pictures, toy_model

SIZE = 32  # px, of the model


@pytest.fixture(scope="module", autouse=True)
def toy():
    """A model that compiles at once; test_main predicts with the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_state, "init", toy_model.toy_init)
        patch.setattr(scorer, "init", toy_model.toy_init)
        patch.setattr(judging, "evaluate", toy_model.toy_evaluate)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy):
    """A run that was evaluated: (configuration, workdir, folder of the category)."""
    root = tmp_path_factory.mktemp("run")
    category = folders.category(root, test=11, size=48)
    config = helpers.parsed(
        data__root=str(root), data__category="disc", data__cache_dir=str(root / "cache")
    )
    optimizer = optim.optimizer(config, total_steps=1)
    state = train_state.init(config, optimizer, jax.random.key(0))
    folder.claim(root / "run", config)
    with checkpoint.Checkpoints(root / "run") as checkpoints:
        checkpoints.save(7, dataclasses.replace(state, step=state.step + 7))
    evaluate.run(config, root / "run")
    scores = [float(row["score"]) for row in table(root / "run/eval/7/scores.csv")]
    median = float(np.median(scores))
    found = dataclasses.replace(threshold.read(root / "run"), image=median, pixel=0.5, slope=3.0)
    threshold.write(root / "run", found)
    return config, root / "run", category


@pytest.fixture(scope="module")
def model(run):
    return predict.load(run[1])


def changed(model, **changes):
    """The model with another configuration, sharing what is compiled."""
    other, config = copy.copy(model), model.config
    for name, value in changes.items():
        section, key = name.split("__")
        part = dataclasses.replace(getattr(config, section), **{key: value})
        config = dataclasses.replace(config, **{section: part})
    other.config = config
    return other


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def shared(model, monkeypatch):
    """`predict.run` with the model that is compiled already."""
    monkeypatch.setattr(predict, "load", lambda *_: model)


def test_a_test_picture_gets_evaluations_score(run, model, tmp_path):
    """To the last bit, read again from its file."""
    _, folder, category = run
    judged = {row["name"]: float(row["score"]) for row in table(folder / "eval/7/scores.csv")}
    assert len(set(judged.values())) == len(judged) == 11
    assert predict.run(folder, category / "test", tmp_path) == 0
    rows = table(tmp_path / "predictions.csv")
    assert {f"test/{row['picture']}": float(row["score"]) for row in rows} == judged
    assert [row["picture"] for row in rows] == sorted(row["picture"] for row in rows)
    stored = threshold.read(folder)
    for row in rows:
        defective = float(row["score"]) >= stored.image
        assert row["verdict"] == ("defective" if defective else "good")
        assert float(row["threshold"]) == stored.image
        sure = 1 / (1 + (stored.image / float(row["score"])) ** 3)
        assert float(row["confidence"]) == pytest.approx(sure)
    assert {row["verdict"] for row in rows} == {"defective", "good"}
    assert model.step == 7


def test_files_say_what_the_api_says(run, model, shared, tmp_path):
    _, folder, category = run
    source = category / "test/stain"
    predict.run(folder, source, tmp_path)
    for row in lines(tmp_path / "predictions.jsonl"):
        result = model(source / row["picture"])
        assert row["score"] == pytest.approx(result.score, abs=1e-6)
        assert row["confidence"] == pytest.approx(result.confidence, abs=1e-4)
        assert row["verdict"] == ("defective" if result.defective else "good")
        assert (row["width"], row["height"]) == (48, 48)
        with Image.open(tmp_path / row["map"]) as image:
            assert image.mode == "I;16" and image.size == (48, 48)
            stored = np.asarray(image) / 65535
        np.testing.assert_allclose(stored, result.anomaly_map, atol=1 / 65535)
        boxes = [results.Box(**box) for box in row["boxes"]]
        assert len(boxes) == len(result.boxes) > 0
        for one, other in zip(boxes, result.boxes, strict=True):
            assert one.peak == pytest.approx(other.peak, abs=1e-6)
            assert dataclasses.replace(one, peak=0.0) == dataclasses.replace(other, peak=0.0)
        with Image.open(tmp_path / row["overlay"]) as image:
            assert image.mode == "RGB" and image.size == (48, 48)
        assert result.reconstruction.shape == (48, 48, 3)


def test_the_threshold_of_pixels_has_the_middle_colour_in_all_overlays(
    run, model, monkeypatch, tmp_path
):
    """However small the values of the maps are; without one, 1 has the brightest colour."""
    _, folder, category = run
    source = category / "test/stain"
    for pixel, scale in ((0.5, 1.0), (1e-3, 2e-3), (None, 1.0)):
        other = copy.copy(model)
        other.pixel_threshold = pixel
        monkeypatch.setattr(predict, "load", lambda *_, other=other: other)
        monkeypatch.setattr(predictor, "find_boxes", lambda *_: ())
        predict.run(folder, source, tmp_path)
        for row in lines(tmp_path / "predictions.jsonl"):
            with Image.open(source / row["picture"]) as image:
                picture = np.asarray(image.convert("RGB"))
            expected = drawing.overlay(picture, other(picture).anomaly_map, scale)
            with Image.open(tmp_path / row["overlay"]) as image:
                off = abs(np.asarray(image).astype(int) - expected)
            assert np.median(off) <= 1, (pixel, row["picture"])


def test_a_score_depends_on_the_picture_alone(run, model):
    _, _, category = run
    paths = sorted((category / "test").rglob("*.png"))
    alone = np.array([model(path).score for path in paths])
    together = [result.score for result in model(paths)]
    backwards = [result.score for result in model(paths[::-1])][::-1]
    sevens = [r.score for r in changed(model, evaluate__batch_size=24)(paths)]
    for scores in (together, backwards, sevens):
        np.testing.assert_allclose(scores, alone, rtol=0, atol=1e-6)
    assert np.ptp(alone) > 1e-4


def test_cropped_and_padded_pictures_are_judged_as_in_training(model):
    picture = np.random.default_rng(7).integers(0, 256, (40, 70, 3), np.uint8)
    cropped, padded = (changed(model, data__fit=fit) for fit in ("crop", "pad"))
    middle = model(picture[:, 15:55])
    assert cropped(picture).score == pytest.approx(middle.score, abs=1e-6)
    np.testing.assert_allclose(cropped(picture).anomaly_map[:, 15:55], middle.anomaly_map)
    assert not cropped(picture).anomaly_map[:, :15].any()
    np.testing.assert_array_equal(cropped(picture).reconstruction[:, 55:], picture[:, 55:])
    square = resizing.resize_picture(picture, SIZE, model.config.data.resize, "pad")
    assert padded(picture).score == pytest.approx(model(square).score, abs=1e-6)
    assert padded(picture).anomaly_map.shape == (40, 70)


def test_the_three_lines(run, model):
    """One picture, a stack, and a list of any sizes give the same."""
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 256, (3, 40, 70, 3), np.uint8)
    one, several = model(stack[1]), model(stack)
    assert isinstance(one, predict.Prediction) and len(several) == 3
    assert one.score == pytest.approx(several[1].score, abs=1e-6)
    assert one.anomaly_map.shape == (40, 70) and one.anomaly_map.dtype == np.float32
    assert one.reconstruction.shape == (40, 70, 3) and one.reconstruction.dtype == np.uint8
    grey = rng.integers(0, 256, (5, 33), np.uint8)
    sizes = [stack[0], grey, stack[2, :1, :1], np.repeat(grey[..., None], 3, axis=-1)]
    mixed = model(sizes)
    assert [r.anomaly_map.shape for r in mixed] == [(40, 70), (5, 33), (1, 1), (5, 33)]
    assert mixed[1].score == mixed[3].score
    assert mixed[0].score == pytest.approx(several[0].score, abs=1e-6)
    assert model([]) == [] and model(stack[:0]) == []


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "must be 8-bit .* got float32 of shape"),
        (np.zeros((8, 8), np.uint16), "must be 8-bit .* got uint16"),
        (np.zeros((8, 8, 4), np.uint8), r"must be \[h,w,3\] or \[h,w\], got shape \(8, 8, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), r"got shape \(3, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"got shape \(0, 8, 3\)"),
        (np.zeros((2, 8, 8, 1, 3), np.uint8), "got shape"),
        ([np.zeros((8, 8, 3), np.uint8), np.ones((8, 8))], "must be 8-bit .* got float64"),
        ("no/such.png", "no/such.png cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_is_a_clear_error(model, picture, message):
    with pytest.raises(UserError, match=message):
        model(picture)


def test_tiles_of_a_large_picture(model):
    """Against every tile judged as a picture of its own and a weighted mean in float64."""
    tiled = changed(model, predict__tile_overlap=0.25)
    picture = np.random.default_rng(2).integers(0, 256, (70, 45, 3), np.uint8)
    rows, columns = (0, 19, 38), (0, 13)
    edge = np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE) ** 2
    total, weights = np.zeros((70, 45)), np.zeros((70, 45))
    for y, x in itertools.product(rows, columns):
        place = np.s_[y : y + SIZE, x : x + SIZE]
        total[place] += np.outer(edge, edge) * model(picture[place]).anomaly_map
        weights[place] += np.outer(edge, edge)
    result = tiled(picture)
    np.testing.assert_allclose(result.anomaly_map, total / weights, atol=1e-6)
    top = np.sort((total / weights).ravel())[-model.config.evaluate.top_pixels :]
    assert result.score == pytest.approx(top.mean(), abs=1e-6)
    assert result.reconstruction.shape == (70, 45, 3)
    # Pictures that are not larger are what they are without tiles, among tiled ones too.
    small = [picture[:SIZE, :SIZE], picture, picture[:5, :9]]
    for with_tiles, without in zip(tiled(small)[::2], model(small)[::2], strict=True):
        assert with_tiles.score == pytest.approx(without.score, abs=1e-6)
    assert tiled(small)[1].score == pytest.approx(result.score, abs=1e-6)


def test_endless_pictures_need_bounded_memory(model):
    asked = itertools.count()
    endless = (
        np.full((4, 4, 3), (next(asked) % 256, 60, 0), np.uint8) for _ in itertools.repeat(0)
    )
    results = list(itertools.islice(model.stream(endless), 50))
    assert len({result.score for result in results}) > 40
    assert next(asked) <= 50 + 3 * 8 + 3  # a batch is 8, on eight devices


def test_whatever_people_have_in_a_folder(run, model, shared, tmp_path):
    _, folder, _ = run
    sizes = odd_pictures.write_all(tmp_path / "in")
    output = tmp_path / "in/results"  # inside of the input
    for _ in range(2):  # what the first run wrote is no input of the second
        assert predict.run(folder, tmp_path / "in", output) == 3
        rows = lines(output / "predictions.jsonl")
        assert [row["picture"] for row in rows] == sorted(sizes)
    read = {row["picture"]: (row["width"], row["height"]) for row in rows if not row["error"]}
    assert read == {name: size for name, size in sizes.items() if size}
    for row in rows:
        if row["error"]:
            assert row["error"].startswith(str(tmp_path / "in" / row["picture"]))
            assert row["score"] is row["verdict"] is row["map"] is None
    files = [row[key] for row in rows for key in ("map", "overlay") if row[key]]
    assert len(set(files)) == 2 * len(read)
    written = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    assert written == {*files, "predictions.csv", "predictions.jsonl"}
    flat = table(output / "predictions.csv")
    assert list(flat[0]) == list(rows[0]) == list(results.COLUMNS)
    assert [row["picture"] for row in flat] == sorted(sizes)
    for one, other in zip(flat, rows, strict=True):
        assert one["score"] == ("" if other["error"] else repr(other["score"]))
        assert one["boxes"] == ("" if other["error"] else str(len(other["boxes"])))
    # All that show the same picture have the same score.
    score = {row["picture"]: row["score"] for row in rows}
    assert score["same.png"] == score["sub/same.png"] == score["<script>.png"]
    assert score["grey.png"] == score["deep.png"] != score["same.png"]


def test_maps_as_npy_or_none(run, model, shared, tmp_path):
    _, folder, category = run
    picture = category / "test/stain/001.png"
    predict.run(folder, picture, tmp_path / "none", maps="none")
    (bare,) = lines(tmp_path / "none/predictions.jsonl")
    predict.run(folder, picture, tmp_path, maps="npy")
    (row,) = lines(tmp_path / "predictions.jsonl")
    stored = np.load(tmp_path / row["map"])
    assert row["map"] == "maps/001.png.npy" and stored.dtype == np.float32
    np.testing.assert_array_equal(stored, model(picture).anomaly_map)
    assert bare == row | {"map": None, "overlay": None}
    names = {path.name for path in (tmp_path / "none").iterdir()}
    assert names - {lock.FILE} == {"predictions.csv", "predictions.jsonl"}
    with pytest.raises(UserError, match="maps are written as png, npy, none, not 'tiff'"):
        predict.run(folder, picture, tmp_path, maps="tiff")


def test_without_a_threshold(run, model, monkeypatch, tmp_path, caplog):
    _, folder, category = run
    monkeypatch.setattr(scorer, "restored", lambda *_: model._model)
    kept = (folder / "threshold.json").rename(tmp_path / "kept.json")
    try:
        free, given = predict.load(folder), predict.load(folder, threshold=0.4)
        assert "no threshold: scores only, no verdicts" in caplog.text
        assert (free.threshold, free.pixel_threshold) == (None, None)
        assert (given.threshold, given.pixel_threshold) == (0.4, 0.4)
        picture = category / "test/stain/001.png"
        assert free(picture).defective is None and free(picture).boxes == ()
        assert free(picture).confidence is given(picture).confidence is None
        assert given(picture).defective == (given(picture).score >= 0.4)
    finally:
        kept.rename(folder / "threshold.json")
    stored = threshold.read(folder)
    over = predict.load(folder, threshold=0.9)
    assert (over.threshold, over.pixel_threshold) == (0.9, stored.pixel)
    assert over.threshold == 0.9
    result = over(picture)
    assert result.confidence == pytest.approx(1 / (1 + (0.9 / result.score) ** stored.slope))


def test_unusable_runs(run, tmp_path):
    config, workdir, category = run
    with pytest.raises(UserError, match=r"holds no run: .*config\.json does not exist"):
        predict.load(tmp_path)
    folder.claim(tmp_path, config)
    with pytest.raises(UserError, match="no checkpoint in"):
        predict.load(tmp_path)
    other = helpers.parsed(model__segmentation_base=4)
    with pytest.raises(UserError, match=r"model\.segmentation_base was 2, is now 4"):
        predict.load(workdir, other)
    values = json.loads((workdir / "config.json").read_text())
    del values["evaluate"]["draws"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert folder.read_config(tmp_path).evaluate.draws == 1  # of a version without the key
    values["evaluate"] |= {"draws": 1, "threshold_quantile": 0.995}
    (tmp_path / "config.json").write_text(json.dumps(values))
    told = (
        r"unknown config key evaluate\.threshold_quantile: .* evaluate\.threshold\?; give --config"
    )
    with pytest.raises(UserError, match=told):
        predict.load(tmp_path)
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", "gs://bucket/out"):
        with pytest.raises(UserError, match=r"(file cannot be the output|out is not local)"):
            predict.run(workdir, category, output)


def test_a_diverged_model_is_not_called_good(model):
    broken = copy.copy(model)
    lost = jax.tree.map(lambda x: x * np.float32("nan"), model._model.variables)
    broken._model = dataclasses.replace(model._model, variables=lost)
    with pytest.raises(FloatingPointError, match="the model has diverged"):
        broken(np.zeros((32, 32, 3), np.uint8))
