"""A station's results are prediction's, to the last bit, with whatever others a picture comes."""

import csv
import dataclasses
import functools
import io
import itertools
import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from diffad_jax import predict
from diffad_jax.exporting import bundle, image_files, infer, onnx_model
from diffad_jax.method import jitted, optim, train_state
from diffad_jax.runs import checkpoint, folder, sharding
from diffad_jax.scoring import identity, scorer, threshold
from diffad_jax.serving import models, station
from tests.exporting import test_infer
from tests.support import folders, helpers, odd_pictures

STEP = 7


@pytest.fixture(scope="module")
def one_program(fast_compiles):
    """All that judge with JAX share what is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jitted, "evaluate_step", functools.cache(jitted.evaluate_step))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 11 pictures of many sizes: more than two batches."""
    place, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for n in range(11):
        size = (20 + 7 * (n % 5), 48 - n)
        folders.save(place / f"{n:02}.png", rng.integers(0, 256, (*size, 3), np.uint8))
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_program):
    """A run with random weights and a threshold, which nothing was compiled for."""
    root = tmp_path_factory.mktemp("run")
    changes = {"model__unet_multipliers": (1,), "data__fit": "pad"}
    config = helpers.parsed(data__root=str(root), data__category="disc", **changes)
    variables = helpers.random_variables(config)
    state = train_state.start(variables, optim.optimizer(config, total_steps=1))
    folder.claim(root / "run", config)
    with checkpoint.Checkpoints(root / "run") as checkpoints:
        checkpoints.save(STEP, jax.device_put(dataclasses.replace(state, step=np.int32(STEP))))
    known = identity.identify(config, STEP, "0" * 12)
    rates = (0.1, None, 0.9, None)
    found = threshold.Threshold(0.3, 0.4, "f1", 9, *rates, slope=2.5, identity=known)
    threshold.write(root / "run", found)
    return root / "run", found


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run's bundle, as `export` writes it, without what it measures."""
    place, found = tmp_path_factory.mktemp("bundle"), run[1]
    config = folder.read_config(run[0])
    model = scorer.restored(config, run[0], sharding.data_mesh())
    bundle.write_graph(onnx_model.write(model), place / bundle.GRAPH)
    bundle.set_thresholds(place / bundle.GRAPH, found)
    bundle.seal(place, bundle.describe(config, found.identity, found, "float32"))
    return place


def groups(count):
    """Numbers of pictures, one after another: alone, in whole batches, and anyhow."""
    rng = np.random.default_rng(1)
    yield [[n] for n in range(count)]
    yield [list(range(n, min(n + 8, count))) for n in range(0, count, 8)]
    for _ in range(2):
        order, sizes = rng.permutation(count).tolist(), rng.integers(1, 9, count)
        edges = [0, *itertools.takewhile(lambda n: n < count, np.cumsum(sizes).tolist()), count]
        yield [order[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_results_are_those_of_prediction_whatever_comes_together(
    kind, run, exported, pictures, tmp_path, monkeypatch
):
    place = run[0] if kind == "run" else exported
    assert predict.run(place, pictures, tmp_path / "out", overrides=None) == 0
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    rows = {row["picture"]: row for row in map(json.loads, lines)}
    served = models.opened(str(place))
    assert (served.kind, served.step, served.threshold) == (kind, STEP, 0.3)
    names, files = sorted(rows), {path.name: path.read_bytes() for path in pictures.iterdir()}
    line = station.Station(served, folder=tmp_path, longest_wait_ms=0.0)
    decoded = [served.read(files[name], name) for name in names]
    first = {}
    for batches in groups(len(names)):
        for batch in batches:
            for n, found in zip(batch, served.judge([decoded[n] for n in batch]), strict=True):
                same = first.setdefault(n, found)
                assert found.score == same.score == rows[names[n]]["score"], (names[n], batch)
                np.testing.assert_array_equal(found.anomaly_map, same.anomaly_map)
                np.testing.assert_array_equal(found.reconstruction, same.reconstruction)
    for n, name in enumerate(names):  # and what the station makes of it
        row = line.submit(files[name], name, "folder").result(60).row
        expected = rows[name] | {"map": None, "overlay": None}
        assert row == expected
        levels = np.asarray(Image.open(tmp_path / "out" / rows[name]["map"]))
        np.testing.assert_array_equal(np.round(first[n].anomaly_map * 65535), levels)
    line.close()
    assert len({row["score"] for row in rows.values()}) == len(rows)


def test_files_are_decoded_as_prediction_does(exported, tmp_path):
    """All that people have, read from memory; what cannot be read says so in the same words."""
    odd_pictures.write_all(tmp_path / "in")
    served = models.opened(str(exported))
    assert predict.run(exported, tmp_path / "in", tmp_path / "out") == 3
    with open(tmp_path / "out/predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seen = set()
    for row in rows:
        path = tmp_path / "in" / row["picture"]
        if not path.is_file() or path.suffix.lower() not in infer.EXTENSIONS:
            continue
        try:
            [found] = served.judge([served.read(path.read_bytes(), str(path))])
            assert found.score == float(row["score"]), row["picture"]
        except UserError as error:
            assert str(error) == row["error"]
        seen.add(bool(row["error"]))
    assert seen == {True, False}


def test_the_runtime_reads_bytes_too(pictures):
    for path in sorted(pictures.iterdir())[:3]:
        data = path.read_bytes()
        np.testing.assert_array_equal(
            image_files.read_picture(data), image_files.read_picture(path)
        )
    for wrong in (b"", data[:-30], b"none"):
        with pytest.raises(image_files.Refused, match="this cannot be read as a picture: "):
            image_files.read_picture(wrong)
    buffer = io.BytesIO()
    Image.new("RGB", (5, 6)).save(buffer, "png")
    assert infer.Model(test_infer.bundle(pictures.parent / "toy"))(buffer.getvalue()).score == 0


def test_a_threshold_of_ones_own(run, exported, tmp_path):
    """Where none was found it is that of the pixels, too, as in prediction."""
    assert models.opened(str(exported), 0.9).pixel_threshold == run[1].pixel
    limits = dict.fromkeys(("image", "pixel", "slope"))
    bare = str(test_infer.bundle(tmp_path / "bare", thresholds=limits))
    assert models.opened(bare).pixel_threshold is None
    served = models.opened(bare, 0.25)
    assert (served.threshold, served.pixel_threshold) == (None, 0.25)
    assert len(served.judge([np.full((9, 9, 3), 200, np.uint8)])[0].boxes) == 1


def test_what_a_model_says_of_itself(run, exported):
    served = models.opened(str(exported))
    assert (served.category, served.size, served.precision) == ("disc", 32, "float32")
    assert (served.slope, served.rule, served.batch_size) == (2.5, "f1", 4)
    assert [path.name for path in served.needed] == ["bundle.json", "model.onnx"]
    assert served.reference is None
    square = served.square(np.zeros((10, 50, 3), np.uint8))
    assert square.shape == (32, 32, 3)


def test_what_a_station_cannot_begin_with(tmp_path, monkeypatch):
    place = test_infer.bundle(tmp_path / "bundle")
    with pytest.raises(UserError, match="holds no run"):
        models.opened(str(tmp_path))
    with pytest.raises(UserError, match=r"threshold is 1\.5"):
        models.opened(str(place), 1.5)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UserError, match="onnxruntime is not installed"):
            models.opened(str(place))
    (place / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="is not the file that was exported"):
        models.opened(str(place))
