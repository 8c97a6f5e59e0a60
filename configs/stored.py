"""The configuration of a run that is there: `--config=configs/stored.py:WORKDIR`."""

import json
from typing import Any

import ml_collections
from etils import epath

from configs import default
from configs.errors import UserError


def get_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
    """The configuration of a run as a configuration file gives it.

    Raises:
      UserError: no run there, or its config.json is none.
    """
    stored = read(workdir)
    # JSON has no tuples, and a list could not be overridden by a flag.
    for section in stored.values():
        if isinstance(section, dict):
            section |= {k: tuple(v) for k, v in section.items() if isinstance(v, list)}
    return ml_collections.ConfigDict(stored)


def path(workdir: epath.PathLike) -> epath.Path:
    """Where a run keeps its configuration."""
    return epath.Path(workdir) / "config.json"


def read(workdir: epath.PathLike) -> dict[str, Any]:
    """The configuration of a run as its config.json holds it.

    Raises:
      UserError: no run there, or its config.json is none.
    """
    file = path(workdir)
    if not file.exists():
        inside = sorted(run.parent.name for run in epath.Path(workdir).glob("*/config.json"))
        hint = f"; there are runs in it: {', '.join(inside)}" if inside else ""
        raise UserError(f"{workdir} holds no run: {file} does not exist{hint}")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not a configuration: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} is not a configuration: it holds a {type(config).__name__}")
    return filled(config)


def filled(config: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with the keys that its version of this program did not have.

    They get the default's values: the paper's method, which is what there was before the key.
    """
    config.get("predict", {}).pop("maps", None)  # is a flag of --mode predict now
    whole = default.get_config().to_dict()
    for name, section in whole.items():
        if isinstance(section, dict) and isinstance(config.get(name), dict):
            config[name] = section | config[name]
    return whole | config
