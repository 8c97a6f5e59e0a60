"""The gallery shows what training sees, the sheet shows the foregrounds; both escape names."""

import base64
import dataclasses
import html.parser
import io
import itertools
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from configs import schema, test
from diffad_jax.data_tools import foregrounds, preview
from input_pipeline import pipeline
from input_pipeline.datasets import load_category, load_textures
from input_pipeline.foreground import foregrounds_for
from tests.support import folders

COUNT, FIRST = 10, 4  # FIRST: one batch on
NAME = 'a "<b>&amp; ü.png'


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """A category whose first picture has an awkward name, and three textures."""
    root = tmp_path_factory.mktemp("gallery")
    category = folders.category(root, good=6, test=0)
    (category / "train/good/000.png").rename(category / "train/good" / NAME)
    rng = np.random.default_rng(1)
    for i in range(3):
        folders.save(root / f"dtd/dotted/{i}.png", rng.integers(0, 256, (32, 32, 3), np.uint8))
    return root


def config(root, textures="dtd") -> schema.Config:
    values = test.get_config()
    values.train.batch_size = 4
    values.data.update(
        root=str(root),
        category="disc",
        cache_dir=str(root / "cache"),
        textures=str(root / textures) if textures else "",
        normal_share=0.3,
    )
    return schema.parse(values)


@pytest.fixture(scope="module")
def made(root):
    """(config, category, textures, what the gallery shows)."""
    parsed = config(root)
    category, textures = load_category(parsed.data, 32), load_textures(parsed.data, 32)
    names = preview.texture_names(parsed)
    shown = list(preview.examples(category, textures, names, parsed, FIRST, COUNT))
    return parsed, category, textures, shown


class Page(html.parser.HTMLParser):
    """Pictures by the id of what they stand in, and the text."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.text, self.tags, self._at = {}, "", set(), None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self._at = attributes.get("id", self._at)
        for key in ("src", "href"):
            if key in attributes:
                assert attributes[key].startswith("data:image/png;base64,")  # self-contained
        if tag == "img":
            data = base64.b64decode(attributes["src"].partition(",")[2])
            picture = np.asarray(Image.open(io.BytesIO(data)))
            self.pictures.setdefault(self._at, {})[attributes["alt"]] = picture

    def handle_data(self, data):
        self.text += data


def test_page_shows_exactly_what_training_sees(made):
    parsed, category, textures, shown = made
    page = Page(preview.page(shown, parsed, category))
    batches = pipeline.numpy_batches(category, textures, parsed, start_step=1)
    labels = []
    for k, batch in enumerate(itertools.islice(batches, -(-COUNT // 4))):
        for i in range(4):
            position = FIRST + 4 * k + i
            if position >= FIRST + COUNT:
                continue
            pictures = page.pictures[f"p{position}"]
            seen = np.round(batch["image"][i] * 255)
            np.testing.assert_array_equal(pictures["training sees"], seen)
            assert ("mask" in pictures) == (batch["label"][i] > 0)
            if batch["label"][i]:
                outside = batch["mask"][i, ..., 0] == 0
                np.testing.assert_array_equal(pictures["mask"] == 0, outside)
                np.testing.assert_array_equal(pictures["clean picture"][outside], seen[outside])
            labels.append(batch["label"][i])
    assert len(page.pictures) == COUNT and 0 < sum(labels) < COUNT
    assert f"{sum(labels):.0f} with a synthetic anomaly" in page.text


def test_page_says_what_each_was_made_of(made):
    parsed, category, _, shown = made
    text = Page(preview.page(shown, parsed, category)).text
    anomalous = [one for one in shown if one.source]
    for one in anomalous:
        assert one.source == "own pieces" or one.source.removeprefix("texture ") in (
            "dotted/0.png",
            "dotted/1.png",
            "dotted/2.png",
        )
        assert len(set(one.ops)) == 3 and " → ".join(one.ops) in text
        assert one.source in text and f"position {one.position}" in text
        clean = category.train.images[category.train.names.index(one.name)]
        np.testing.assert_array_equal(one.clean, clean)
    assert len({one.source for one in anomalous}) > 1


def test_names_are_escaped(made):
    parsed, category, _, shown = made
    assert any(NAME in one.name for one in shown)
    page = Page(preview.page(shown, parsed, category))
    assert f"train/good/{NAME}" in page.text and "b" not in page.tags


def test_commands_write_the_same_files_again(root, capsys, made):
    parsed = made[0]
    preview.write(parsed, root / "a.html", 1, COUNT)
    again = preview.page(made[3], parsed, made[1])
    assert (root / "a.html").read_text(encoding="utf-8") == again
    foregrounds.write(parsed, root / "a.png")
    foregrounds.write(parsed, root / "b.png")
    assert (root / "a.png").read_bytes() == (root / "b.png").read_bytes()
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in table[:5]] == made[1].train.names
    assert {row[1] for row in table} == {"computed"}


def test_sheet_marks_what_a_person_should_look_at(root, made):
    parsed, category, *_ = made
    layout = parsed.data.layout
    images = category.train.images.copy()
    images[1] = 100  # nothing to see
    images[2] = images[2, 0, 0]
    images[2, 4:12, 4:12] = 250  # a much smaller part
    changed = dataclasses.replace(
        category, train=dataclasses.replace(category.train, images=images)
    )
    found = foregrounds_for(changed, "auto", str(root / "cache"))
    rows = foregrounds.rows(changed, found, layout)
    assert [bool(row.alarm) for row in rows] == [False, True, True, False, False]
    assert "no object" in rows[1].alarm and "unusual area" in rows[2].alarm
    assert rows[1].area == 1.0 and abs(rows[2].area - 64 / 32**2) < 0.05
    sheet = np.asarray(foregrounds.sheet(changed, found, rows, "disc"))
    outline = (sheet == foregrounds._OUTLINE).all(-1)
    assert outline.sum() > 100
    # The object as it is, the ground dimmed to 30 %.
    shown = foregrounds.overlay(images[0], found.computed[0])
    assert abs(shown[80, 80].mean() / images[0, 16, 16].mean() - 1) < 0.15
    assert shown[2, 2].mean() < 0.45 * images[0, 0, 0].mean()


def test_a_mask_at_the_named_path_overrides(root, made):
    parsed, category, *_ = made
    found = foregrounds_for(category, "auto", str(root / "cache"))
    row = foregrounds.rows(category, found, parsed.data.layout)[3]
    mask = np.zeros((32, 32), np.uint8)
    mask[:8] = 255
    file = folders.save(pathlib.Path(row.override), mask)
    try:
        again = load_category(parsed.data, 32)
        found = foregrounds_for(again, "auto", str(root / "cache"))
        changed = foregrounds.rows(again, found, parsed.data.layout)[3]
        assert changed.source == "file" and changed.area == 0.25
        np.testing.assert_array_equal(found.files[3][..., 0], mask)
    finally:
        file.unlink()


def test_made_up_textures_are_named(root):
    parsed = config(root, textures="")
    category = load_category(parsed.data, 32)
    shown = list(preview.examples(category, None, [], parsed, 0, 8))
    assert any("made-up texture" in one.source for one in shown)
    assert "made-up textures" in preview.page(shown, parsed, category)


def test_command_line_errors_are_one_line(root):
    arguments = [
        *(sys.executable, "-m", "input_pipeline.gallery", "--config", "configs/test.py"),
        *("--config.data.root=nowhere", "--output", str(root / "x.html")),
    ]
    result = folders.call(arguments, root)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("ValueError: ")
    assert "Traceback" not in result.stderr and not (root / "x.html").exists()
