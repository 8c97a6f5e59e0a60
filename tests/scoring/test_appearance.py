"""Brightness, sharpness and colour, against their definitions pixel by pixel."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from diffad_jax.reporting import tables
from diffad_jax.scoring import appearance
from tests.support.evaluations import NAMES, judged


def slowly(image):
    """One picture's numbers, from the words of `appearance.statistics`."""
    height, width, _ = image.shape
    grey = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in image.tolist()]
    flat = [value for row in grey for value in row]
    mean = sum(flat) / len(flat)
    spread = sum((value - mean) ** 2 for value in flat) / len(flat)
    right = [(grey[y][x + 1] - grey[y][x]) ** 2 for y in range(height) for x in range(width - 1)]
    lower = [(grey[y + 1][x] - grey[y][x]) ** 2 for y in range(height - 1) for x in range(width)]
    steps = (sum(right) / len(right) + sum(lower) / len(lower)) / 2
    sums = [sum(int(pixel[k]) for row in image for pixel in row) for k in range(3)]
    return [mean / 255, steps / (2 * spread), *(value / sum(sums) for value in sums)]


def photo(seed=0, size=24):
    """Smooth, with all greys from about 60 to 140."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1)))


def test_definition():
    images = np.stack([photo(seed) for seed in range(3)])
    images[1, ..., 2] //= 2
    found = appearance.statistics(images)
    assert tuple(found) == appearance.STATISTICS
    assert all(values.dtype == np.float64 and values.shape == (3,) for values in found.values())
    for row, image in enumerate(images):
        ours = [found[key][row] for key in appearance.STATISTICS]
        assert ours == pytest.approx(slowly(image), rel=1e-12)


def test_each_number_tells_one_thing():
    """A brighter lamp, a lens out of focus, a yellow lamp."""
    photos = np.stack([photo(), photo()])
    dim = {k: v[0] for k, v in appearance.statistics(photos // 2).items()}
    plain = {k: v[0] for k, v in appearance.statistics(photos // 2 * 2).items()}
    assert plain["brightness"] == pytest.approx(2 * dim["brightness"])
    for key in ("sharpness", "red", "green", "blue"):
        assert plain[key] == pytest.approx(dim[key], rel=1e-12)
    soft = np.asarray(Image.fromarray(photo()).filter(ImageFilter.GaussianBlur(1)))
    blurred = {k: v[0] for k, v in appearance.statistics(soft[None]).items()}
    assert blurred["sharpness"] < 0.7 * plain["sharpness"]
    assert blurred["brightness"] == pytest.approx(plain["brightness"], abs=0.01)
    yellow = photos.copy()
    yellow[..., 2] //= 2
    tinted = {k: v[0] for k, v in appearance.statistics(yellow).items()}
    assert tinted["blue"] < 0.7 * plain["blue"] and tinted["red"] > 1.1 * plain["red"]


def test_noise_is_sharp_and_grey_has_no_colour():
    noise = np.random.default_rng(1).integers(0, 256, (1, 128, 128, 3), np.uint8)
    assert appearance.statistics(noise)["sharpness"][0] == pytest.approx(1, abs=0.05)
    greys = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (0, 1, 77, 255)])
    greys[2] += np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    found = appearance.statistics(greys)
    for key in ("red", "green", "blue"):
        assert found[key].tolist() == [1 / 3] * 4  # to the last bit: no drift out of nothing
    assert found["sharpness"][[0, 1, 3]].tolist() == [0, 0, 0]
    assert found["brightness"][[0, 3]].tolist() == [0, 1]


def test_no_pictures():
    found = appearance.statistics(np.zeros((0, 8, 8, 3), np.uint8))
    assert [len(values) for values in found.values()] == [0] * 5


def test_reference_json_reads_back_exactly(tmp_path):
    names = [b"odd\xff.png".decode("utf-8", "surrogateescape"), *NAMES[1:]]
    scores = np.array([0.1, 0.6, 0.7, np.nan, 0.9, 1 / 3])
    tests = judged(names=names, scores=scores)
    tables.write_reference(tmp_path / appearance.FILE, tests)
    text = (tmp_path / appearance.FILE).read_text("utf-8")
    pictures = json.loads(text)["pictures"]
    assert [one["picture"] for one in pictures] == ["odd\\udcff.png", *NAMES[1:]]
    assert [one["label"] for one in pictures] == tests.labels.tolist()
    assert [one["score"] for one in pictures] == [0.1, 0.6, 0.7, None, 0.9, 1 / 3]
    for key, values in appearance.statistics(tests.images).items():
        assert [one[key] for one in pictures] == values.tolist()
    assert appearance.reference(tests) == {"pictures": pictures}
    assert len(text.splitlines()) == 2 + len(NAMES)


def test_good_pictures_alone_are_what_parts_are_compared_with():
    tests = judged(labels=np.array([0, 0, 1, 0, 1, 1], np.int32))
    pictures = appearance.reference(tests)["pictures"]
    pictures[0]["score"] = None  # not known
    good = appearance.of_good(pictures)
    assert tuple(good) == ("score", *appearance.STATISTICS)
    assert good["score"] == [0.6, 1 / 3]
    assert good["brightness"] == [pictures[1]["brightness"], pictures[3]["brightness"]]
    assert appearance.of_good(pictures, 0.6)["score"] == [1 / 3]
    assert appearance.of_good([], 0.6)["blue"] == []


def test_it_needs_neither_jax_nor_what_came_with_it():
    code = """if True:
        import sys
        for name in ("jax", "flax", "tensorflow", "scipy", "sklearn"):
            sys.modules[name] = None
        import numpy as np
        from diffad_jax.scoring import appearance
        print(len(appearance.statistics(np.zeros((2, 8, 8, 3), np.uint8))))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5\n"
