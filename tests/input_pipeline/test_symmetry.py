"""Good pictures mirrored and turned, where `data.symmetry` says that these are good parts, too."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import on_disk, pipeline, synthesis
from tests.input_pipeline.test_pipeline import SIZE, N, category, given, options

COUNTS = {"none": 1, "mirror": 2, "all": 8}


def images(picture, symmetry):
    """What NumPy's flips and quarter turns make of a picture."""
    mirrored = [picture, np.fliplr(picture)]
    if symmetry != "all":
        return mirrored[: COUNTS[symmetry]]
    return [np.rot90(one, turns) for one in mirrored for turns in range(4)]


def keys(pictures):
    return {np.ascontiguousarray(one).tobytes() for one in pictures}


def test_a_part_has_eight_images():
    picture = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    for symmetry, count in COUNTS.items():
        made = [synthesis.turned(tf.constant(picture), tf.constant(i)) for i in range(count)]
        assert keys(one.numpy() for one in made) == keys(images(picture, symmetry))
        assert len(keys(one.numpy() for one in made)) == count == synthesis.IMAGES[symmetry]


@pytest.mark.parametrize("symmetry", COUNTS)
def test_all_images_are_trained_on_with_their_foregrounds(symmetry, monkeypatch):
    """Each about as often; a picture whose foreground is its red channel keeps it."""
    random = np.random.default_rng(1).integers(0, 256, (N, SIZE, SIZE, 3), np.uint8)
    some = category()
    planes = {"foregrounds": random[..., :1], "has_foreground": np.ones(N, bool)}
    train = dataclasses.replace(some.train, images=random, **planes)
    monkeypatch.setattr(
        pipeline,
        "synthesize",
        lambda image, foreground, *_, **__: {"image": image, "where": foreground()},
    )
    data = options(symmetry=symmetry)
    made = pipeline.Examples(dataclasses.replace(some, train=train), given(), data, 0)
    shown = tf.data.Dataset.range(400).map(made.example).as_numpy_iterator()
    seen = np.zeros((N, 8), int)
    known = {one.tobytes(): i for i, one in enumerate(random)}
    for one in shown:
        np.testing.assert_array_equal(np.round(one["where"] * 255), one["image"][..., :1])
        which, index = next(
            (which, known[back.tobytes()])
            for which, back in enumerate(map(np.ascontiguousarray, images(one["image"], "all")))
            if back.tobytes() in known
        )
        seen[index, which] += 1
    count = COUNTS[symmetry]
    shares = seen.sum(0)[seen.sum(0) > 0] / 400
    assert len(shares) == count
    assert np.abs(shares - 1 / count).max() <= 5 * np.sqrt((1 - 1 / count) / count / 400)
    assert (np.count_nonzero(seen, axis=1) == count).all()


@pytest.mark.parametrize("symmetry", COUNTS)
def test_the_prior_is_that_of_all_images(symmetry):
    pictures = np.random.default_rng(2).integers(0, 256, (4, 6, 6, 3), np.uint8)
    pictures[:, :2] //= 4  # dark above
    all_of_them = np.stack([one for picture in pictures for one in images(picture, symmetry)])
    ours = on_disk.mean_and_spread(pictures, symmetry)
    for actual, expected in zip(ours, on_disk.mean_and_spread(all_of_them), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
        assert actual.dtype == np.float32
