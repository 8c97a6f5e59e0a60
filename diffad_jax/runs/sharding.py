"""Data parallelism: one mesh axis, the state everywhere, a batch split over it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from configs.errors import UserError

Tree = TypeVar("Tree")


def data_mesh(devices=None) -> Mesh:
    """A mesh with the single axis 'data' over all (or the given) devices, host after host.

    In that order, so that a host's share of a batch is a contiguous part of it. (The order is no
    matter for speed: only sums over all devices go over the axis.)
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first dimension is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(size: int, mesh: Mesh, name: str) -> None:
    """Raise UserError where a batch cannot be split evenly over the devices."""
    if size % mesh.size:
        raise UserError(f"{name}={size} is not divisible by the {mesh.size} devices")


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's part of a batch, each array [b / hosts, ...], as global arrays [b, ...]."""
    return {name: _put(value, mesh) for name, value in batch.items()}


def share(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """An array [b, ...] that every host has whole, split over the devices of all."""
    count = len(array) // jax.process_count()
    first = jax.process_index() * count
    return _put(array[first : first + count], mesh)


def gather(arrays: Tree, mesh: Mesh) -> Tree:
    """Split arrays, whole on every device.

    Computed there: `jax.device_put` may go through the host, which no step of training should.
    """
    return _identity(mesh)(arrays)


@functools.cache
def _identity(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))


def _put(part: np.ndarray, mesh: Mesh) -> jax.Array:
    # With several processes JAX counts this transfer as one that nobody asked for.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_process_local_data(split(mesh), part)
