"""The sketch in bounded memory against the exact table and scikit-learn, scores of every shape."""

import logging

import numpy as np
import pytest
import sklearn.metrics

from configs.errors import UserError
from diffad_jax.scoring import metrics, pixel_sketch, ranking
from tests.support import goldens_io

CLOSE = 5e-4


@pytest.fixture
def joining(monkeypatch):
    """Neighbours are joined after every few pictures, as they are after a million pixels."""
    monkeypatch.setattr(pixel_sketch, "PENDING", 4000)


def collect(masks, maps, batch=3):
    pixels = pixel_sketch.Pixels()
    for start in range(0, len(maps), batch):
        pixels.add(masks[start : start + batch], maps[start : start + batch])
    return pixels


def compare(masks, maps, found, tolerance=CLOSE):
    exact = metrics.of_pixels(ranking.rank_pixels(masks, maps))
    for name in metrics.PIXEL_MEASURES:
        assert found[name] == pytest.approx(exact[name], abs=tolerance), name
    # The threshold may be another of nearly the same F1, but it is one that reaches it.
    f1 = sklearn.metrics.f1_score(masks.ravel(), maps.ravel() >= found["pixel_f1_threshold"])
    assert f1 == pytest.approx(exact["pixel_f1_max"], abs=2 * tolerance)


@pytest.mark.parametrize("case", ("smooth", "saturated", "ties"))
def test_goldens(case, joining):
    golden = goldens_io.load("metrics")
    pixels = collect(golden[f"{case}/masks"], golden[f"{case}/scores"])
    found = metrics.of_pixels(pixels.ranking())
    for name in metrics.PIXEL_MEASURES:
        assert found[name] == pytest.approx(float(golden[f"{case}/{name}"]), abs=CLOSE), name


def test_few_pixels_are_not_changed_at_all():
    golden = goldens_io.load("metrics")
    masks, maps = golden["ties/masks"], golden["ties/scores"].astype(np.float32)
    exact, found = ranking.rank_pixels(masks, maps), collect(masks, maps).ranking()
    for name in ("scores", "below", "hits", "false_alarms", "false_alarms_above"):
        np.testing.assert_array_equal(getattr(found, name), getattr(exact, name), name)
    np.testing.assert_allclose(found.recall, exact.recall, rtol=1e-12)
    assert (found.defective, found.good) == (exact.defective, exact.good)


def blobs(rng, count=40, size=64, share=0.03):
    """Masks of some squares, a fifth of the pictures without any; and unit noise that sees them."""
    masks = np.zeros((count, size, size), bool)
    width = max(1, int(size * np.sqrt(share)))
    for mask in masks[count // 5 :]:
        y, x = rng.integers(0, size - width, 2)
        mask[y : y + width, x : x + width] = True
    return masks, rng.standard_normal(masks.shape) + 1.5 * masks


def close_together(rng):
    masks, z = blobs(rng)
    return masks, 0.5 + 1e-6 * np.tanh(z)  # some 30 distinct float32 numbers


def many_decades(rng):
    masks, z = blobs(rng)
    return masks, 10.0 ** np.clip(10 * z / 3, -30, 30)


def saturated(rng):
    masks, z = blobs(rng)
    return masks, np.clip(z - 1, 0, 1)


def only_two_values(rng):
    masks, z = blobs(rng)
    return masks, (z > 1).astype(float)


def all_equal(rng):
    masks, _ = blobs(rng)
    return masks, np.full(masks.shape, 0.25)


def negative(rng):
    masks, z = blobs(rng)
    return masks, np.sinh(5 * z)


def two_zeros(rng):
    masks, z = blobs(rng)
    return masks, np.where(z > 1, z, np.where(z > 0, 0.0, -0.0))


def with_infinities(rng):
    masks, z = blobs(rng)
    return masks, np.where(z > 3, np.inf, np.where(z < -2, -np.inf, z))


def one_defective_pixel(rng):
    masks, z = blobs(rng)
    masks[:] = False
    masks[7, 30, 12] = True
    z[7, 30, 12] = 3.5
    return masks, z


def few_defective_pixels(rng):
    """One in 8,000, most of them among the highest scores: precision hangs on every good pixel."""
    masks, z = blobs(rng, share=1 / 2000)
    masks[:20] = False
    return masks, z + 4 * masks


def regions_of_all_sizes(rng):
    """Large regions (48,000 pixels) are found; as many lone pixels lie among the good ones."""
    masks, z = blobs(rng, share=0.4)
    z[masks] += 10
    masks[:8, ::16, ::16] = True
    return masks, z


def hardly_a_good_pixel(rng):
    masks, z = blobs(rng)
    return ~masks, -z


def found_perfectly(rng):
    masks, z = blobs(rng)
    return masks, np.tanh(z) + 3 * masks


def good_first_then_a_crowd(rng):
    """What was joined when the scores were spread must not hide those that crowd later."""
    masks, z = blobs(rng)
    masks[:20] = False
    maps = np.where(np.arange(40)[:, None, None] < 20, np.tanh(z), 0.3 + 1e-4 * z)
    return masks, maps


def sorted_by_score(rng):
    masks, z = blobs(rng)
    order = np.argsort(z.mean((1, 2)) + 10 * masks.any((1, 2)))
    return masks[order], z[order] + np.arange(40)[:, None, None] / 10


ADVERSARIAL = (
    *(close_together, many_decades, saturated, only_two_values, all_equal, negative, two_zeros),
    *(with_infinities, one_defective_pixel, few_defective_pixels, regions_of_all_sizes),
    *(hardly_a_good_pixel, found_perfectly, good_first_then_a_crowd, sorted_by_score),
)


@pytest.mark.parametrize("make", ADVERSARIAL, ids=lambda make: make.__name__)
def test_scores_of_any_shape(make, joining):
    masks, maps = make(np.random.default_rng(0))
    maps = maps.astype(np.float32)
    found = metrics.of_pixels(collect(masks, maps).ranking())
    compare(masks, maps, found)
    if np.isfinite(maps).all():
        expected = sklearn.metrics.roc_auc_score(masks.ravel(), maps.ravel())
        assert found["pixel_auroc"] == pytest.approx(expected, abs=CLOSE)
        expected = sklearn.metrics.average_precision_score(masks.ravel(), maps.ravel())
        assert found["pixel_ap"] == pytest.approx(expected, abs=CLOSE)


def test_parts_of_several_hosts_add_up(joining):
    masks, maps = many_decades(np.random.default_rng(1))
    maps = maps.astype(np.float32)
    whole = pixel_sketch.Pixels()
    for host in range(3):
        whole.merge(collect(masks[host::3], maps[host::3]))
    compare(masks, maps, metrics.of_pixels(whole.ranking()))


def test_the_number_of_points_does_not_grow_with_the_pictures(joining, monkeypatch):
    monkeypatch.setattr(pixel_sketch, "SHARE", 2.0**-6)
    rng, pixels, sizes = np.random.default_rng(0), pixel_sketch.Pixels(), []
    for _ in range(6):
        for _ in range(20):
            masks, z = blobs(rng, count=4)
            pixels.add(masks, z.astype(np.float32))
        sizes.append(pixels._good._points.keys.size + pixels._defective._points.keys.size)
    # From 0.3 to 2 million pixels: a number of points for each doubling, as long as floats last.
    assert sizes[-1] < 1.6 * sizes[0] < 1.6 * 5000


def test_a_large_batch_is_taken_in_parts(joining, monkeypatch):
    taken = []
    split = ranking.split_pixels
    monkeypatch.setattr(
        pixel_sketch,
        "split_pixels",
        lambda masks, maps: taken.append(maps.size) or split(masks, maps),
    )
    masks, z = blobs(np.random.default_rng(0), count=9, size=40)
    collect(masks, z.astype(np.float32), 9)
    assert taken == [3200, 3200, 3200, 3200, 1600]


@pytest.mark.parametrize(("label", "empty"), [(0, "no defective"), (1, "no good")])
def test_an_empty_class_gives_nan_and_a_word(label, empty, caplog):
    masks = np.full((3, 4, 4), bool(label))
    with caplog.at_level(logging.WARNING):
        found = metrics.of_pixels(collect(masks, np.zeros((3, 4, 4), np.float32)).ranking())
    assert set(found) == {*metrics.PIXEL_MEASURES, "pixel_f1_threshold"}
    assert all(np.isnan(value) for value in found.values())
    assert f"{empty} pixels" in caplog.text
    assert np.isnan(metrics.of_pixels(pixel_sketch.Pixels().ranking())["aupro_30"])


def test_bad_input_is_one_line():
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0, 0, 0] = np.nan
    with pytest.raises(UserError, match="1 of 4 scores of pixels are NaN"):
        pixel_sketch.Pixels().add(np.zeros((1, 2, 2), bool), maps)


def test_keys_keep_the_order_of_scores():
    scores = np.array([-np.inf, -3e38, -1.0, -1e-45, -0.0, 0.0, 1e-45, 0.5, 1.0, 3e38, np.inf])
    keys = pixel_sketch.order_key(scores.astype(np.float32))
    assert np.all(np.diff(keys.astype(np.int64))[[0, 1, 2, 3, 5, 6, 7, 8, 9]] > 0)
    assert keys[4] == keys[5]
    np.testing.assert_array_equal(pixel_sketch.from_order_key(keys), scores.astype(np.float32))


def test_what_is_joined_weighs_little_beside_all_above_it(monkeypatch):
    """Group by group: the share of what scores higher, and nothing lost."""
    monkeypatch.setattr(pixel_sketch, "SHARE", 2.0**-5)
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 2**20, 4000).astype(np.uint32))
    masses = rng.exponential(size=(2, keys.size)) ** 4  # of very different weights
    joined = pixel_sketch.Points(keys, masses).join()
    assert joined.keys.size < keys.size / 2
    group = np.searchsorted(joined.keys, keys, side="right") - 1
    for found, one in zip(joined.masses, masses, strict=True):
        expected = np.bincount(group, one)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        above = expected[::-1].cumsum()[::-1] - expected
        several = np.bincount(group) > 1
        assert (expected <= 2.0**-5 * above * (1 + 1e-9))[several].all()
