r"""A checkpoint of the authors' PyTorch code as a run of ours.

    python -m diffad_jax.main --mode import --checkpoint params-last.pt --config default \
        --workdir runs/theirs

Needs PyTorch, to read the file. The run can be evaluated and used like any other.
"""

import dataclasses

import jax
import jax.numpy as jnp
from etils import epath

from configs.errors import UserError
from configs.schema import Config
from diffad_jax.method import optim
from diffad_jax.method.train_state import Variables, start
from diffad_jax.models import torch_file, torch_weights
from diffad_jax.runs import checkpoint, folder, lock, sharding


def run(path: epath.PathLike, config: Config, workdir: epath.PathLike) -> None:
    """Write the authors' checkpoint as a run of ours; its step is their number of epochs.

    Raises:
      UserError: as `torch_file.read`, `torch_weights.from_torch` and `folder.claim`.
    """
    epoch, unet, segmentation = torch_file.read(path)
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
