"""Scores that depend on the picture alone; the large test set; thresholds; what is written."""

import csv
import dataclasses
import json
import logging
import zlib

import jax
import numpy as np
import pytest

from diffad_jax import evaluate
from diffad_jax.method import jitted, steps, train_state
from diffad_jax.runs import sharding
from diffad_jax.scoring import metrics, threshold
from input_pipeline.datasets import Category, Pictures
from input_pipeline.on_disk import Stored
from tests.runs.test_sharding import configured, random_variables
from tests.support import helpers


def pictures_of(labels, seed=5, masks=True):
    """Noise pictures; the defective ones have a bright square, and the truth of it."""
    labels = np.asarray(labels, np.int32)
    count = len(labels)
    images = np.random.default_rng(seed).integers(0, 200, (count, 32, 32, 3), np.uint8)
    truth = np.zeros((count, 32, 32, 1), np.uint8)
    truth[labels == 1, 8:16, 4:12] = 1
    images[truth[..., 0] > 0, 0] += 50
    return Pictures(
        images=images,
        masks=truth if masks else None,
        has_mask=np.full(count, masks),
        labels=labels,
        defects=[("good", "square")[label] for label in labels],
        names=[f"{i}.png" for i in range(count)],
        foregrounds=None,
        has_foreground=np.zeros(count, bool),
    )


def with_images(pictures, images):
    """As many others, or the same in another order; what is known of them stays."""
    return dataclasses.replace(pictures, images=images)


# With the real networks.


@pytest.fixture(scope="module")
def judge():
    """(devices, batch size, pictures) -> evaluation; each kind of batch is compiled once."""
    jax.config.update("jax_disable_most_optimizations", True)  # a third of the time
    compiled = {}

    def run(devices, batch_size, pictures):
        config = configured(evaluate__batch_size=batch_size, evaluate__top_pixels=7)
        mesh = sharding.data_mesh(jax.devices()[:devices])
        if (devices, batch_size) not in compiled:
            step = jitted.evaluate_step(train_state.define(config.model), config, mesh)
            compiled[devices, batch_size] = step
        step = compiled[devices, batch_size]
        variables = jax.device_put(random_variables(config), sharding.replicated(mesh))
        key = evaluate.run_key(config, mesh)
        with jax.transfer_guard("disallow"):
            result = evaluate.judge(step, variables, key, pictures, config, mesh)
        assert step._cache_size() == 1
        return result

    yield run
    jax.config.update("jax_disable_most_optimizations", False)


def test_scores_depend_on_the_picture_alone(judge):
    pictures = pictures_of(np.arange(10) % 2)
    one = judge(1, 1, pictures)
    top = np.sort(one.maps.reshape(10, -1), axis=1)[:, -7:]
    np.testing.assert_allclose(one.scores, top.mean(1), rtol=1e-6)
    assert np.ptp(one.scores) > 1e-3 and one.names == pictures.names

    for devices, batch_size in ((1, 7), (1, 32), (8, 7)):
        other = judge(devices, batch_size, pictures)
        np.testing.assert_allclose(other.scores, one.scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(other.maps, one.maps, rtol=0, atol=1e-6)
        again = judge(devices, batch_size, pictures)
        for field in ("scores", "maps", "reconstructions"):
            np.testing.assert_array_equal(getattr(again, field), getattr(other, field))

    # Another order and other neighbours: the same scores.
    images = np.concatenate([pictures.images[::-1], pictures_of([0] * 8, seed=6).images])
    moved = judge(1, 7, with_images(pictures_of([0] * 18), images))
    np.testing.assert_allclose(moved.scores[9::-1], one.scores, rtol=0, atol=1e-6)
    alone = judge(1, 7, with_images(pictures_of([0]), pictures.images[4:5]))
    np.testing.assert_allclose(alone.scores, one.scores[4:5], rtol=0, atol=1e-6)
    # One grey level in one pixel: another picture, another noise.
    pictures.images[:, 0, 0, 0] ^= 1
    assert abs(judge(1, 7, pictures).scores - one.scores).max() > 1e-6


# With a network that takes no time.


@jax.jit
def toy_step(variables, image, index, key):
    """Defective where red exceeds green."""
    anomaly_map = jax.nn.sigmoid(8 * (image[..., :1] - image[..., 1:2]) - 4)
    return steps.Judgement(anomaly_map.mean((1, 2, 3)), anomaly_map, image)


def stored(images):
    """As pictures that stay on disk."""
    source = [{"image": image} for image in images]
    return Stored(source, "image", images.shape[1:], np.arange(len(images)))


def run(folder, test, held_out=(), **changes):
    """`evaluate.category` with the toy network."""
    config = helpers.parsed(evaluate__batch_size=3, **changes)
    mesh = sharding.data_mesh(jax.devices()[:1])
    test = test if isinstance(test, Pictures) else pictures_of(test)
    held_out = pictures_of(held_out, seed=7, masks=False)
    whole = Category(test, test, held_out, "object", "disc")
    key, nothing = evaluate.run_key(config, mesh), train_state.Variables({}, {})
    return evaluate.category(folder, 7, toy_step, nothing, key, whole, config, mesh)


def written(folder):
    values = json.loads((folder / "eval/7/metrics.json").read_text())
    with open(folder / "eval/7/scores.csv") as file:
        return values, list(csv.DictReader(file))


def test_a_large_set_gives_what_a_small_one_gives(tmp_path, monkeypatch):
    labels = np.arange(11) % 3 % 2
    pictures = pictures_of(labels)
    pictures.masks[2, 0, 0] = 1  # of a good picture: a second region
    monkeypatch.setattr(evaluate, "_AT_ONCE", 4)
    small = run(tmp_path / "small", pictures)
    judged = []
    write = evaluate.write
    monkeypatch.setattr(evaluate, "write", lambda *all: judged.append(all[2]) or write(*all))
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
    assert (found.source, found.quantile, found.pictures, found.step) == ("f1_max", None, 9, 7)
    assert found.image == values["image_f1_threshold"] == values["threshold_image"]
    assert found.pixel == values["pixel_f1_threshold"] == values["threshold_pixel"]
    kept, rows = written(tmp_path)
    assert kept == values
    good = [row["verdict"] == "defective" for row in rows if row["label"] == "0"]
    assert np.mean(good) == found.false_alarm_rate == values["threshold_false_alarm_rate"]
    for row in rows:
        assert row["verdict"] == ("good", "defective")[float(row["score"]) >= found.image]


def test_without_masks_the_pixel_threshold_is_a_quantile(tmp_path):
    pictures = dataclasses.replace(pictures_of(np.arange(9) % 2), has_mask=np.zeros(9, bool))
    values = run(tmp_path, pictures, evaluate__threshold_quantile=0.8)
    assert "pixel_auroc" not in values and values["threshold_image"] > 0
    red, green = (pictures.images[::2, ..., c].astype(float) / 255 for c in (0, 1))
    peaks = np.sort(1 / (1 + np.exp(4 - 8 * (red - green).max((1, 2)))))
    # 5 good pictures, of which one may be called defective.
    assert values["threshold_pixel"] == pytest.approx((peaks[-2] + peaks[-1]) / 2, abs=1e-6)


def test_good_test_pictures_and_held_out_ones(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        values = run(tmp_path, [0] * 6, [0] * 20, evaluate__threshold_quantile=0.9)
    found, (kept, rows) = threshold.read(tmp_path), written(tmp_path)
    assert (found.source, found.quantile, found.pictures) == ("quantile", 0.9, 20)
    assert [row["name"] for row in rows] == [f"{i}.png" for i in range(6)]
    called = [row["verdict"] == "defective" for row in rows]
    assert found.false_alarm_rate == np.mean(called) == kept["threshold_false_alarm_rate"]
    assert kept["image_auroc"] is None and np.isnan(values["image_auroc"])
    assert "quantile 0.9 of 20 held-out pictures" in caplog.text
    assert "on 6 good test pictures" in caplog.text
    assert not np.isnan(found.pixel)


def test_without_test_pictures_the_held_out_ones_are_judged(tmp_path, caplog):
    run(tmp_path, [], [0] * 12)
    found, (_, rows) = threshold.read(tmp_path), written(tmp_path)
    assert (found.source, found.quantile, found.pictures) == ("quantile", 0.995, 12)
    assert len(rows) == 12 and {row["verdict"] for row in rows} == {"good"}
    assert found.false_alarm_rate == 0.0
    assert found.image == pytest.approx(max(float(row["score"]) for row in rows) + 1e-6)
    assert "12 good pictures tell no quantile above 0.917, and 0.995 was asked for" in caplog.text


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


def test_batches_are_padded_with_the_last_picture():
    pictures = pictures_of([0] * 10)
    mesh = sharding.data_mesh(jax.devices()[:2])
    batches = list(evaluate.padded_batches(pictures.images, 3, mesh))
    assert [(image.shape[0], count) for image, _, count in batches] == [(4, 4), (4, 4), (4, 2)]
    last = [zlib.crc32(pictures.images[i].tobytes()) % 2**31 for i in (8, 9, 9, 9)]
    assert np.asarray(batches[-1][1]).tolist() == last
    np.testing.assert_array_equal(batches[-1][0][3], pictures.images[9] / np.float32(255))


def test_a_full_disk_is_an_error_that_says_so(monkeypatch):
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(evaluate.tempfile, "TemporaryFile", lambda: full)
        with pytest.raises(OSError, match="No space left"):
            evaluate.Rows((4,), np.float32, in_memory=False).append(np.zeros((2, 4)))


def test_intervals_are_those_of_the_scores(tmp_path):
    labels = np.arange(9) % 2
    values = run(tmp_path, labels)
    scores = np.array([float(row["score"]) for row in written(tmp_path)[1]])
    low, high = metrics.bootstrap(labels, scores)["auroc"]
    assert (values["image_auroc_low"], values["image_auroc_high"]) == (low, high)
