"""The preview shows what training sees, the overview the foregrounds; names stay text."""

import base64
import dataclasses
import html.parser
import io
import itertools
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import schema, test
from diffad_jax.data_tools import foregrounds, preview
from diffad_jax.reporting import drawing
from input_pipeline import pipeline
from input_pipeline.datasets import load_category, load_textures
from input_pipeline.foreground import foregrounds_for
from tests.support import folders

COUNT, FIRST = 10, 4  # FIRST: one batch on
NAME = 'a "<b>&amp; ü.png'


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """A category whose first picture has an awkward name, and three textures."""
    root = tmp_path_factory.mktemp("preview")
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
        matched_share=0.5,
    )
    return schema.parse(values)


@pytest.fixture(scope="module")
def made(root):
    """(config, category, textures, what the preview shows)."""
    parsed = config(root)
    category, textures = load_category(parsed.data, 32), load_textures(parsed.data, 32)
    shown = list(preview.examples(category, textures, parsed, FIRST, COUNT))
    return parsed, category, textures, shown


class Page(html.parser.HTMLParser):
    """Pictures by the id of what they stand in, and the text."""

    def __init__(self, data: bytes):
        super().__init__()
        self.pictures, self.text, self.tags, self._at = {}, "", set(), None
        self.feed(data.decode("utf-8"))

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
    order = {"seed": parsed.seed, "batch_size": 4, "start_step": 1}
    batches = pipeline.numpy_batches(category, textures, parsed.data, **order)
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
    assert f"{sum(labels):.0f} have a synthetic anomaly" in page.text


def test_page_says_what_each_was_made_of(made):
    parsed, category, _, shown = made
    text = Page(preview.page(shown, parsed, category)).text
    anomalous = [one for one in shown if one.source]
    for one in anomalous:
        if one.source == preview.SELF:
            assert one.texture == ""
        else:
            assert one.source == preview.TEXTURE
            assert one.texture in ("dotted/0.png", "dotted/1.png", "dotted/2.png")
            assert f"texture pictures: {one.texture}" in text
        assert len(set(one.ops)) == 3 + ("match levels" in one.ops) and " → ".join(one.ops) in text
        assert one.source in text and f"position {one.position}" in text
        clean = category.train.images[category.train.names.index(one.name)]
        np.testing.assert_array_equal(one.clean, clean)
    assert {one.source for one in anomalous} == {preview.SELF, preview.TEXTURE}
    assert {one.ops[-1] == "match levels" for one in anomalous} == {True, False}


def test_names_are_escaped(made):
    parsed, category, _, shown = made
    assert any(NAME in one.name for one in shown)
    page = Page(preview.page(shown, parsed, category))
    assert f"train/good/{NAME}" in page.text and "b" not in page.tags


def test_the_same_files_again(root, capsys, made):
    parsed = made[0]
    preview.write(parsed, root / "a.html", 1, COUNT)
    assert (root / "a.html").read_bytes() == preview.page(made[3], parsed, made[1])
    foregrounds.write(parsed, root / "a.png")
    foregrounds.write(parsed, root / "b.png")
    assert (root / "a.png").read_bytes() == (root / "b.png").read_bytes()
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in table[:5]] == made[1].train.names
    assert {row[1] for row in table} == {"computed"}


def test_the_overview_marks_what_a_person_should_look_at(root, made):
    parsed, category, *_ = made
    layout = parsed.data.layout
    images = category.train.images.copy()
    images[1] = 100  # nothing to see
    images[2] = images[2, 0, 0]
    images[2, 4:12, 4:12] = 250  # a much smaller part
    train = dataclasses.replace(category.train, images=images, stamps=[*"abcde"])
    changed = dataclasses.replace(category, train=train)
    found = foregrounds_for(changed, "auto", str(root / "cache"))
    rows = foregrounds.rows(changed, found, layout)
    assert [bool(row.alarm) for row in rows] == [False, True, True, False, False]
    assert "no object" in rows[1].alarm and "unusual area" in rows[2].alarm
    assert rows[1].area == 1.0 and abs(rows[2].area - 64 / 32**2) < 0.05
    picture = np.asarray(foregrounds.overview(changed, found, rows, "disc"))
    colour = [int(drawing.OUTLINE[i : i + 2], 16) for i in (1, 3, 5)]
    assert (picture == colour).all(-1).sum() > 100
    # The object as it is, the ground dimmed to 30 %, and between them the outline.
    shown = foregrounds.dimmed(images[0], found.computed[0])
    drawn = np.argwhere((shown == colour).all(-1))
    middle = abs(np.hypot(*(drawn - 79.5).T) / 160 - 0.4)  # the disc's radius is 0.4 of the width
    assert len(drawn) > 300 and middle.max() < 0.08
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


def test_procedural_textures_are_named(root):
    parsed = config(root, textures="")
    category, textures = load_category(parsed.data, 32), load_textures(parsed.data, 32)
    shown = list(preview.examples(category, textures, parsed, 0, 8))
    painted = [one for one in shown if one.source == preview.PROCEDURAL]
    assert painted and all(one.texture in textures.names for one in painted)
    text = Page(preview.page(shown, parsed, category)).text
    assert f"{len(painted)} with procedural textures" in text
    assert f"procedural textures: {painted[0].texture}" in text


def test_unusable_pictures_leave_no_page(root):
    parsed = config(root)
    data = dataclasses.replace(parsed.data, root=str(root / "nowhere"))
    with pytest.raises(ValueError, match="nowhere"):
        preview.write(dataclasses.replace(parsed, data=data), root / "x.html", 0, 4)
    assert not (root / "x.html").exists()
