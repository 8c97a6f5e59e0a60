r"""A checkpoint of the authors' PyTorch code as a run of ours.

    python -m diffad_jax.main --mode import --checkpoint params-last.pt --config default \
        --workdir runs/theirs

Needs PyTorch, to read the file. The run can be evaluated and used like any other.
"""

import dataclasses
import pickle
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from configs.errors import UserError
from configs.schema import Config
from diffad_jax.method import optim
from diffad_jax.method.train_state import Variables, start
from diffad_jax.models import torch_weights
from diffad_jax.runs import checkpoint, folder, lock, sharding

# What the authors' training code saves, and we read.
EPOCH, UNET, SEGMENTATION = "n_epoch", "unet_model_state_dict", "seg_model_state_dict"


def run(path: epath.PathLike, config: Config, workdir: epath.PathLike) -> None:
    """Write the authors' checkpoint as a run of ours; its step is their number of epochs.

    Raises:
      UserError: as `read_checkpoint`, `torch_weights.from_torch` and `folder.claim`.
    """
    epoch, unet, segmentation = read_checkpoint(path)
    params, batch_stats = torch_weights.from_torch(unet, segmentation, config.model)
    _write(workdir, params, batch_stats, config, epoch)


def _write(
    workdir: epath.PathLike, params: dict, batch_stats: dict, config: Config, step: int
) -> None:
    """Save the weights, raw and averaged alike, with a fresh optimizer state."""
    everywhere = sharding.replicated(sharding.data_mesh())
    variables = jax.device_put(Variables(params, batch_stats), everywhere)
    state = start(variables, optim.optimizer(config, total_steps=1))
    state = dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))
    if folder.has_checkpoint(workdir):
        raise UserError(f"{workdir} already holds checkpoints: give a new --workdir")
    with lock.Hold(workdir), checkpoint.Checkpoints(workdir) as checkpoints:
        folder.claim(workdir, config)
        checkpoints.save(step, jax.device_put(state, everywhere))


def read_checkpoint(path: epath.PathLike) -> tuple[int, dict, dict]:
    """The file that the authors' training code writes with `torch.save`.

    Nothing but tensors and plain containers is unpickled.

    Returns:
      The epoch, and the state dicts of the U-Net and of the segmentation network as NumPy arrays.

    Raises:
      UserError: torch is not installed, there is no such file, it cannot be read safely, or it
        does not hold what the authors write.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("reading a PyTorch checkpoint needs torch: pip install torch") from error
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
