"""Foregrounds: computed ones against known shapes, random parts, and the choice between them."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import foreground
from input_pipeline.datasets import Category, Pictures

SIZE = 96


def disc(centre=(48, 48), radius=30, size=SIZE):
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - centre[0], x - centre[1]) < radius


def photo(shape, background, inside, tilt=(0.0, 0.0), noise=2.0, seed=0):
    """An object on a background whose light falls off linearly, with sensor noise."""
    size = len(shape)
    y, x = np.mgrid[:size, :size] / size - 0.5
    light = np.asarray(background, float) + (tilt[0] * y + tilt[1] * x)[..., None]
    picture = np.where(shape[..., None], np.asarray(inside, float), light)
    picture = picture + np.random.default_rng(seed).normal(0, noise, picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def overlap(found, truth):
    """Intersection over union."""
    found = found[..., 0] > 0
    return (found & truth).sum() / (found | truth).sum()


def ring():
    return disc() & ~disc(radius=22)


@pytest.mark.parametrize(
    ("picture", "truth"),
    [
        (photo(disc(), (245, 245, 245), (40, 40, 45)), disc()),
        (photo(disc(), (20, 20, 20), (90, 80, 60)), disc()),
        (photo(disc(), (128, 128, 128), (128, 90, 128)), disc()),  # colour alone
        (photo(disc(), (130, 130, 130), (60, 60, 60), tilt=(90, -60)), disc()),
        (photo(disc(), (128, 128, 128), (60, 60, 60), noise=12), disc()),
        (photo(ring(), (240, 240, 240), (40, 40, 40)), disc()),  # the hole belongs to it
        (photo(disc((48, 10)), (240, 240, 240), (40, 40, 40)), disc((48, 10))),  # cut off
        (photo(disc(radius=7), (240, 240, 240), (40, 40, 40)), disc(radius=7)),
        (photo(disc((400, 400), 250, 800), (240,) * 3, (40,) * 3), disc((400, 400), 250, 800)),
    ],
    ids="dark bright colour gradient noisy ring cut small large".split(),
)
def test_finds_the_object(picture, truth):
    found = foreground.object_foreground(picture[None])
    assert found.shape == (1, *truth.shape, 1) and set(np.unique(found)) == {0, 255}
    assert overlap(found[0], truth) > (0.9 if truth.sum() > 1000 else 0.7)


def test_specks_of_dust_are_not_the_object():
    dust = disc((8, 8), 2.5) | disc((85, 12), 2.5)
    found = foreground.object_foreground(photo(disc() | dust, (240,) * 3, (40,) * 3)[None])
    assert overlap(found[0], disc()) > 0.9 and not found[0, :16, :16].any()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.full((SIZE, SIZE, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8),
        photo(disc(radius=3), (240, 240, 240), (40, 40, 40)),
        photo(disc(radius=200), (240, 240, 240), (40, 40, 40)),
        np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
    ],
    ids="black white noise dot all tiny pixel".split(),
)
def test_without_an_object_it_is_the_full_frame(picture):
    assert (foreground.object_foreground(picture[None]) == 255).all()


def test_pictures_are_judged_one_by_one():
    blank = np.full((SIZE, SIZE, 3), 200, np.uint8)
    part = photo(disc(), (240, 240, 240), (40, 40, 40))
    both = foreground.object_foreground(np.stack([blank, part]))
    assert (both[0] == 255).all()
    np.testing.assert_array_equal(both[1], foreground.object_foreground(part[None])[0])


def random_parts(count, size=64):
    part = tf.function(
        lambda i: foreground.random_part(tf.stack([tf.constant(3, tf.int64), i]), size)
    )
    return np.stack([part(tf.constant(i, tf.int64)).numpy() for i in range(count)])


def test_random_part_covers_a_uniform_share():
    parts = random_parts(400)
    assert parts.shape == (400, 64, 64, 1) and set(np.unique(parts)) == {0.0, 1.0}
    areas = np.sort(parts.mean((1, 2, 3)))
    assert areas[0] > 0.29
    # Kolmogorov-Smirnov against U(0.3, 1): 1.63 / sqrt(n) is the 1 % level.
    assert np.abs(areas - np.linspace(0.3, 1.0, 400)).max() / 0.7 < 1.63 / np.sqrt(400)


def test_random_part_favours_no_place():
    share = random_parts(400).mean(0)[..., 0]  # standard error about 0.023 + correlation
    assert share.min() > 0.5 and share.max() < 0.8


def test_random_part_is_smooth_and_a_function_of_its_seed():
    a, b = random_parts(20), random_parts(20)
    np.testing.assert_array_equal(a, b)
    assert len({part.tobytes() for part in a}) > 15
    edges = np.abs(np.diff(a, axis=1)).mean() + np.abs(np.diff(a, axis=2)).mean()
    assert edges < 0.1  # white noise would have about 0.8


def category(kind, foregrounds=None, has=None, n=4):
    images = np.stack([photo(disc(), (240,) * 3, (40,) * 3, seed=i) for i in range(n)])
    pictures = Pictures(
        images=images,
        masks=None,
        has_mask=np.zeros(n, bool),
        labels=np.zeros(n, np.int32),
        defects=["good"] * n,
        names=[f"{i}.png" for i in range(n)],
        foregrounds=foregrounds,
        has_foreground=np.zeros(n, bool) if has is None else np.array(has),
    )
    return Category(pictures, pictures, pictures, kind, "folder")


@pytest.mark.parametrize("kind", ["object", "texture"])
@pytest.mark.parametrize("choice", ["auto", "object", "random", "full"])
def test_choice_without_files(kind, choice):
    found, drawn = foreground.foregrounds_for(category(kind), choice)
    means = {"auto": kind, "object": "object", "random": "texture", "full": "full"}[choice]
    assert drawn.tolist() == [means == "texture"] * 4
    if means == "object":
        assert all(overlap(one, disc()) > 0.9 for one in found)
    else:
        assert (found == 255).all()


@pytest.mark.parametrize("kind", ["object", "texture"])
def test_files_are_used_where_they_exist(kind):
    files = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 1), np.uint8)
    some = category(kind, files, [True, False, True, False])
    found, drawn = foreground.foregrounds_for(some, "auto")
    np.testing.assert_array_equal(found[[0, 2]], files[[0, 2]])
    assert drawn.tolist() == [False, kind == "texture"] * 2
    assert (found[[1, 3]] == 255).all() == (kind == "texture")
    ignored, _ = foreground.foregrounds_for(some, "full")
    assert (ignored == 255).all()
