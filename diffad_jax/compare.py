"""The table that people put into papers, over the evaluations of several runs.

A run is the folder of one category. Runs of several categories form a table with a row a category
and their mean; several runs of one category compete in it, the best numbers in bold.
"""

import json
import logging
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from configs import stored
from diffad_jax.reporting import tables
from diffad_jax.reporting.tables import MEASURES, Line, Result
from diffad_jax.runs import files
from diffad_jax.scoring import metrics

logger = logging.getLogger(__name__)

DEPTH = 3  # how far below a folder runs are looked for


def run(workdirs: Sequence[epath.PathLike], output: epath.PathLike | None = None) -> epath.Path:
    """Write comparison.md, .tex, .csv and .html; returns their folder.

    Args:
      workdirs: runs, folders that hold runs, or patterns such as `runs/bottle*`; local or gs://.
      output: folder to write to; None: the nearest folder that holds all the runs.

    Raises:
      ValueError: nothing there, or no run with an evaluation; names what was looked at.
    """
    folders = find(workdirs)
    found = {folder: read(folder) for folder in folders}
    results = [result for result in found.values() if result is not None]
    without = [str(folder) for folder, result in found.items() if result is None]
    if not results:
        raise ValueError(f"no evaluation in {', '.join(without)}: nothing to compare")
    if without:
        logger.warning("without an evaluation, left out: %s", ", ".join(without))
    lines, notes = tabulate(results)
    target = common_parent(folders) if output is None else epath.Path(output)
    markdown = tables.to_markdown(lines, notes)
    contents = {
        "md": markdown,
        "tex": tables.to_latex(lines, notes),
        "csv": tables.to_csv(lines),
        "html": tables.to_html(lines, notes, target),
    }
    for ending, content in contents.items():
        files.write(target / f"comparison.{ending}", content)
    logger.info("comparison of %d runs: %s\n%s", len(results), target, markdown)
    return target


def find(workdirs: Sequence[epath.PathLike]) -> list[epath.Path]:
    """The runs that are meant, each once: in the order given, those of one folder by name.

    Raises:
      ValueError: none given, or nothing there.
    """
    if not workdirs:
        raise ValueError("no workdir to compare was given")
    found: dict[epath.Path, None] = {}
    for given in workdirs:
        runs = [run for folder in _expand(given) for run in _runs(folder, DEPTH)]
        if not runs:
            raise ValueError(f"{given} holds no run: no folder there has a config.json")
        found |= dict.fromkeys(runs)
    return list(found)


def read(folder: epath.Path) -> Result | None:
    """A run's newest evaluation; None where it has none.

    Raises:
      ValueError: a file is not what it should be; names it.
    """
    files = [path / "metrics.json" for path in _folders(folder / "eval") if path.name.isdecimal()]
    files = [file for file in files if file.exists()]
    if not files:
        return None
    newest = max(files, key=lambda file: int(file.parent.name))
    values, config = _mapping(newest), _mapping(stored.path(folder))
    wrong = [key for key in MEASURES if not isinstance(values.get(key), float | int | None)]
    if wrong:
        raise ValueError(f"{newest}: {wrong[0]} is {values[wrong[0]]!r}, not a number")
    return Result(
        workdir=folder,
        category=str(config.get("data", {}).get("category", folder.name)),
        step=int(newest.parent.name),
        weights=str(config.get("evaluate", {}).get("weights", "")),
        values=values,
    )


def tabulate(results: Sequence[Result]) -> tuple[list[Line], list[str]]:
    """The lines of the table, and what a reader must know about them.

    Categories stand in the order of their names, their runs in the order given, the means at the
    end. The best of a category is found among the numbers as shown, so that equal ones share it.
    """
    names, lines, notes = labels(results), [], []
    ranked = sorted(zip(results, names, strict=True), key=lambda pair: pair[0].category)
    categories = sorted({result.category for result in results})
    for category in categories:
        rows = [(r.values, name, r) for r, name in ranked if r.category == category]
        lines += _competing(category, rows)
    if len(categories) == 1:
        return lines, notes
    means, fair = [], set(MEASURES)  # measures whose means are all over every category
    for name in dict.fromkeys(names):
        values = {r.category: r.values for r, label in ranked if label == name}
        mean = metrics.mean(values)
        means.append(({key: v for key, v in mean.items() if not math.isnan(v)}, name, None))
        whole = f"the mean of {name}" if name else "the mean"
        if len(values) < len(categories):
            fair.clear()
            notes.append(f"{whole} is over {len(values)} of {len(categories)} categories")
        for key, measure in MEASURES.items():
            without = [category for category, v in values.items() if v.get(key) is None]
            if 0 < len(without) < len(values):
                fair.discard(key)
                notes.append(f"{whole} leaves out {', '.join(without)} in {measure}: not measured")
    return lines + _competing("mean", means, fair), notes


def labels(results: Sequence[Result]) -> list[str]:
    """A name for each run that is the same in every category: its path without the category.

    runs/small/bottle and runs/small/grid are both "small", as are bottle_small and grid_small. All
    names are empty where no category has two runs.
    """
    categories = [result.category for result in results]
    if len(set(categories)) == len(results):
        return [""] * len(results)
    above = common_parent([result.workdir for result in results])
    paths = [result.workdir.relative_to(above) for result in results]
    names = []
    for path, category in zip(paths, categories, strict=True):
        pattern = rf"(?<![^\W_]){re.escape(category)}(?![^\W_])"
        parts = [re.sub(pattern, "", part).strip("_-. ") for part in path.parts]
        names.append("/".join(filter(None, parts)) or "run")
    if len(set(zip(categories, names, strict=True))) < len(results):
        return [str(path) for path in paths]
    return names


def common_parent(folders: Sequence[epath.Path]) -> epath.Path:
    """The nearest folder that holds all of them; the working directory where none does."""
    for parent in folders[0].parents:
        if all(parent in folder.parents for folder in folders):
            return parent
    return epath.Path()


def _competing(
    category: str,
    rows: Sequence[tuple[Mapping[str, Any], str, Result | None]],
    fair: Collection[str] = tuple(MEASURES),
) -> list[Line]:
    """Lines of runs that are measured against each other in the `fair` measures."""
    best: list[set[str]] = [set() for _ in rows]
    if len(rows) > 1:
        for key in fair:
            shown = [tables.percent(values, key) for values, _, _ in rows]
            numbers = [float(text) for text in shown if tables.is_number(text)]
            for i, text in enumerate(shown):
                if tables.is_number(text) and float(text) == max(numbers):
                    best[i].add(key)
    return [
        Line(category, name, values, frozenset(best[i]), result)
        for i, (values, name, result) in enumerate(rows)
    ]


def _expand(given: epath.PathLike) -> list[epath.Path]:
    """The folders that a path or a pattern means."""
    path = epath.Path(given).expanduser()
    magic = [i for i, part in enumerate(path.parts) if re.search(r"[*?\[]", part)]
    if path.exists() or not magic:
        return [path]
    above = path
    for _ in path.parts[magic[0] :]:
        above = above.parent
    return sorted(p for p in above.glob("/".join(path.parts[magic[0] :])) if p.is_dir())


def _runs(folder: epath.Path, depth: int) -> list[epath.Path]:
    """The folder itself where it is a run, else the runs in it."""
    if stored.path(folder).exists():
        return [folder]
    return [run for path in _folders(folder) if depth for run in _runs(path, depth - 1)]


def _folders(folder: epath.Path) -> list[epath.Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _mapping(path: epath.Path) -> dict[str, Any]:
    """What a JSON file holds, or a ValueError that names it."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__} where names and values belong")
    return values
