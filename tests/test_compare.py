"""The comparison of runs, read back from each of its four forms."""

import csv
import io
import json
import math
import re
import string
import urllib.parse

import pytest
from etils import epath

from configs import default
from configs.schema import MEASURES
from diffad_jax import compare
from diffad_jax.scoring.identity import identify
from tests.support import helpers
from tests.support.web import Page

KEYS = list(MEASURES)
PICTURES = "0123456789ab"


def make(folder, category, *steps, settings=None, trained=None, pictures=PICTURES, **changes):
    """A run with an evaluation at each step; the numbers of a later one are higher.

    settings, trained: what it was scored and trained with, other than the rest.
    """
    folder.mkdir(parents=True)
    # What a run's configuration says today is not what it was scored with.
    config = {"data": {"category": "other"}, "evaluate": {"weights": "other"}} | (trained or {})
    (folder / "config.json").write_text(json.dumps(config))
    for step in steps:
        scored = helpers.parsed(data__category=category, **settings or {})
        values = {key: 0.5 + step / 1000 + i / 100 for i, key in enumerate(KEYS)}
        values |= {"identity": identify(scored, step, pictures).to_dict()}
        values |= {"image_auroc_low": 0.25, **changes}
        (folder / f"eval/{step}").mkdir(parents=True)
        values = {key: value for key, value in values.items() if value != "absent"}
        (folder / f"eval/{step}/metrics.json").write_text(json.dumps(values))
    return folder


def markdown(folder):
    """Cells of the pipe table, and the remarks below it."""
    text = (folder / "comparison.md").read_text("utf-8")
    table, remarks = text.split("\n\n")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
    assert len({len(row) for row in rows}) == 1
    rows = [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in rows]
    return [rows[0], *rows[2:]], remarks.splitlines()


def latex(folder):
    """Cells of the tabular, escapes undone."""
    text = (folder / "comparison.tex").read_text("utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    columns = re.search(r"\\begin{tabular}{(l+r+)}", code)[1]
    rows = re.findall(r"^([^\\\n].*?) \\\\$", code, re.MULTILINE)
    cells = [re.split(r"(?<!\\)&", row) for row in rows]
    assert all(len(row) == len(columns) for row in cells)
    assert code.count("\\toprule") == code.count("\\bottomrule") == 1
    return [[re.sub(r"\\([&%$#_{}])", r"\1", cell.strip()) for cell in row] for row in cells]


def spreadsheet(folder):
    data = (folder / "comparison.csv").read_text("utf-8")
    return list(csv.DictReader(io.StringIO(data, newline="")))


def web(folder):
    return Page((folder / "comparison.html").read_bytes())


def test_a_row_a_category_and_their_mean(tmp_path):
    make(tmp_path / "grid", "grid", 40)
    make(tmp_path / "x_bottle", "bottle", 9, 100)  # the newest counts, not the last by name
    assert compare.run([tmp_path]) == tmp_path
    expected = [
        ["category", *MEASURES.values()],
        ["bottle", "60.0", "61.0", "62.0", "63.0", "64.0", "65.0", "66.0", "67.0"],
        ["grid", "54.0", "55.0", "56.0", "57.0", "58.0", "59.0", "60.0", "61.0"],
        ["mean", "57.0", "58.0", "59.0", "60.0", "61.0", "62.0", "63.0", "64.0"],
    ]
    rows, remarks = markdown(tmp_path)
    assert rows == expected
    assert remarks[0].startswith(f"- bottle: {tmp_path}/x_bottle, step 100, ".replace("_", "\\_"))
    assert ", weights ema, " in remarks[0] and f"pictures {PICTURES}" in remarks[0]
    assert latex(tmp_path) == expected
    assert next(table for name, table in web(tmp_path).tables.items() if name[:7] == "Percent") == (
        expected
    )
    bottle, grid, mean = spreadsheet(tmp_path)
    assert [float(bottle[key]) for key in KEYS] == [0.5 + 0.1 + i / 100 for i in range(8)]
    assert (grid["step"], grid["workdir"], grid["weights"]) == ("40", f"{tmp_path}/grid", "ema")
    assert float(bottle["image_auroc_low"]) == 0.25
    assert mean["category"] == "mean" and float(mean["image_auroc"]) == pytest.approx(0.57)


def test_runs_of_a_category_compete(tmp_path):
    for name, step in (("small", 40), ("large", 90)):
        for category in ("bottle", "grid"):
            make(tmp_path / name / category, category, step, image_ap=0.9904)
    make(tmp_path / "flat" / "bottle_7", "bottle", 10, aupro_05=0.99, image_ap=0.9896)
    compare.run([tmp_path / "small", tmp_path / "large", tmp_path / "flat"], tmp_path / "out")
    rows, remarks = markdown(tmp_path / "out")
    assert [row[:2] for row in rows[1:]] == [
        ["bottle", "small"],
        ["bottle", "large"],
        ["bottle", "flat/7"],
        ["grid", "small"],
        ["grid", "large"],
        ["mean", "small"],
        ["mean", "large"],
        ["mean", "flat/7"],
    ]
    bold = {(row[0], row[1]): [i for i, cell in enumerate(row[2:]) if "*" in cell] for row in rows}
    assert bold["bottle", "large"] == [0, 1, 2, 3, 4, 5, 6]
    assert bold["bottle", "flat/7"] == [1, 7]  # 98.96 shows as 99.0, as 99.04 does
    assert bold["bottle", "small"] == [1]
    assert bold["grid", "large"] == [0, 1, 2, 3, 4, 5, 6, 7] and bold["grid", "small"] == [1]
    assert bold["mean", "large"] == []  # flat/7 has one category only
    assert remarks[0] == "- the mean of flat/7 is over 1 of 2 categories"
    tex = latex(tmp_path / "out")
    assert [cell.replace("\\textbf{", "**").replace("}", "**") for cell in tex[3]] == rows[3]
    code = (tmp_path / "out/comparison.tex").read_text("utf-8")
    assert (code.count("\\midrule"), code.count("\\addlinespace")) == (2, 1)
    page = web(tmp_path / "out")
    assert "The mean of flat/7 is over 1 of 2 categories." in page.words


def test_missing_and_undefined_measures(tmp_path, caplog):
    make(tmp_path / "a", "a", 10, pixel_ap="absent", aupro_30=None, aupro_05="absent")
    make(tmp_path / "b", "b", 10, aupro_05="absent")
    make(tmp_path / "c", "c")
    compare.run([tmp_path])
    assert f"without an evaluation, left out: {tmp_path}/c" in caplog.text
    (heads, a, b, mean), remarks = markdown(tmp_path)
    at = {name: i for i, name in enumerate(heads)}
    ap, wide, narrow = at["pixel AP"], at["AUPRO 0.30"], at["AUPRO 0.05"]
    assert (a[ap], a[wide], a[narrow]) == ("–", "n/a", "–")
    assert (b[narrow], mean[narrow]) == ("–", "–") and mean[ap] == b[ap] == "55.0"
    assert remarks[:2] == [
        "- the mean leaves out a in pixel AP: not measured",
        "- the mean leaves out a in AUPRO 0.30: not measured",
    ]
    assert latex(tmp_path)[1][ap] == "--"
    row = spreadsheet(tmp_path)[0]
    assert row["pixel_ap"] == "" and math.isnan(float(row["aupro_30"]))


def test_names_are_escaped(tmp_path):
    name = "50%_<b>|&#1{x}~^\\$*é"
    make(tmp_path / "run|a_1", name, 10)
    make(tmp_path / "run|a_2", name, 20)
    compare.run([tmp_path])
    assert markdown(tmp_path)[0][1][:2] == [name, "run|a_1"]
    code = (tmp_path / "comparison.tex").read_text("utf-8")
    escaped = (
        r"50\%\_\textless{}b\textgreater{}\textbar{}\&\#1\{x\}\textasciitilde{}"
        r"\textasciicircum{}\textbackslash{}\$*é"
    )
    assert f"{escaped} & run\\textbar{{}}a\\_1 & " in code
    assert spreadsheet(tmp_path)[1]["category"] == name
    table = web(tmp_path).tables["Runs"]
    assert table[1][:3] == [name, "run|a_1", "10"]


def test_the_page_leads_to_the_reports(tmp_path):
    report = make(tmp_path / "a #1%é", "a", 10) / "eval/10/report.html"
    report.write_text("")
    make(tmp_path / "b", "b", 20)
    compare.run([tmp_path], tmp_path / "out/deep")
    (link,) = web(tmp_path / "out/deep").links
    assert (tmp_path / "out/deep" / urllib.parse.unquote(link)).resolve() == report
    assert set(link) <= set(string.ascii_letters + string.digits + "/%._-")


def test_patterns_parents_and_one_run(tmp_path):
    for name in ("old", "bottle_1", "bottle_2"):
        make(tmp_path / "runs" / name, "bottle", 10)
    (tmp_path / "runs/notes").mkdir()
    found = compare.find([f"{tmp_path}/runs/bottle_*", tmp_path / "runs/bottle_2"])
    assert [folder.name for folder in found] == ["bottle_1", "bottle_2"]
    assert len(compare.find([tmp_path])) == 3
    entries = [compare.read(folder) for folder in found]
    assert compare.run_names(entries) == ["1", "2"]
    assert compare.run_names(entries[:1]) == [""]
    assert compare.run([f"{tmp_path}/runs/old"]) == tmp_path / "runs"
    rows, _ = markdown(tmp_path / "runs")
    assert [row[0] for row in rows] == ["category", "bottle"]  # no mean over one


def test_names_that_would_not_tell_runs_apart(tmp_path):
    for name in ("nut/walnut", "nut-walnut"):
        make(tmp_path / "a" / name, "nut", 10)
    entries = [compare.read(folder) for folder in compare.find([tmp_path])]
    assert compare.run_names(entries) == ["nut/walnut", "nut-walnut"]


def test_folders_on_gs_have_a_common_parent():
    folders = [epath.Path(f"gs://bucket/runs/{name}") for name in ("a", "b/c")]
    assert str(compare.common_parent(folders)) == "gs://bucket/runs"
    assert compare.common_parent([epath.Path("a"), epath.Path("/b")]) == epath.Path()


def test_the_same_bytes_twice(tmp_path):
    make(tmp_path / "a", "a", 10)
    make(tmp_path / "b", "b", 20)
    for name in ("one", "two"):
        compare.run([tmp_path], tmp_path / name)
    for ending in ("md", "tex", "csv", "html"):
        one, two = (tmp_path / name / f"comparison.{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_runs_scored_differently_are_said_to_be(tmp_path):
    raw = {"evaluate__weights": "raw", "evaluate__draws": 3}
    make(tmp_path / "a" / "grid", "grid", 10)
    make(tmp_path / "b" / "grid", "grid", 10, settings=raw)
    compare.run([tmp_path])
    _, remarks = markdown(tmp_path)
    assert remarks[:2] == [
        "- scored differently, weights: ema in a; raw in b",
        "- scored differently, draws: 1 in a; 3 in b",
    ]
    assert "Scored differently, weights: ema in a; raw in b." in web(tmp_path).words
    rows = spreadsheet(tmp_path)
    assert [(row["weights"], row["draws"]) for row in rows] == [("ema", "1"), ("raw", "3")]
    assert {row["less_noisy"] for row in rows} == {str(helpers.parsed().evaluate.less_noisy)}
    runs = web(tmp_path).tables["Runs"]
    weights = runs[0].index("weights")
    assert [row[weights] for row in runs[1:]] == ["ema", "raw"]


def test_runs_on_different_pictures_do_not_compete(tmp_path):
    for name, step, pictures in (("a", 10, PICTURES), ("b", 20, PICTURES), ("c", 30, "f" * 12)):
        make(tmp_path / name / "grid", "grid", step, pictures=pictures)
        make(tmp_path / name / "bottle", "bottle", step, pictures="1" * 12)
    compare.run([tmp_path])
    rows, remarks = markdown(tmp_path)
    assert remarks[0] == (
        f"- the runs of grid judged different pictures: {PICTURES} in a, b; {'f' * 12} in c"
    )
    assert not any(note.startswith("- the runs of bottle") for note in remarks)
    bold = {tuple(row[:2]) for row in rows[1:] if "*" in "".join(row[2:])}
    assert bold == {("bottle", "c")}  # nor do the means over them


def test_what_runs_were_trained_with_is_told_where_it_differs(tmp_path):
    old = {"train": {"steps": 9}, "data": {"root": "elsewhere"}, "seed": 7}  # before the new keys
    new = {"loss": {"snr_gamma": 5.0}, "model": {"attention_widths": [16, 8], "remat": "norms"}}
    for category in ("bottle", "grid"):
        make(tmp_path / "old" / category, category, 10, trained=old)
        make(tmp_path / "new" / category, category, 10, trained=new)
    make(tmp_path / "old" / "nut", "nut", 10, trained=old | {"loss": {"snr_gamma": 2.0}})
    compare.run([tmp_path])
    _, remarks = markdown(tmp_path)
    widths = list(default.get_config().model.attention_widths)
    assert [remark.replace("\\", "") for remark in remarks[:3]] == [
        "- trained differently, loss.snr_gamma: 5.0 in new; 0.0 in bottle old, grid old; "
        "2.0 in nut old",
        f"- trained differently, model.attention_widths: [16, 8] in new; {widths} in old",
        "- the mean of new is over 2 of 3 categories",
    ]


def test_a_configuration_that_is_none_is_named(tmp_path):
    (make(tmp_path / "a", "a", 10) / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"a/config\.json is not a configuration: "):
        compare.run([tmp_path])


def test_a_run_that_differs_in_one_category_is_named_with_it(tmp_path):
    for run, category, weights in (("a", "x", "ema"), ("a", "y", "raw"), ("b", "x", "ema")):
        make(tmp_path / run / category, category, 10, settings={"evaluate__weights": weights})
    compare.run([tmp_path])
    note = "- scored differently, weights: ema in x a, b; raw in y a"
    assert markdown(tmp_path)[1][0] == note


def test_many_runs_that_differ_are_counted(tmp_path):
    for i in range(6):
        weights = "raw" if i == 5 else "ema"
        make(tmp_path / f"r{i}", "grid", 10, settings={"evaluate__weights": weights})
    compare.run([tmp_path])
    note = "- scored differently, weights: ema in r0, r1, r2 and 2 more; raw in "
    assert markdown(tmp_path)[1][0] == f"{note}r5"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[]", "metrics.json holds a list"),
        ("{", "metrics.json is not JSON"),
        ('{"image_ap": "high"}', "metrics.json: image_ap is 'high', not a number"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, line):
    make(tmp_path / "a", "a", 10)
    (tmp_path / "a/eval/10/metrics.json").write_text(content)
    with pytest.raises(ValueError, match=line):
        compare.run([tmp_path])
    assert not (tmp_path / "comparison.md").exists()


@pytest.mark.parametrize("identity", ["absent", None, {}, {"step": 1}, "raw"])
def test_a_run_that_does_not_say_what_it_was_scored_with_is_to_be_evaluated(tmp_path, identity):
    make(tmp_path / "a", "a", 10, identity=identity)
    with pytest.raises(ValueError, match=r"a/eval/10/metrics\.json does not say .*--mode evaluate"):
        compare.run([tmp_path])


def test_nothing_to_compare_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no workdir"):
        compare.run([])
    with pytest.raises(ValueError, match=r"nope\* holds no run"):
        compare.run([f"{tmp_path}/nope*"])
    make(tmp_path / "a", "a")
    with pytest.raises(ValueError, match=r"no evaluation in .*/a: nothing to compare"):
        compare.run([tmp_path])
