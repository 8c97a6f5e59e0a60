"""Which pictures a run trains on, and which it holds out: written down once, checked ever after."""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from configs.errors import UserError
from diffad_jax.runs import files, folder
from input_pipeline.datasets import Category, Textures
from input_pipeline.on_disk import Pictures

logger = logging.getLogger(__name__)
_SHOWN = 3  # names in a message


def claim(workdir: epath.PathLike, category: Category, textures: Textures) -> None:
    """Note which pictures a run trains on and which it holds out, or check that they are the same.

    Where they lie does not matter, nor what the category is called; the pictures' names and
    contents do, and whether they are treated as object or texture. Says how many are held out.

    Raises:
      UserError: a picture is gone, new or another than when the run began; names it. Or they are
        treated in another way.
    """
    _tell(category)
    path = epath.Path(workdir) / folder.PICTURES
    now = {"train": _stamps(category.train), "held_out": _stamps(category.held_out)}
    others = {"textures": textures.fingerprint, "parts": category.train.parts_stamp}
    if not path.exists():
        known = {"kind": category.kind} | now | others
        files.write(path, json.dumps(known, indent=0) + "\n")
        return
    before = _read(path)
    for split, where in (("train", "trains on"), ("held_out", "holds out")):
        if problem := _changed(before[split], now[split]):
            raise UserError(
                f"the pictures that {workdir} {where} have changed since it began: {problem}; put "
                f"them back ({category.folder}), or start another --workdir"
            )
    if before["kind"] != category.kind:
        raise UserError(
            f"the pictures of {workdir} were treated as {before['kind']}, and as "
            f"{category.kind} now: set data.kind={before['kind']}"
        )
    for key, which in (("textures", "of data.textures"), ("parts", f"in {category.folder}/thresh")):
        if before[key] != others[key]:
            raise UserError(
                f"the pictures {which} have changed since {workdir} began (fingerprint "
                f"{before[key]}, now {others[key]}): put them back, or start another --workdir"
            )


def held_out(workdir: epath.PathLike) -> dict[str, str] | None:
    """The pictures that a run holds out of training, names with stamps.

    None where there is no list: nothing is trained yet, or it was trained elsewhere (imported).

    Raises:
      UserError: the list is damaged.
    """
    path = epath.Path(workdir) / folder.PICTURES
    return _read(path)["held_out"] if folder.has_checkpoint(workdir) and path.exists() else None


def known(workdir: epath.PathLike) -> set[str]:
    """Stamps of all pictures that a run trains on or holds out; none where there is no list.

    Raises:
      UserError: the list is damaged.
    """
    path = epath.Path(workdir) / folder.PICTURES
    splits = _read(path) if path.exists() else {"train": {}, "held_out": {}}
    return {stamp for split in ("train", "held_out") for stamp in splits[split].values()}


def check_held_out(workdir: epath.PathLike, category: Category) -> None:
    """Check that all pictures that a run holds out are still there.

    Raises:
      UserError: one is not, under no name; names it.
    """
    there = set(category.held_out.stamps)
    gone = [name for name, stamp in (held_out(workdir) or {}).items() if stamp not in there]
    if gone:
        raise UserError(
            f"good pictures that {workdir} held out of training, with which the threshold is "
            f"found, are gone or changed: {_some(gone)}; put them back ({category.folder})"
        )


def _tell(category: Category) -> None:
    """Say how many pictures are held out, and where no threshold will be found."""
    held, test = len(category.held_out.names), category.test
    if held:
        logger.info(
            "%d of %d good pictures are held out of training, to find a threshold with "
            "(data.holdout)",
            held,
            held + len(category.train.names),
        )
    elif not (test.labels == 0).any():
        logger.warning(
            "no good picture is held out of training and none is among the test pictures: no "
            "threshold will be found (data.holdout), except by evaluate.threshold=recall:SHARE"
        )


def _stamps(pictures: Pictures) -> dict[str, str]:
    return dict(zip(pictures.names, pictures.stamps, strict=True))


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What is different between two sets of stamped names, in words; '' for nothing."""
    kinds = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "another file": [name for name in now if before.get(name, now[name]) != now[name]],
    }
    return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        words = {key: str(found[key]) for key in ("kind", "textures", "parts")}
        return words | {split: dict(found[split]) for split in ("train", "held_out")}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or of another version ({error}): start another --workdir"
        ) from error
