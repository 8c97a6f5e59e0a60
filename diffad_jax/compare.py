"""The table that people put into papers, over the evaluations of several runs.

A run is the folder of one category. Runs of several categories form a table with a row a category
and their mean; several runs of one category compete in it, the best numbers in bold. What a run was
scored with is read from its metrics.json, where the numbers are: its config.json may be newer, and
says what the weights were trained with, which stays as it was.
"""

import itertools
import json
import logging
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from configs import stored
from configs.errors import UserError
from configs.schema import MEASURES
from diffad_jax.reporting import tables
from diffad_jax.reporting.tables import Entry, Line
from diffad_jax.runs import files
from diffad_jax.runs.folder import trained_with
from diffad_jax.scoring import metrics
from diffad_jax.scoring.identity import Identity

logger = logging.getLogger(__name__)

DEPTH = 3  # how far below a folder runs are looked for
NAMED = 3  # runs that a note names before it counts the others


def run(workdirs: Sequence[epath.PathLike], output: epath.PathLike | None = None) -> epath.Path:
    """Write comparison.md, .tex, .csv and .html; returns their folder.

    Args:
      workdirs: runs, folders that hold runs, or patterns such as `runs/bottle*`; local or gs://.
      output: folder to write to; None: the nearest folder that holds all the runs.

    Raises:
      UserError: nothing there, no run with an evaluation, or one that does not say what it was
        scored with; names what was looked at.
    """
    folders = find(workdirs)
    found = {folder: read(folder) for folder in folders}
    entries = [entry for entry in found.values() if entry is not None]
    without = [str(folder) for folder, entry in found.items() if entry is None]
    if not entries:
        raise UserError(f"no evaluation in {', '.join(without)}: nothing to compare")
    if without:
        logger.warning("without an evaluation, left out: %s", ", ".join(without))
    lines, notes = tabulate(entries)
    target = common_parent(folders) if output is None else epath.Path(output)
    markdown = tables.to_markdown(lines, notes)
    contents: dict[str, str | bytes] = {
        "md": markdown,
        "tex": tables.to_latex(lines, notes),
        "csv": tables.to_csv(lines),
        "html": tables.to_html(lines, notes, target),
    }
    for ending, content in contents.items():
        files.write(target / f"comparison.{ending}", content)
    logger.info("comparison of %d runs: %s\n%s", len(entries), target, markdown)
    return target


def find(workdirs: Sequence[epath.PathLike]) -> list[epath.Path]:
    """The runs that are meant, each once: in the order given, those of one folder by name.

    Raises:
      UserError: none given, or nothing there.
    """
    if not workdirs:
        raise UserError("no workdir to compare was given")
    found: dict[epath.Path, None] = {}
    for given in workdirs:
        runs = [run for folder in _expand(given) for run in _runs(folder, DEPTH)]
        if not runs:
            raise UserError(f"{given} holds no run: no folder there has a config.json")
        found |= dict.fromkeys(runs)
    return list(found)


def read(folder: epath.Path) -> Entry | None:
    """A run's newest evaluation; None where it has none.

    Raises:
      UserError: a file is not what it should be; names it.
    """
    candidates = [
        path / "metrics.json" for path in _folders(folder / "eval") if path.name.isdecimal()
    ]
    candidates = [file for file in candidates if file.exists()]
    if not candidates:
        return None
    newest = max(candidates, key=lambda file: int(file.parent.name))
    values = _mapping(newest)
    wrong = [key for key in MEASURES if not isinstance(values.get(key), float | int | None)]
    if wrong:
        raise UserError(f"{newest}: {wrong[0]} is {values[wrong[0]]!r}, not a number")
    made = _identity(values.pop("identity", None), newest)
    return Entry(folder, values, made, trained=trained_with(folder))


def tabulate(entries: Sequence[Entry]) -> tuple[list[Line], list[str]]:
    """The lines of the table, and what a reader must know about them.

    Categories stand in the order of their names, their runs in the order given, the means at the
    end. The best of a category is found among the numbers as shown, so that equal ones share it;
    runs that judged different pictures do not compete.
    """
    names = run_names(entries)
    ranked = sorted(zip(entries, names, strict=True), key=lambda pair: _category(pair[0]))
    lines: list[Line] = []
    notes, comparable = differences(ranked), True
    for category in sorted({_category(entry) for entry in entries}):
        inside = [(entry, name) for entry, name in ranked if _category(entry) == category]
        same = len({entry.identity.pictures for entry, _ in inside}) == 1
        comparable &= same
        rows = [(entry.values, name, entry) for entry, name in inside]
        lines += _competing(category, rows, MEASURES if same else ())
    if len({_category(entry) for entry in entries}) > 1:
        mean_lines, mean_notes = _means(ranked, comparable)
        lines, notes = lines + mean_lines, notes + mean_notes
    return lines, notes


def _means(named: Sequence[tuple[Entry, str]], comparable: bool) -> tuple[list[Line], list[str]]:
    """A line for each run's mean over its categories, and what they leave out."""
    count = len({_category(entry) for entry, _ in named})
    fair = set(MEASURES) if comparable else set()  # measures whose means are over the same
    means, notes = [], []
    for name in dict.fromkeys(name for _, name in named):
        values = {_category(entry): entry.values for entry, other in named if other == name}
        mean = metrics.mean(values)
        means.append(({key: v for key, v in mean.items() if not math.isnan(v)}, name, None))
        whole = f"the mean of {name}" if name else "the mean"
        if len(values) < count:
            fair.clear()
            notes.append(f"{whole} is over {len(values)} of {count} categories")
        for key, measure in MEASURES.items():
            without = [category for category, v in values.items() if v.get(key) is None]
            if 0 < len(without) < len(values):
                fair.discard(key)
                notes.append(f"{whole} leaves out {', '.join(without)} in {measure}: not measured")
    return _competing("mean", means, fair), notes


def differences(named: Sequence[tuple[Entry, str]]) -> list[str]:
    """In what runs differ, and what keeps their numbers from being comparable.

    Seeds and steps are not told: each run's line names them.
    """
    scored = [tables.made_with(entry.identity) for entry, _ in named]
    trained = [entry.trained for entry, _ in named]
    notes = []
    for kind, settings, told in (
        ("scored", scored, ("seed", "step", "pictures")),
        ("trained", trained, ("seed",)),
    ):
        for key in dict.fromkeys(itertools.chain(*settings)):
            ways = _ways(named, [str(values.get(key)) for values in settings])
            if len(ways) > 1 and key not in told:
                notes.append(f"{kind} differently, {key}: {'; '.join(ways)}")
    for category in dict.fromkeys(_category(entry) for entry, _ in named):
        inside = [(entry, name) for entry, name in named if _category(entry) == category]
        ways = _ways(inside, [entry.identity.pictures for entry, _ in inside])
        if len(ways) > 1:
            notes.append(f"the runs of {category} judged different pictures: {'; '.join(ways)}")
    return notes


def run_names(entries: Sequence[Entry]) -> list[str]:
    """A name for each run that is the same in every category: its path without the category.

    runs/small/bottle and runs/small/grid are both "small", as are bottle_small and grid_small. All
    names are empty where no category has two runs.
    """
    categories = [_category(entry) for entry in entries]
    if len(set(categories)) == len(entries):
        return [""] * len(entries)
    above = common_parent([entry.workdir for entry in entries])
    paths = [entry.workdir.relative_to(above) for entry in entries]
    names = []
    for path, category in zip(paths, categories, strict=True):
        pattern = rf"(?<![^\W_]){re.escape(category)}(?![^\W_])"
        parts = [re.sub(pattern, "", part).strip("_-. ") for part in path.parts]
        names.append("/".join(filter(None, parts)) or "run")
    if len(set(zip(categories, names, strict=True))) < len(entries):
        return [str(path) for path in paths]
    return names


def common_parent(folders: Sequence[epath.Path]) -> epath.Path:
    """The nearest folder that holds all of them; the working directory where none does."""
    for parent in folders[0].parents:
        if all(parent in folder.parents for folder in folders):
            return parent
    return epath.Path()


def _category(entry: Entry) -> str:
    return entry.identity.category


def _ways(named: Sequence[tuple[Entry, str]], values: Sequence[str]) -> list[str]:
    """'VALUE in RUNS' for each of the values; `values` are those of the runs, in their order.

    A run that has the same value in all categories goes by its name, else by category and name.
    """
    of_name: dict[str, set[str]] = {}
    for (_, name), value in zip(named, values, strict=True):
        of_name.setdefault(name, set()).add(value)
    runs: dict[str, dict[str, None]] = {}
    for (entry, name), value in zip(named, values, strict=True):
        alike = name and len(of_name[name]) == 1
        label = name if alike else f"{_category(entry)} {name}".strip()
        runs.setdefault(value, {})[label] = None
    return [f"{value} in {_listed(list(labels))}" for value, labels in runs.items()]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _identity(stored_values: Any, file: epath.Path) -> Identity:
    """What an evaluation was made with, from its metrics.json."""
    try:
        made = Identity.from_dict(stored_values)
        tables.made_with(made)  # every part is what it should be
        return made
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file} does not say what it was scored with: evaluate the run again (--mode evaluate)"
        ) from error


def _competing(
    category: str,
    rows: Sequence[tuple[Mapping[str, Any], str, Entry | None]],
    fair: Collection[str],
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
        Line(category, name, values, frozenset(best[i]), entry)
        for i, (values, name, entry) in enumerate(rows)
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
    """What a JSON file holds, or a UserError that names it."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__} where names and values belong")
    return values
