"""The file that the authors' training code saves, read and written with PyTorch."""

import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from configs.errors import UserError

# What the authors' training code saves, and we read.
EPOCH, UNET, SEGMENTATION = "n_epoch", "unet_model_state_dict", "seg_model_state_dict"


def read(path: epath.PathLike) -> tuple[int, dict, dict]:
    """What the authors' training code writes with `torch.save`.

    Nothing but tensors and plain containers is unpickled.

    Returns:
      The epoch, and the state dicts of the U-Net and of the segmentation network as NumPy arrays.

    Raises:
      UserError: torch is not installed, there is no such file, it cannot be read safely, or it
        does not hold what the authors write.
    """
    torch = _torch()
    path = epath.Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint file {path}")
    # The authors' `args` are a defaultdict(str), which torch refuses to fill: a dict stands in.
    allowed = [(_empty_dict, "collections.defaultdict"), str]
    with torch.serialization.safe_globals(allowed), path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise UserError(
                f"{path} cannot be read: it is damaged or no PyTorch file, or holds more than "
                f"tensors and plain values, which could run code and is not loaded"
            ) from error
    keys = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    for key in (EPOCH, UNET, SEGMENTATION):
        if key not in keys:
            raise UserError(f"{path} holds no {key}, but {keys}")
    found = []
    for key in (UNET, SEGMENTATION):
        tensors = content[key]
        if not isinstance(tensors, Mapping) or not all(map(torch.is_tensor, tensors.values())):
            raise UserError(f"{path}: {key} is no state dict of tensors")
        found.append({name: np.asarray(t.to(torch.float32)) for name, t in tensors.items()})
    if not isinstance(content[EPOCH], int):
        raise UserError(f"{path}: {EPOCH} is {content[EPOCH]!r}, expected a number")
    return content[EPOCH], found[0], found[1]


def _empty_dict(*_) -> dict:
    return {}


def write(
    path: str | os.PathLike,
    epoch: int,
    unet: Mapping[str, np.ndarray],
    segmentation: Mapping[str, np.ndarray],
) -> None:
    """What `read` reads, and the authors' code loads.

    Args:
      path: a local file.
      epoch: their count of epochs.
      unet: state dict of the U-Net, by their names.
      segmentation: that of the segmentation network.

    Raises:
      UserError: torch is not installed.
      OSError: the file cannot be written.
    """
    torch = _torch()
    states = [
        {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
        for state in (unet, segmentation)
    ]
    torch.save({EPOCH: epoch, "args": {}, UNET: states[0], SEGMENTATION: states[1]}, path)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError("a PyTorch checkpoint needs torch: pip install torch") from error
    return torch
