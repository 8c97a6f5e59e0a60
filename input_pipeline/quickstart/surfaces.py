"""Procedural surface pictures, the quickstart's sources of training anomalies (DTD's layout)."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from input_pipeline.quickstart.render import fine_noise, grid, smooth_noise, stream

Field = Float[np.ndarray, "h w"]


def texture(kind: str, index: int, size: int, seed: int) -> UInt8[np.ndarray, "size size 3"]:
    """Picture `index` of surface `kind`, sRGB u8[size,size,3]; a function of its arguments."""
    rng = stream(seed, "textures", kind, index)
    pattern = KINDS[kind](rng, 2 * size)
    low, high = np.percentile(pattern, [1, 99])
    pattern = np.clip((pattern - low) / (high - low + 1e-6), 0, 1)
    # A palette of four colours along the pattern's value, then raking light over it as a relief.
    lightness = rng.uniform(0.2, 0.8) + rng.normal(0, 0.22, (4, 1))
    stops = np.clip(lightness + rng.normal(0, 0.13, 3) + rng.normal(0, 0.06, (4, 3)), 0.03, 0.97)
    color = np.stack([np.interp(pattern, np.linspace(0, 1, 4), s) for s in stops.T], -1)
    dy, dx = np.gradient(ndimage.gaussian_filter(pattern, 1.0), 2 / pattern.shape[0])
    turn = rng.uniform(0, 2 * np.pi)
    relief = rng.uniform(0, 0.05) * (np.cos(turn) * dx + np.sin(turn) * dy)
    color = (
        color * (1 + np.clip(relief, -0.5, 0.5) + 0.1 * smooth_noise(rng, 2 * size, 2))[..., None]
    )
    color = color + 0.02 * rng.standard_normal(color.shape)
    small = color.reshape(size, 2, -1).mean(1).reshape(size, size, 2, 3).mean(2)
    return np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)


def _clouds(rng, size: int, cells: int = 3, octaves: int = 5, gain: float = 0.55) -> Field:
    """Smooth noise over several octaves."""
    most = size // 4
    return sum(gain**k * smooth_noise(rng, size, min(cells << k, most)) for k in range(octaves))


def _turned(rng, size: int) -> tuple[Field, Field]:
    """Picture coordinates turned by any angle and shifted."""
    x, y = grid(size)
    a = rng.uniform(0, np.pi)
    p, q = rng.uniform(0, 1, 2)
    return np.cos(a) * x + np.sin(a) * y + p, -np.sin(a) * x + np.cos(a) * y + q


def _noise(rng, size):
    return _clouds(rng, size, int(rng.integers(2, 14)), 5, rng.uniform(0.45, 0.85))


def _weave(rng, size):
    x, y = _turned(rng, size)
    f = rng.uniform(5, 14)
    side = np.where((np.floor(f * x) + np.floor(f * y)) % 2 == 0, 1, -1)
    warp = np.abs(np.sin(np.pi * f * x)) * (0.6 + 0.4 * side * np.abs(np.sin(np.pi * f * y)))
    weft = np.abs(np.sin(np.pi * f * y)) * (0.6 - 0.4 * side * np.abs(np.sin(np.pi * f * x)))
    return np.maximum(warp, weft) + 0.1 * _clouds(rng, size, 8)


def _stripes(rng, size):
    x, _ = _turned(rng, size)
    f, g = rng.uniform(3, 14, 2)
    phase = rng.uniform(0, 0.8) * _clouds(rng, size, 2, 3)
    wave = np.sin(np.pi * f * x + phase) + 0.5 * np.sin(np.pi * g * x + 1)
    return np.tanh(rng.uniform(1, 6) * wave) + 0.15 * _clouds(rng, size, 10, 3)


def _marble(rng, size):
    x, _ = _turned(rng, size)
    bend = rng.uniform(2, 5) * _clouds(rng, size, 3)
    return 1 - np.abs(np.sin(np.pi * rng.uniform(0.8, 2.5) * x + bend)) ** rng.uniform(0.3, 0.8)


def _nearest(rng, size, count):
    """Distances to the nearest and second nearest of `count` points, and the nearest's number."""
    x, y = grid(size)
    points = rng.uniform(-1.1, 1.1, (count, 2))
    first = np.full((size, size), 9.0)
    second, owner = first.copy(), np.zeros((size, size), int)
    for n, (px, py) in enumerate(points):
        d = np.hypot(x - px, y - py)
        second = np.minimum(second, np.maximum(first, d))
        owner[d < first] = n
        first = np.minimum(first, d)
    return first, second, owner


def _cells(rng, size):
    first, second, owner = _nearest(rng, size, int(rng.integers(25, 90)))
    joint = np.clip((second - first) / rng.uniform(0.03, 0.08), 0, 1)
    return joint * (1 + 0.5 * rng.random(128)[owner]) + 0.1 * _clouds(rng, size, 8)


def _bubbles(rng, size):
    first, second, _ = _nearest(rng, size, int(rng.integers(20, 70)))
    return first / (second + 1e-6) + 0.05 * _clouds(rng, size, 8)


def _spots(rng, size):
    first, _, owner = _nearest(rng, size, int(rng.integers(25, 90)))
    radius = rng.uniform(0.03, 0.12, 128)[owner]
    return np.clip((radius - first) / 0.02, -1, 1) + 0.2 * _clouds(rng, size, 6)


def _scratches(rng, size):
    x, y = grid(size)
    out = 0.5 * _clouds(rng, size, 4)
    main = rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(15, 40))):
        a = main + rng.normal(0, 0.5)
        across = np.cos(a) * x + np.sin(a) * y - rng.uniform(-1, 1)
        along = -np.sin(a) * x + np.cos(a) * y - rng.uniform(-1, 1)
        across = across + rng.normal(0, 0.1) * along**2
        length, width = rng.uniform(0.2, 0.9), rng.uniform(0.008, 0.02)
        out += rng.normal(0, 2) * np.exp(-((across / width) ** 2)) * (np.abs(along) < length)
    return out


def _gradient(rng, size):
    x, y = _turned(rng, size)
    return x + rng.normal(0, 0.5) * y * y + 0.15 * _clouds(rng, size, int(rng.integers(2, 20)))


def _wood(rng, size):
    x, y = _turned(rng, size)
    r = np.hypot(x + rng.uniform(-2, 2), 0.12 * y) + 0.05 * _clouds(rng, size, 3, 3)
    rings = (rng.uniform(5, 12) * r) % 1
    streaks = fine_noise(rng, size, (0.5, size / 20))
    return rings**2 + 0.12 * streaks + 0.1 * _clouds(rng, size, 10, 3)


def _bricks(rng, size):
    x, y = _turned(rng, size)
    f, k = rng.uniform(2.5, 7), rng.uniform(1, 2.5)
    row = np.floor(f * y)
    p, q = (f / k * x + 0.5 * (row % 2)) % 1, (f * y) % 1
    joint = np.minimum(np.minimum(p, 1 - p) * k, np.minimum(q, 1 - q))
    number = (np.floor(f / k * x + 0.5 * (row % 2)) * 7 + row * 13).astype(int) % 64
    tone = 1 + 0.6 * rng.random(64)[number] + 0.2 * _clouds(rng, size, 10)
    return np.clip(joint / 0.08, 0, 1) * tone


def _rust(rng, size):
    base, flakes = _clouds(rng, size, 4), _clouds(rng, size, 16, 4, 0.8)
    return np.tanh(5 * (base - rng.uniform(-0.3, 0.3))) + 0.6 * flakes


def _cracks(rng, size):
    bend = _clouds(rng, size, 3, 4)
    ridges = np.abs(bend) + rng.uniform(0, 0.3) * np.abs(_clouds(rng, size, 7, 4))
    return np.minimum(ridges / 0.12, 1) + 0.15 * _clouds(rng, size, 12, 3)


def _brushed(rng, size):
    return ndimage.rotate(
        fine_noise(rng, size, (0.6, size / 12)), rng.uniform(0, 180), reshape=False, mode="wrap",
        order=1,
    ) + 0.5 * _clouds(rng, size, 2, 2)  # fmt: skip


KINDS: dict[str, Callable[[np.random.Generator, int], Field]] = {
    "brushed": _brushed, "bricks": _bricks, "bubbles": _bubbles, "cells": _cells,
    "cracks": _cracks, "gradient": _gradient, "marble": _marble, "noise": _noise, "rust": _rust,
    "scratches": _scratches, "spots": _spots, "stripes": _stripes, "weave": _weave, "wood": _wood,
}  # fmt: skip
