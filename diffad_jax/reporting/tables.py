"""Numbers as text: an evaluation's files, and the comparison of several in four forms.

Markdown, LaTeX and CSV go into papers and spreadsheets, the page is for reading and leads to the
reports. There, numbers are percent with one decimal, in CSV as they were measured.
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

from configs.schema import MEASURES
from diffad_jax.reporting.html import document, element, join, printable, table
from diffad_jax.runs import files
from diffad_jax.scoring import appearance, results
from diffad_jax.scoring.identity import SETTINGS, Identity

MISSING, UNDEFINED = "–", "n/a"
# What the names of `made_with` mean, for people who read a report.
MEANINGS = {
    "step": "training step of the checkpoint",
    "seed": "the noise follows from it, the same for every picture",
    "compute_dtype": "number format that the networks compute in",
    "matmul_precision": "precision of products of float32 numbers",
    "guidance_weight": "how strongly the noisier pass guides the repainting of the less noisy one",
    "checkpoint": "last: the newest; best: the one that did best on the test pictures",
    "weights": "ema: a running average over the training steps; raw: as the last step left them",
    "draws": "random noises; the map is the mean over them",
    "residual": "the map is multiplied by |picture - reconstruction| to that power",
    "smoothing": "the map is smoothed by a Gaussian of that many pixels",
    "top_pixels": "a picture's score is the mean of that many highest values of its map",
    "less_noisy": "time step of the less noisy pass",
    "noisier": "time step of the noisier pass",
    "pictures": "fingerprint of the pictures judged: equal where they are the same",
    "program": "version of diffad_jax",
}
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
class Entry:
    """A run's newest evaluation.

    values: the numbers as its metrics.json has them, None where not defined; identity: what they
    were made with, from there too; trained: what the run was trained with, by dotted key.
    """

    workdir: epath.Path
    values: Mapping[str, float | None]
    identity: Identity
    trained: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the table: a run in one category, or a run's mean over all (entry None).

    best: the measures in which no other run of the category is better.
    """

    category: str
    run: str
    values: Mapping[str, float | None]
    best: frozenset[str]
    entry: Entry | None


def made_with(made: Identity) -> dict[str, str]:
    """What scores depend on besides pictures, by short names: step, settings, pictures, program."""
    settings = {key: str(made.settings.get(key, "")) for key in SETTINGS}
    shown = {"step": str(made.step)} | {key.split(".")[-1]: v for key, v in settings.items()}
    return shown | {"pictures": made.pictures, "program": made.program}


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
    remarks = [*notes, *_sources(lines)]
    return f"{text}\n\n" + "".join(f"- {_markdown(remark)}\n" for remark in remarks)


def to_latex(lines: Sequence[Line], notes: Sequence[str]) -> str:
    """A tabular for the booktabs package; notes and sources as comments."""
    heads = _heads(lines)
    remarks = [*notes, *_sources(lines)]
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
    keys = [*MEASURES, *others]
    abouts = [made_with(line.entry.identity) if line.entry else {} for line in lines]
    about_keys = list(dict.fromkeys(key for about in abouts for key in about))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["category", "run", "workdir", *about_keys, *keys])
    for line, about in zip(lines, abouts, strict=True):
        place = str(line.entry.workdir) if line.entry else ""
        words = [line.category, line.run, place, *(about.get(key, "") for key in about_keys)]
        values = [line.values.get(key, "") for key in keys]
        values = ["nan" if value is None else value for value in values]
        writer.writerow([*map(printable, words), *values])
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
    sources, about = [], {}
    for line in lines:
        if line.entry:
            about = made_with(line.entry.identity)
            linked = {**about, "step": _link(line.entry, folder)}
            sources.append([*_names(line, lines), *linked.values(), line.entry.workdir])
    sources_heads = [*heads, *about, "folder"]
    parts = [
        element("h1", "Comparison"),
        measures,
        *(element("p", f"{note[0].upper()}{note[1:]}.", "faint") for note in notes),
        element("h2", "Where the numbers come from"),
        table("Runs", sources_heads, sources, names=len(heads), style="wide"),
        table("What the columns mean", ["", "meaning"], list(MEANINGS.items()), style="words"),
    ]
    return document("Comparison", element("main", join(parts)))


def _grouped(lines: Sequence[Line], rows: Sequence[Any]) -> Iterator[tuple[Any, Iterator]]:
    """(line, row) in groups to be set apart: the means; where runs compete, each category too."""
    several = any(line.run for line in lines)

    def key(pair: tuple[Line, Any]) -> tuple[bool, str]:
        line = pair[0]
        return line.entry is None, line.category if several else ""

    return itertools.groupby(zip(lines, rows, strict=True), key)


def _link(entry: Entry, folder: epath.Path) -> object:
    """The step, as a link to the report of the evaluation where one can be followed from here."""
    step = str(entry.identity.step)
    report = entry.workdir / "eval" / step / "report.html"
    if "://" in f"{report}{folder}" or not report.exists():
        return step
    way = urllib.parse.quote(os.fsencode(os.path.relpath(report, folder)))
    return element("a", step, href=way)


def _heads(lines: Sequence[Line]) -> list[str]:
    """The columns before the numbers: runs are named where a category has several."""
    return ["category", "run"] if any(line.run for line in lines) else ["category"]


def _names(line: Line, lines: Sequence[Line]) -> list[str]:
    return [line.category, line.run][: len(_heads(lines))]


def _sources(lines: Sequence[Line]) -> Iterator[str]:
    """Where the numbers of each run come from."""
    for line in lines:
        if line.entry:
            made = made_with(line.entry.identity)
            about = ", ".join(f"{key} {value}" for key, value in made.items())
            yield f"{line.category}{line.run and ' '}{line.run}: {line.entry.workdir}, {about}"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", printable(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text))


def write_scores(path: epath.PathLike, evaluation: results.Evaluation) -> None:
    """Write scores.csv (UTF-8): name, defect, label, score, confidence, verdict; a line a picture.

    Numbers are written in full: reading them back gives the same. Without a threshold confidences
    and verdicts stay empty.
    """
    judged, cut = evaluation.judged, evaluation.cut
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "defect", "label", "score", "confidence", "verdict"])
    columns = (judged.names, judged.defects, judged.labels, judged.scores, evaluation.confidences)
    for name, defect, label, score, sure in zip(*columns, strict=True):
        certainty = "" if math.isnan(sure) else float(sure)
        verdict = results.verdict(score, cut)
        writer.writerow([name, defect, int(label), float(score), certainty, verdict])
    # A file name on disk need not be valid Unicode; its odd bytes are then shown, not lost.
    files.write(path, text.getvalue().encode("utf-8", "backslashreplace"))


def write_reference(path: epath.PathLike, judged: results.Judged) -> None:
    """Write reference.json: what the pictures look like, and their scores; a line a picture."""
    pictures = appearance.reference(judged)["pictures"]
    lines = [json.dumps(one, ensure_ascii=False, allow_nan=False) for one in pictures]
    files.write(path, '{"pictures": [\n' + ",\n".join(lines) + "\n]}\n")


def write_metrics(path: epath.PathLike, values: Mapping[str, Any], made: Identity) -> None:
    """Write metrics.json: the numbers, and under "identity" what they were made with.

    Keys are sorted; NaN and infinite values become null, which JSON can hold.
    """
    content = _plain({**values, "identity": made.to_dict()})
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    files.write(path, text + "\n")


def summary(values: Mapping[str, float]) -> str:
    """An evaluation's values as a Markdown table that also reads well in a console.

    Numbers as `number` writes them.
    """
    columns = measure_columns()
    lines = [["", *(name for name, *_ in columns)]]
    for row, level in enumerate(("image", "pixel"), start=1):
        lines.append([level, *(number(values.get(column[row])) for column in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        "| " + " | ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def repainting(values: Mapping[str, float]) -> str:
    """How well pictures are repainted, in a sentence; '' where it was not measured."""
    said = {
        "reconstruction_psnr": "good pictures are repainted",
        "repaint_psnr": "synthetic anomalies are painted over",
    }
    known = [
        f"{words} to {values[key]:.1f} dB"
        for key, words in said.items()
        if not math.isnan(values.get(key, math.nan))
    ]
    return f"PSNR: {', '.join(known)} of the original." if known else ""


def measure_columns() -> list[tuple[str, str, str]]:
    """The measures as columns over two rows: (name, key for images, key for pixels).

    A key is empty where there is no such measure. The threshold of F1-max stands beside it.
    """
    columns = []
    for key, name in MEASURES.items():
        if key.startswith("image_"):
            columns.append((name.removeprefix("image "), key, key.replace("image", "pixel")))
        elif not key.startswith("pixel_"):
            columns.append((name, "", key))
        if key == "image_f1_max":
            columns.append(("at threshold", "image_f1_threshold", "pixel_f1_threshold"))
    return columns


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
