"""One prediction by many processes: each writes the table of its share, and one call joins them.

OUTPUT/predictions-I-of-N.partial/   a share's rows while it runs (`parts`)
OUTPUT/predictions-I-of-N.parquet    its table, `results.COLUMNS` and order; .jsonl without pyarrow
OUTPUT/predictions-I-of-N.json       the mark that it is done: counts, table, and what it rests on
OUTPUT/maps/, OUTPUT/overlays/       of all shares
"""

import heapq
import importlib.util
import itertools
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from configs.errors import UserError
from diffad_jax.predicting import results
from diffad_jax.predicting.inputs import pyarrow
from diffad_jax.predicting.parts import Parts
from diffad_jax.predicting.results import json_line
from diffad_jax.runs import files
from input_pipeline.on_disk import is_remote, replacing

logger = logging.getLogger(__name__)
GROUP = 4096  # rows of a Parquet row group, which is what is in memory
_MARK = re.compile(r"predictions-(\d+)-of-(\d+)\.json")


def called(index: int, count: int) -> str:
    """What the files of a share begin with."""
    return f"predictions-{index}-of-{count}"


def done(output: epath.Path, name: str, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The mark of a share that was finished before; None: it was not.

    Raises:
      UserError: it was, but about something else.
    """
    mark = output / f"{name}.json"
    if not mark.exists():
        return None
    before = json.loads(mark.read_text())
    for key, value in about.items():
        if before["about"].get(key) != value:
            raise UserError(
                f"{mark} is of {key} {before['about'].get(key)!r}, this is {value!r}: give another "
                f"--output, or remove that file"
            )
    return before


def finish(parts: Parts, output: epath.Path, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write a share's table from its parts, then its mark, and remove the parts."""
    parquet = importlib.util.find_spec("pyarrow") is not None
    table = output / f"{name}{'.parquet' if parquet else '.jsonl'}"
    for half in output.glob(f".{name}-*.partial.*"):  # of a process that was killed
        half.unlink(missing_ok=True)
    _write(table, parts.rows())
    mark = {"table": table.name, "counts": parts.counts, "left_out": parts.left_out}
    mark |= {"about": dict(about)}
    files.write(output / f"{name}.json", json.dumps(mark, indent=1))
    parts.folder.rmtree()
    return mark


def merge(output: epath.PathLike) -> epath.Path:
    """Join the tables of all shares into predictions.csv and .jsonl, and .parquet if they are that.

    As one process would have written them, and in memory that does not grow with their number.

    Returns:
      predictions.csv.

    Raises:
      UserError: no shares, shares that are missing, not done, or of different predictions.
    """
    folder = epath.Path(output)
    marks = _marks(folder)
    tables = [folder / mark["table"] for mark in marks]
    if gone := [str(table) for table in tables if not table.exists()]:
        raise UserError(f"{gone[0]} is missing: remove its .json, and judge that share again")
    results.write(folder, _joined(tables))
    if all(table.suffix == ".parquet" for table in tables):
        _write(folder / "predictions.parquet", _joined(tables))
    counts = {kind: sum(mark["counts"][kind] for mark in marks) for kind in marks[0]["counts"]}
    said = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
    logger.info("%d shares: %s -> %s", len(marks), said, folder / results.TABLES[0])
    return folder / results.TABLES[0]


def _marks(output: epath.Path) -> list[dict[str, Any]]:
    """The marks of all shares of a prediction, in order."""
    names = [path.name for path in output.iterdir()] if output.is_dir() else []
    found = {m.group(0): (int(m[1]), int(m[2])) for name in names if (m := _MARK.fullmatch(name))}
    if not found:
        raise UserError(f"{output} holds no share that is done: no predictions-I-of-N.json")
    counts = sorted({count for _, count in found.values()})
    if len(counts) > 1:
        raise UserError(f"{output} holds shares of {counts[0]} and of {counts[1]}: remove one kind")
    there = {index for index, _ in found.values()}
    if missing := sorted(set(range(counts[0])) - there):
        some = ", ".join(map(str, missing[:20])) + (" ..." if len(missing) > 20 else "")
        raise UserError(f"{output}: of {counts[0]} shares these are not done: {some}")
    marks = [
        json.loads((output / name).read_text())
        for name in sorted(found, key=lambda name: found[name])
    ]
    for mark in marks[1:]:
        if mark["about"] != marks[0]["about"]:
            raise UserError(
                f"{marks[0]['table']} and {mark['table']} are of different predictions: "
                f"{marks[0]['about']} and {mark['about']}"
            )
    return marks


def _joined(tables: Iterable[epath.Path]) -> Iterator[dict[str, Any]]:
    """The rows of several tables, each in order, in the order of all."""

    def place(row: Mapping[str, Any]) -> Any:
        return row["picture"] if row.get("order") is None else row["order"]

    return heapq.merge(*map(_read, tables), key=place)


def _read(table: epath.Path) -> Iterator[dict[str, Any]]:
    if table.suffix == ".jsonl":
        with table.open("r") as lines:
            yield from map(json.loads, lines)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = _on_disk(table, folder)
        if local != table:
            table.copy(local)
        with local.open("rb") as file:
            for batch in pyarrow("to read a table").parquet.ParquetFile(file).iter_batches(GROUP):
                yield from batch.to_pylist()


def _write(table: epath.Path, rows: Iterator[dict[str, Any]]) -> None:
    """A table, whole or not at all."""
    columns = (*results.COLUMNS, "order")
    chosen = ({name: row.get(name) for name in columns} for row in rows)
    with replacing(table) as partial, tempfile.TemporaryDirectory() as folder:
        local = _on_disk(partial, folder)
        with local.open("wb") as file:
            if table.suffix == ".jsonl":
                file.writelines(json_line(row).encode(**results.TEXT) for row in chosen)
            else:
                _write_parquet(file, chosen)
        if local != partial:
            local.copy(partial)


def _on_disk(table: epath.Path, folder: str) -> epath.Path:
    """The table itself, or where its copy goes: pyarrow cannot use an object store's open files."""
    return epath.Path(folder) / table.name if is_remote(table) else table


def _write_parquet(file: Any, rows: Iterator[dict[str, Any]]) -> None:
    arrow = pyarrow("to write a table")
    schema = _schema(arrow)
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        while some := list(map(_named, itertools.islice(rows, GROUP))):
            writer.write_table(arrow.Table.from_pylist(some, schema))


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """With the odd bytes of file names as predictions.csv shows them: Parquet has none."""
    return {
        key: value.encode(**results.TEXT).decode() if isinstance(value, str) else value
        for key, value in row.items()
    }


def _schema(arrow: Any) -> Any:
    integer, real, text = arrow.int64(), arrow.float64(), arrow.string()
    corner = [(name, integer) for name in ("x", "y", "width", "height", "area")]
    boxes = arrow.list_(arrow.struct([*corner, ("peak", real)]))
    kinds = {name: text for name in ("picture", "verdict", "map", "overlay", "error")}
    kinds |= dict.fromkeys(("score", "threshold", "confidence"), real) | {"boxes": boxes}
    return arrow.schema([(name, kinds.get(name, integer)) for name in (*results.COLUMNS, "order")])
