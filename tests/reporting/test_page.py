"""The report as a browser reads it: parsed, its numbers and pictures compared with what went in."""

import dataclasses
import math
import re

import numpy as np
import pytest
import sklearn.metrics

from diffad_jax.reporting import cards, charts, drawing, page
from diffad_jax.reporting.html import document, element, printable, text
from diffad_jax.scoring import ranking, results
from diffad_jax.scoring.identity import identify
from tests.support import helpers
from tests.support.evaluations import CONFIG, FOUND, IDENTITY, evaluated, judged, many
from tests.support.web import Page, picture

NASTY = [
    "<script>alert(1)</script>.png",
    '"onload="alert(1).png',
    "'><img src=x onerror=alert(1)>.png",
    "a&amp;b & c.png",
    "螺丝 ü.png",
    b"odd\xff\n\x1b[31m.png".decode("utf-8", "surrogateescape"),
]


VALUES = {"image_auroc": 0.8751, "image_auroc_low": 0.7, "image_auroc_high": 1.0}
VALUES |= {"image_ap": math.nan, "pixel_auroc": 0.25, "aupro_05": 0.125, "unknown": "x"}
VALUES |= {"image_f1_threshold": 1.25e-6, "pixel_f1_threshold": math.nan}


def pixels_of(tests) -> ranking.Ranking | None:
    if tests.masks is None or not tests.has_mask.all():
        return None
    return ranking.rank_pixels(tests.masks[..., 0] > 0, tests.maps)


def written(path, tests, values=VALUES, threshold=FOUND, config=CONFIG, identity=IDENTITY) -> Page:
    evaluation = evaluated(tests, values, pixels_of(tests), threshold, identity)
    page.write(path / "deep" / "report.html", evaluation, config)
    data = (path / "deep" / "report.html").read_bytes()
    assert b"http" not in data and b"<script" not in data and b"@import" not in data
    assert set(re.findall(rb"url\(([^)]*)\)", data)) <= {b"#scale"}
    read = Page(data)
    assert len(set(read.ids)) == len(read.ids)
    assert {link.removeprefix("#") for link in read.links} <= set(read.ids)
    assert all(link.startswith("#") for link in read.links)
    return read


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    tests = judged(names=NASTY, defects=["good", "good", "<i>", "<i>", '"', "b&"])
    return tests, written(tmp_path_factory.mktemp("page"), tests)


def test_names_stay_text_and_every_picture_is_there(nasty):
    tests, read = nasty
    scale = drawing.full_scale(FOUND.pixel)
    sources = {"input": tests.images, "reconstruction": tests.reconstructions}
    sources["anomaly map"] = [drawing.colours(anomaly_map, scale) for anomaly_map in tests.maps]
    assert read.headings[0] == "<b>&, step 7"
    names = [article["name"] for article in read.articles]
    assert sorted(names) == sorted(map(printable, NASTY))
    assert printable(NASTY[5]) == r"odd\udcff\n\x1b[31m.png"
    for article in read.articles:
        row = [printable(name) for name in NASTY].index(article["name"])
        images = {values["alt"].split(" of ")[0]: picture(values) for values in article["images"]}
        kinds = list(drawing.COLUMNS)
        if row == 3:
            kinds.remove("truth")
            assert "no mask" in article["words"]
        else:
            np.testing.assert_array_equal(images["truth"], tests.truth(row))
        assert list(images) == kinds
        assert f"score {tests.scores[row]:.4g}" in article["words"]
        sure = 1 / (1 + (0.6 / tests.scores[row]) ** 2)
        assert f"confidence {sure:.2f}" in article["words"]
        for kind, views in sources.items():  # compressed, yet nearest to its own
            distance = [abs(images[kind] - view.astype(float)).mean() for view in views]
            assert np.argmin(distance) == row and distance[row] < 0.8 * sorted(distance)[1], kind


def test_the_middle_colour_is_that_of_the_threshold(nasty):
    read = nasty[1]
    assert page.COLOURS in read.words
    assert "Colour scale of all anomaly maps, from 0 (dark) to 0.6 (bright)" in read.lines
    assert "threshold of pixels 0.3" in read.words


def test_the_truth_is_outlined(nasty):
    tests, read = nasty
    for article in read.articles:
        row = [printable(name) for name in NASTY].index(article["name"])
        truth = tests.truth(row)
        if truth is None or not truth.any():
            assert article["outlines"] == []
            continue
        (path,) = article["outlines"]
        x, y = np.array([point.split() for point in path[1:].split("L")], float).T
        area = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
        assert area == pytest.approx(truth.sum(), abs=1)  # its corners are cut
        rows, columns = np.nonzero(truth)
        assert (x.min(), x.max()) == (columns.min(), columns.max() + 1)
        assert (y.min(), y.max()) == (rows.min(), rows.max() + 1)


def test_mistakes_come_first_and_say_so(nasty):
    read = nasty[1]
    groups = ["Missed defects (1)", "False alarms (1)"]
    groups += ['", found (1)', "<i>, found (1)", "b&, found (1)", "good, passed (1)"]
    assert read.headings[4:-1] == groups
    assert "✗ missed: called good" in read.articles[0]["words"]
    assert "✗ false alarm: called defective" in read.articles[1]["words"]
    assert all("✓" in "".join(article["words"]) for article in read.articles[2:])
    assert (
        "3 of 4 defective pictures found, 1 of 2 good pictures falsely called defective, at "
        "threshold 0.6." in read.words
    )
    words = " ".join(read.words)
    assert "best F1 on 6 labelled pictures (evaluate.threshold=f1)" in words
    assert "False alarms: 1 of 2 good pictures, 95 % interval 1.3 to 98.7 %." in words
    assert "Defects found: 3 of 4 defective pictures, 95 % interval 19.4 to 99.4 %." in words


def test_numbers_are_those_given(nasty):
    tests, read = nasty
    heads, images, pixels = read.tables["How well the scores separate"]
    assert heads[1:4] == ["AUROC", "AP", "F1-max"]
    assert images == ["images", "0.87510.700 – 1.000", "n/a", "-", "1.25e-06", "-", "-"]
    assert pixels == ["pixels", "0.2500", "-", "-", "n/a", "-", "0.1250"]
    verdicts = {row[0]: row[1:] for row in read.tables["Verdicts (pictures)"]}
    assert verdicts["truly defective"] == ["3", "1"] and verdicts["truly good"] == ["1", "1"]
    types = {row[0]: row[1:] for row in read.tables["By type of defect"]}
    assert types["<i>"][:5] == ["2", "1 (50 %)", "0.5167", "0.3333", "0.7"]
    assert types["<i>"][5] == "0.7500" and "-" not in types["<i>"][6:]  # of its only mask
    assert "1 defective without a mask: pixel-level measures leave them out." in read.words
    assert types["good"] == ["2", "1 (50 %)", "0.35", "0.1", "0.6", "-", "-", "-"]
    ap = sklearn.metrics.average_precision_score(tests.truth(4).ravel(), tests.maps[4].ravel())
    assert types['"'][6] == f"{ap:.4f}"
    keys = {row[0]: row[1] for row in read.tables["Configuration of the run"]}
    assert keys["data.category"] == "'<b>&'" and keys["model.image_size"] == "32"


def test_the_same_bytes_twice(tmp_path):
    for name in ("one", "two"):
        page.write(tmp_path / name, evaluated(values=VALUES), CONFIG)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def drawn(points: str) -> np.ndarray:
    """A line of a chart in the unit square."""
    xy = np.array([[float(v) for v in point.split(",")] for point in points.split()])
    x = (xy[:, 0] - charts.LEFT) / (charts.WIDTH - charts.LEFT - charts.RIGHT)
    y = 1 - (xy[:, 1] - charts.TOP) / (charts.HEIGHT - charts.TOP - charts.BOTTOM)
    return np.stack([x, y], axis=1)


def test_the_areas_under_the_curves_are_the_measures(tmp_path):
    tests = judged(has_mask=np.ones(6, bool))
    tests.masks[2, 2:] = 0  # regions of unequal size weigh the same in AUPRO, but not here
    tests.maps[tests.masks[..., 0] > 0] -= 0.45  # the classes overlap
    tests.maps[2, :2] += 0.2
    read = written(tmp_path, tests)
    truth, maps = tests.masks.ravel() > 0, tests.maps.ravel()
    items = [(tests.labels, tests.scores, 1e-4), (truth, maps, 2e-3)]
    measures = ("roc_auc_score", "average_precision_score")
    for name, measure in zip(("ROC curve", "Precision and recall"), measures, strict=True):
        lines = [values["points"] for tag, values in read.lines[name] if tag == "polyline"]
        assert len(lines) == 2
        for line, (labels, scores, tolerance) in zip(lines, items, strict=True):
            x, y = drawn(line).T
            expected = getattr(sklearn.metrics, measure)(labels, scores)
            assert np.trapezoid(y, x) == pytest.approx(expected, abs=tolerance)
        ring = next(values for tag, values in read.lines[name] if tag == "circle")  # before its key
        place = drawn(f"{ring['cx']},{ring['cy']}")[0]
        expected = (1 / 2, 3 / 4) if name == "ROC curve" else (3 / 4, 3 / 4)
        assert place == pytest.approx(expected, abs=1e-4)


def test_every_picture_is_in_the_histogram(nasty):
    tests, read = nasty
    bars = [values for tag, values in read.lines["Scores"] if tag == "rect"]
    base = {"bar c2": 1, "bar c1": 0}
    unit = min(float(bar["height"]) for bar in bars)
    for style, label in base.items():
        heights = [float(bar["height"]) / unit for bar in bars if bar["class"] == style]
        assert sum(heights) == pytest.approx((tests.labels == label).sum(), abs=0.01)


def test_nothing_known_but_the_scores(tmp_path):
    tests = judged(masks=None, maps=np.zeros((6, 32, 32), np.float32))
    read = written(tmp_path, tests, {}, None)
    assert "There is no threshold" in " ".join(read.words)
    assert "4 defective without a mask: no pixel-level measures." in read.words
    assert "Verdicts (pictures)" not in read.tables
    assert [len(article["images"]) for article in read.articles] == [4, 4, 4, 4, 5, 5]
    assert not any("✓" in word or "✗" in word for word in read.words)
    assert not any("confidence 0" in word for word in read.words)
    assert page.NO_MIDDLE in read.words
    assert read.tables["How well the scores separate"][1][1:] == ["-"] * 6


@pytest.mark.parametrize(
    ("label", "sentence"),
    [(0, "4 of 6 good pictures falsely"), (1, "4 of 6 defective pictures found")],
)
def test_one_class_alone(tmp_path, label, sentence):
    tests = judged(labels=np.full(6, label, np.int32), scores=np.linspace(0, 1, 6))
    rule = ("false_alarms:0.005", "recall:0.99")[label]
    found = dataclasses.replace(FOUND, image=0.3, source=rule, pictures=20)
    if not label:
        found = dataclasses.replace(found, recall=math.nan, recall_interval=None)
    read = written(tmp_path, tests, {}, found)
    words = " ".join(read.words)
    origin = (
        "the lowest that at most 0.5 % of 20 good pictures reach that training did not see",
        "the highest that at least 99 % of 20 defective pictures reach",
    )[label]
    assert sentence in words and origin in words and f"(evaluate.threshold={rule})" in words
    # The rate of pictures that are not shown is told in percent.
    assert ("50.0 % of the good pictures held out of training, 95 %" in words) == bool(label)
    assert ("Defects found: 4 of 6 defective pictures, 95 %" in words) == bool(label)
    assert ("found, at threshold" in words) == bool(label)
    assert len(read.articles) == 6


def test_a_step_chosen_on_the_test_pictures_is_said_to_be(tmp_path, nasty):
    identity = identify(helpers.parsed(evaluate__checkpoint="best"), 7, "")
    read = written(tmp_path, judged(), identity=identity)
    assert page.BEST in read.words and page.BEST not in nasty[1].words
    assert "Scored with the best checkpoint" in " ".join(read.words)
    assert "Scored with the last checkpoint" in " ".join(nasty[1].words)


def test_it_says_what_was_scored_not_what_the_configuration_says_today(tmp_path):
    scored = helpers.parsed(evaluate__weights="raw", evaluate__top_pixels=7)
    today = helpers.parsed(evaluate__weights="ema", evaluate__top_pixels=50)
    read = written(tmp_path, judged(), config=today, identity=identify(scored, 30, "fedcba987654"))
    made = {row[0]: row[1] for row in read.tables["What the scores were made with"]}
    assert (made["weights"], made["top_pixels"], made["step"]) == ("raw", "7", "30")
    assert made["pictures"] == "fedcba987654" and made["program"] == IDENTITY.program
    words = " ".join(read.words)
    assert "raw weights" in words and "EMA weights" not in words


def test_a_page_of_a_large_set_is_bounded_and_says_what_it_leaves_out(tmp_path):
    labels, defects, scores = many(400)
    blank = np.zeros((400, 8, 8, 3), np.uint8)
    names = [f"{i}.png" for i in range(400)]
    maps = np.zeros((400, 8, 8), np.float32)
    masks = np.zeros((400, 8, 8, 1), np.uint8)
    masks[labels == 1, 1:] = 255
    tests = results.Judged(
        names, defects, labels, scores, maps, blank, blank, masks, np.ones(400, bool)
    )
    read = written(tmp_path, tests, threshold=dataclasses.replace(FOUND, image=0.5))
    assert len(read.articles) == cards.MOST
    assert any("200 of 400 pictures are shown" in word for word in read.words)
    assert (tmp_path / "deep/report.html").stat().st_size < 1e6


def test_large_pictures_are_shrunk_and_small_peaks_stay(tmp_path):
    size = 512
    maps = np.zeros((1, size, size), np.float32)
    maps[0, 300, 101] = 1.0
    image = np.full((1, size, size, 3), 90, np.uint8)
    masks, one = (maps > 0).astype(np.uint8)[..., None], np.ones(1)
    tests = results.Judged(
        ["a"], ["hole"], one.astype(np.int32), one, maps, image, image, masks, one > 0
    )
    read = written(tmp_path, tests)
    shown = [picture(values) for values in read.articles[0]["images"]]
    assert all(view.shape[:2] == (256, 256) for view in shown)
    assert np.argwhere(shown[1]).tolist() == [[150, 50]]
    assert np.argwhere(shown[3].max(axis=-1) > 100).mean(axis=0) == pytest.approx([150, 50], abs=2)


def test_text_is_safe_wherever_it_stands():
    for name in NASTY:
        read = Page(document(name, element("p", name, name, aria_label=name)))
        assert read.words == [printable(name)] * 2
    assert text("\u202egnp.exe\u2028") == r"\u202egnp.exe\u2028"
    assert element("p", element("b", "<")) == "<p><b>&lt;</b></p>"  # markup is not escaped again
