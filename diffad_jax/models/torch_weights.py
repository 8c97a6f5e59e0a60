"""The authors' PyTorch state dicts into ours, and back.

Our modules nest as theirs do, so a table of module names and one layout rule give every tensor.
"""

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from configs.errors import UserError
from configs.schema import ModelConfig
from diffad_jax.models.layers import RandomKeys
from diffad_jax.models.segmentation import SegmentationNet
from diffad_jax.models.unet import UNet

# Ours -> theirs, for the parts of a path that differ. Whole modules of a list come first.
UNET_NAMES = {
    "time1": "time_embedding.1",
    "time2": "time_embedding.3",
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "embed": "embed_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
    "qkv": "to_qkv",
    "projection": "proj_out",
    "out_norm": "out.0",
    "out_conv": "out.2",
}
SEGMENTATION_NAMES = {
    **{f"encoder.{i}": f"encoder_segment.block{i + 1}" for i in range(6)},
    **{f"up.{i}": f"decoder_segment.up{n}" for i, n in enumerate(("_b", 1, 2, 3, 4))},
    **{f"decoder.{i}": f"decoder_segment.db{n}" for i, n in enumerate(("_b", 1, 2, 3, 4))},
    "out": "decoder_segment.fin_out.0",
    "conv1": "0",
    "norm1": "1",
    "conv2": "3",
    "norm2": "4",
    "conv": "1",
    "norm": "2",
}
LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
Path = tuple[Hashable, ...]  # of a module or array in ours: names, and places in lists
COUNTER = "num_batches_tracked"  # beside every running_var; PyTorch does not need its value


class _Tensor(NamedTuple):
    """One of our arrays and its PyTorch counterpart."""

    path: Path
    shape: tuple[int, ...]
    name: str
    torch_shape: tuple[int, ...]
    is_statistic: bool


def from_torch(
    unet_state: Mapping[str, np.ndarray], seg_state: Mapping[str, np.ndarray], config: ModelConfig
) -> tuple[dict, dict]:
    """Our parameters and running statistics from the authors' two state dicts.

    Args:
      unet_state: name -> array of the U-Net, in PyTorch's layout.
      seg_state: the same of the segmentation network.
      config: the model that the tensors belong to.

    Returns:
      params {"unet": ..., "segmentation": ...} and batch_stats {"segmentation": ...}: nested
      dicts (list positions are integer keys) of float32 arrays, which
      `nnx.replace_by_pure_dict(state, dict)` writes into a State.

    Raises:
      UserError: a tensor is missing, unknown, or of another shape; the message names it.
    """
    unet, _ = _import("U-Net", unet_state, _unet_tensors(config))
    segmentation, statistics = _import("segmentation", seg_state, _segmentation_tensors(config))
    return {"unet": unet, "segmentation": segmentation}, {"segmentation": statistics}


def to_torch(
    params: Mapping, batch_stats: Mapping, config: ModelConfig
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The authors' two state dicts (U-Net, segmentation) from ours; inverse of `from_torch`.

    Every `num_batches_tracked` is an int64 zero: it is not kept on our side.

    Raises:
      UserError: an array is missing, unknown, or of another shape; the message names its path.
    """
    unet = _export("U-Net", params["unet"], {}, _unet_tensors(config))
    segmentation = _export(
        "segmentation",
        params["segmentation"],
        batch_stats["segmentation"],
        _segmentation_tensors(config),
    )
    return unet, segmentation


@functools.cache  # tracing a network takes a second
def _unet_tensors(config: ModelConfig) -> list[_Tensor]:
    return list(_tensors(lambda: UNet(config, rngs=RandomKeys(0)), UNET_NAMES))


@functools.cache
def _segmentation_tensors(config: ModelConfig) -> list[_Tensor]:
    return list(_tensors(lambda: SegmentationNet(config, rngs=RandomKeys(0)), SEGMENTATION_NAMES))


def _tensors(build: Callable[[], nnx.Module], names: Mapping[str, str]) -> Iterator[_Tensor]:
    """Every array of the network that `build` makes, without allocating it."""
    for path, variable in nnx.to_flat_state(nnx.state(nnx.eval_shape(build))):
        shape = tuple(variable.shape)
        yield _Tensor(
            path=path,
            shape=shape,
            name=_torch_name(path, names),
            torch_shape=_torch_shape(path, shape),
            is_statistic=isinstance(variable, nnx.BatchStat),
        )


def _torch_name(path: Path, names: Mapping[str, str]) -> str:
    """("down", 1, 0, "conv1", "kernel") -> "down.1.0.in_layers.2.weight"."""
    *modules, leaf = (str(part) for part in path)
    indexed = ".".join(modules[:2])
    if indexed in names:
        modules = [indexed, *modules[2:]]
    return ".".join([*(names.get(module, module) for module in modules), LEAF_NAMES[leaf]])


def _is_attention(path: Path) -> bool:
    """Whether the tensor belongs to a layer that is linear here and a 1-d convolution there."""
    return path[-1] == "kernel" and path[-2] in ("qkv", "projection")


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """HWIO -> OIHW, IO -> OI, and IO -> OI1 for the projections of an attention."""
    torch_shape = (*shape[:-3:-1], *shape[:-2])
    return (*torch_shape, 1) if _is_attention(path) else torch_shape


def _to_ours(value: np.ndarray, tensor: _Tensor) -> np.ndarray:
    if len(tensor.shape) == 4:
        return value.transpose(2, 3, 1, 0)
    return value.reshape(tensor.torch_shape[:2]).T  # of a vector: itself


def _to_theirs(value: np.ndarray, tensor: _Tensor) -> np.ndarray:
    if len(tensor.shape) == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T.reshape(tensor.torch_shape)


def _import(net: str, state: Mapping[str, np.ndarray], tensors: list[_Tensor]) -> tuple[dict, dict]:
    """(parameters, statistics) of one network as nested dicts."""
    expected = {tensor.name: tensor.torch_shape for tensor in tensors}
    expected.update({name: () for name in _counters(tensors)})
    _check(net, {name: np.shape(value) for name, value in state.items()}, expected)
    params: dict[Hashable, Any] = {}
    statistics: dict[Hashable, Any] = {}
    for tensor in tensors:
        value = np.asarray(state[tensor.name], np.float32)
        _insert(statistics if tensor.is_statistic else params, tensor.path, _to_ours(value, tensor))
    return params, statistics


def _export(
    net: str, params: Mapping, statistics: Mapping, tensors: list[_Tensor]
) -> dict[str, np.ndarray]:
    """The state dict of one network."""
    arrays = dict([*_flatten(params), *_flatten(statistics)])
    _check(
        net,
        {_dotted(path): np.shape(value) for path, value in arrays.items()},
        {_dotted(tensor.path): tensor.shape for tensor in tensors},
    )
    state = {
        tensor.name: np.ascontiguousarray(_to_theirs(np.asarray(arrays[tensor.path]), tensor))
        for tensor in tensors
    }
    return state | {name: np.zeros((), np.int64) for name in _counters(tensors)}


def _counters(tensors: list[_Tensor]) -> list[str]:
    suffix = LEAF_NAMES["var"]
    return [t.name.removesuffix(suffix) + COUNTER for t in tensors if t.name.endswith(suffix)]


def _check(net: str, given: Mapping[str, tuple], expected: Mapping[str, tuple]) -> None:
    """Every expected name there, with its shape, and no other."""
    for name, shape in expected.items():
        if name not in given:
            raise UserError(f"the {net} weights lack {name}, expected with shape {shape}")
        if given[name] != shape:
            raise UserError(f"{net} weight {name} has shape {given[name]}, expected {shape}")
    for name, shape in given.items():
        if name not in expected:
            raise UserError(f"the {net} weights hold {name} of shape {shape}, unknown here")


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _insert(tree: dict, path: Path, value: np.ndarray) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _flatten(tree: Mapping, prefix: tuple = ()) -> Iterator[tuple[tuple, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), value
