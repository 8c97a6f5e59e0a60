"""The comparison table as Markdown, LaTeX, CSV and HTML: one list of lines, four ways to write it.

The first three go into papers and spreadsheets, the page is for reading and leads to the reports.
Numbers are percent with one decimal, in CSV as they were measured.
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from diffad_jax.reporting.html import Html, document, element, join, printable, table
from diffad_jax.runs.files import write
from diffad_jax.scoring import results

MEASURES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro_30": "AUPRO 0.30",
    "aupro_05": "AUPRO 0.05",
}
MISSING, UNDEFINED = "–", "n/a"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclasses.dataclass(frozen=True)
class Result:
    """A run's newest evaluation. values: as its metrics.json has them, None where not defined."""

    workdir: epath.Path
    category: str
    step: int
    weights: str
    values: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the table: a run in one category, or a run's mean over all (result None).

    best: the measures in which no other run of the category is better.
    """

    category: str
    run: str
    values: Mapping[str, float | None]
    best: frozenset[str]
    result: Result | None


def percent(values: Mapping[str, float | None], key: str) -> str:
    """A measure in percent with one decimal; '–' where it is not there, 'n/a' where not defined."""
    if key not in values:
        return MISSING
    value = values[key]
    return UNDEFINED if value is None or math.isnan(value) else f"{100 * value:.1f}"


def is_number(shown: str) -> bool:
    """Whether `percent` found a number."""
    return shown not in (MISSING, UNDEFINED)


def to_markdown(lines: Sequence[Line], notes: Sequence[str]) -> str:
    """A pipe table, then the notes, then where each line comes from."""
    heads = [*_heads(lines), *MEASURES.values()]
    rows = [heads, [*["---"] * len(_heads(lines)), *["---:"] * len(MEASURES)]]
    for line in lines:
        shown = [percent(line.values, key) for key in MEASURES]
        bold = [
            f"**{text}**" if key in line.best else text
            for key, text in zip(MEASURES, shown, strict=True)
        ]
        rows.append([*map(_markdown, _names(line, lines)), *bold])
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    remarks = [*notes, *(_source(line) for line in lines if line.result)]
    return f"{text}\n\n" + "".join(f"- {_markdown(remark)}\n" for remark in remarks)


def to_latex(lines: Sequence[Line], notes: Sequence[str]) -> str:
    """A tabular for the booktabs package; notes and sources as comments."""
    heads = _heads(lines)
    remarks = [*notes, *(_source(line) for line in lines if line.result)]
    rows = [f"% {printable(remark)}" for remark in remarks]
    rows += ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{{'l' * len(heads)}{'r' * 8}}}"]
    rows += ["\\toprule", " & ".join(map(_latex, [*heads, *MEASURES.values()])) + r" \\"]
    body = []
    for line in lines:
        shown = []
        for key in MEASURES:
            text = percent(line.values, key).replace(MISSING, "--")
            shown.append(f"\\textbf{{{text}}}" if key in line.best else text)
        body.append(" & ".join([*map(_latex, _names(line, lines)), *shown]) + r" \\")
    for number, ((is_mean, _), group) in enumerate(_grouped(lines, body)):
        rows.append("\\midrule" if is_mean or not number else "\\addlinespace")
        rows += [row for _, row in group]
    return "\n".join([*rows, "\\bottomrule", "\\end{tabular}", ""])


def to_csv(lines: Sequence[Line]) -> str:
    """Every number in full, those beside the table's too; not defined: nan, not there: empty."""
    others = sorted({key for line in lines for key in line.values} - set(MEASURES))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = [*MEASURES, *others]
    writer.writerow(["category", "run", "workdir", "step", "weights", *keys])
    for line in lines:
        r = line.result
        about = [printable(str(r.workdir)), r.step, r.weights] if r else ["", "", ""]
        values = [line.values.get(key, "") for key in keys]
        values = ["nan" if value is None else value for value in values]
        writer.writerow([printable(line.category), printable(line.run), *about, *values])
    return buffer.getvalue()


def to_html(lines: Sequence[Line], notes: Sequence[str], folder: epath.Path) -> bytes:
    """The page, to be put into `folder`: the table, the notes, and the runs with their reports."""
    heads, rows = _heads(lines), []
    for line in lines:
        shown = [(key in line.best, percent(line.values, key)) for key in MEASURES]
        cells = [element("strong", number) if best else number for best, number in shown]
        rows.append([*_names(line, lines), *cells])
    groups = [[row for _, row in group] for _, group in _grouped(lines, rows)]
    words = "Percent."
    if any(line.best for line in lines):
        words += " Bold: the best of a category."
    measures = table(words, [*heads, *MEASURES.values()], *groups, names=len(heads))
    sources = [
        [*_names(line, lines), _step(line.result, folder), line.result.weights, line.result.workdir]
        for line in lines
        if line.result
    ]
    about = [*heads, "step", "weights", "folder"]
    parts = [
        element("h1", "Comparison"),
        measures,
        *(element("p", f"{note[0].upper()}{note[1:]}.", "faint") for note in notes),
        element("h2", "Where the numbers come from"),
        table("Runs", about, sources, names=len(heads), style="words"),
    ]
    return document("Comparison", element("main", join(parts)))


def _grouped(lines: Sequence[Line], rows: Sequence[Any]) -> Iterator[tuple[Any, Iterator]]:
    """(line, row) in groups to be set apart: the means; where runs compete, each category too."""
    several = any(line.run for line in lines)

    def key(pair: tuple[Line, Any]) -> tuple[bool, str]:
        line = pair[0]
        return line.result is None, line.category if several else ""

    return itertools.groupby(zip(lines, rows, strict=True), key)


def _step(result: Result, folder: epath.Path) -> object:
    """The step, as a link to the report of the evaluation where one can be followed from here."""
    report = result.workdir / "eval" / str(result.step) / "report.html"
    if "://" in f"{report}{folder}" or not report.exists():
        return result.step
    way = urllib.parse.quote(os.fsencode(os.path.relpath(report, folder)))
    return Html(f'<a href="{way}">{result.step}</a>')


def _heads(lines: Sequence[Line]) -> list[str]:
    """The columns before the numbers: runs are named where a category has several."""
    return ["category", "run"] if any(line.run for line in lines) else ["category"]


def _names(line: Line, lines: Sequence[Line]) -> list[str]:
    return [line.category, line.run][: len(_heads(lines))]


def _source(line: Line) -> str:
    r = line.result
    return f"{line.category}{line.run and ' '}{line.run}: {r.workdir}, step {r.step}, {r.weights}"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", printable(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text))


def write_scores(path: str | os.PathLike, evaluation: results.Evaluation, threshold: float) -> None:
    """Write scores.csv (UTF-8): name, defect, label, score, verdict; a line a picture.

    Scores are written in full: reading them back gives the same numbers. With a NaN threshold the
    verdicts stay empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "defect", "label", "score", "verdict"])
    columns = (evaluation.names, evaluation.defects, evaluation.labels, evaluation.scores)
    for name, defect, label, score in zip(*columns, strict=True):
        writer.writerow([name, defect, int(label), float(score), results.verdict(score, threshold)])
    # A file name on disk need not be valid Unicode; its odd bytes are then shown, not lost.
    write(epath.Path(path), text.getvalue().encode("utf-8", "backslashreplace"))


def write_metrics(path: str | os.PathLike, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json, keys sorted; NaN and infinite values as null, which JSON can hold."""
    text = json.dumps(_plain(metrics), indent=2, sort_keys=True, allow_nan=False)
    write(epath.Path(path), (text + "\n").encode())


def summary(metrics: Mapping[str, float]) -> str:
    """The results of `metrics.evaluate` as a Markdown table that also reads well in a console.

    Numbers as `number` writes them.
    """
    heads = ["", "AUROC", "AP", "F1-max", "threshold", "AUPRO 0.30", "AUPRO 0.05"]
    body = []
    for level in ("image", "pixel"):
        keys = [f"{level}_{name}" for name in ("auroc", "ap", "f1_max", "f1_threshold")]
        keys += ["aupro_30", "aupro_05"] if level == "pixel" else ["", ""]
        body.append([level, *(number(metrics.get(key)) for key in keys)])
    lines = [heads, *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) + " |"
        for line in (heads, rule, *body)
    )


def number(value: float | None) -> str:
    """Four decimals; '-' for a measure that is not there, 'n/a' for one not defined (NaN)."""
    if value is None:
        return "-"
    return "n/a" if math.isnan(value) else f"{value:.4f}"


def _plain(value: Any) -> Any:
    """Only what JSON knows: NumPy numbers become Python's, non-finite ones None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
