"""Foregrounds: computed ones against known shapes, random parts, and the choice between them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import foreground
from input_pipeline.datasets import Category
from input_pipeline.on_disk import Pictures, Stored

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
        stamps=[f"{i:012x}" for i in range(n)],
        foregrounds=foregrounds,
        has_foreground=np.zeros(n, bool) if has is None else np.array(has),
    )
    return Category(pictures, pictures, pictures, kind, "folder")


@pytest.mark.parametrize("kind", ["object", "texture"])
@pytest.mark.parametrize("choice", ["auto", "object", "random", "full"])
def test_choice_without_files(kind, choice, tmp_path):
    found = foreground.foregrounds_for(category(kind), choice, str(tmp_path))
    auto = "computed" if kind == "object" else "random"
    means = {"auto": auto, "object": "computed", "random": "random", "full": "full"}[choice]
    assert found.sources == [means] * 4 and found.files is None and found.parts is None
    if means == "computed":
        assert all(overlap(one, disc()) > 0.9 for one in found.computed)
    else:
        assert found.computed is None


@pytest.mark.parametrize("kind", ["object", "texture"])
def test_files_are_used_where_they_exist(kind, tmp_path):
    files = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 1), np.uint8)
    some = category(kind, files, [True, False, True, False])
    found = foreground.foregrounds_for(some, "auto", str(tmp_path))
    assert found.sources == ["file", "computed" if kind == "object" else "random"] * 2
    np.testing.assert_array_equal(found.files, files)
    ignored = foreground.foregrounds_for(some, "full", str(tmp_path))
    assert ignored.sources == ["full"] * 4 and ignored.files is None


def test_objects_are_found_once(tmp_path, monkeypatch):
    found = foreground.foregrounds_for(category("object"), "auto", str(tmp_path)).computed
    monkeypatch.setattr(foreground, "object_foreground", lambda images: 1 / 0)
    again = foreground.foregrounds_for(category("object"), "auto", str(tmp_path)).computed
    np.testing.assert_array_equal(found, again)
    changed = category("object")
    changed.train.stamps[0] = "another file"
    padded = dataclasses.replace(category("object"), as_read="antialias-pad")
    for other in (changed, padded):
        with pytest.raises(ZeroDivisionError):
            foreground.foregrounds_for(other, "auto", str(tmp_path))
    # What a failure leaves is not taken for a result, nor does it stay.
    assert len(list((tmp_path / "foregrounds").iterdir())) == 1


def test_a_damaged_cache_is_no_error(tmp_path, caplog):
    found = foreground.foregrounds_for(category("object"), "auto", str(tmp_path)).computed
    (file,) = (tmp_path / "foregrounds").glob("*/planes.npy")
    for content in (file.read_bytes()[:300], b""):
        file.write_bytes(content)
        again = foreground.foregrounds_for(category("object"), "auto", str(tmp_path)).computed
        np.testing.assert_array_equal(found, again)
        assert str(file.parent) in caplog.text


def test_many_are_found_by_several_processes_and_told_in_one_line(tmp_path, monkeypatch, caplog):
    some = category("object", n=70)  # more than a chunk
    some.train.images[3] = some.train.images[69] = 100  # nothing to see
    expected = foreground.object_foreground(some.train.images)
    monkeypatch.setattr(foreground, "_MANY", 70)
    with caplog.at_level("INFO"):
        found = foreground.foregrounds_for(some, "auto", str(tmp_path)).computed
    np.testing.assert_array_equal(found, expected)
    told = [text for text in caplog.messages if "no object" in text]
    assert told == ["no object found in 2 of 70 pictures: anomalies go anywhere"]


@pytest.mark.parametrize("cache", ["/dev/null", "gs://bucket/cache"])
def test_a_cache_that_cannot_be_written_is_no_error(cache, caplog):
    found = foreground.foregrounds_for(category("object"), "auto", cache).computed
    assert overlap(found[0], disc()) > 0.9
    assert f"foregrounds are not kept in {cache}/foregrounds: " in caplog.text


def test_a_cache_that_fills_up_is_no_error(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(foreground.os, "replace", full)
    found = foreground.foregrounds_for(category("object"), "auto", str(tmp_path)).computed
    assert overlap(found[0], disc()) > 0.9
    assert "No space left" in caplog.text and not list((tmp_path / "foregrounds").iterdir())


def test_foregrounds_of_pictures_on_disk_stay_there(tmp_path):
    some = category("object")
    rows = [{"image": picture} for picture in some.train.images]
    stored = Stored(rows, "image", (SIZE, SIZE, 3), np.arange(4))
    there = dataclasses.replace(some, train=dataclasses.replace(some.train, images=stored))
    found = foreground.foregrounds_for(there, "auto", str(tmp_path)).computed
    assert isinstance(found, np.memmap)
    in_memory = foreground.foregrounds_for(some, "auto", str(tmp_path)).computed
    assert type(in_memory) is np.ndarray
    np.testing.assert_array_equal(found, in_memory)
