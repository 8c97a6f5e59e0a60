"""Rendering of the project's own product pictures: a height field under a studio lamp.

Coordinates run from -1 to 1 over the picture (x right, y down, z to the camera) and heights have
the same unit. Light is linear RGB until `develop`, which plays the camera. NumPy and SciPy only.
"""

import dataclasses
import zlib
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

Field = Float[np.ndarray, "h w"]
Colors = Float[np.ndarray, "h w 3"]


@dataclasses.dataclass
class Surface:
    """One product before a lamp, at rendering resolution. Defects change it in place."""

    u: Field  # coordinates in the product's own frame
    v: Field
    alpha: Field  # 1 where the product is, 0 where the table shows
    height: Field
    albedo: Colors  # linear RGB in [0, 1]
    gloss: Field  # strength of the specular reflection
    grain: tuple[Field, Field] | None  # unit direction of brushing marks in x and y, or none
    table: Colors  # linear RGB of what lies below
    shadow: Field  # share of the lamp's light that objects lying on top let through
    thickness: float  # of the product above the table; 0 < thickness

    def copy(self) -> "Surface":
        """A copy whose arrays can be changed without touching this one's."""
        arrays: dict[str, Any] = {
            name: value.copy()
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        return dataclasses.replace(self, **arrays)


@dataclasses.dataclass(frozen=True)
class Lamp:
    """Where the light comes from: unit vector to it, and its uneven strength over the picture."""

    x: float
    y: float
    z: float
    slope_x: float
    slope_y: float
    ambient: float


def stream(seed: int, *names: object) -> np.random.Generator:
    """The random stream of one thing: a function of the seed and the thing's name alone."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, names)).encode())])


def grid(size: int) -> tuple[Field, Field]:
    """Pixel centres x and y, f32[size,size] in (-1, 1)."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    return np.broadcast_to(line, (size, size)), np.broadcast_to(line[:, None], (size, size))


def smoothstep(low: float, high: float, x: Field) -> Field:
    """Hermite step: 0 where x <= low, 1 where x >= high (reversed where low > high)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Smooth noise f32[size,size], mean 0, `cells` bumps across, the same at every size."""
    nodes = rng.standard_normal((cells + 3, cells + 3), np.float32)
    at = (np.arange(size, dtype=np.float32) + 0.5) * (cells / size)
    base = np.minimum(at.astype(int), cells - 1)
    t = at - base
    # Uniform cubic B-spline: each pixel mixes four nodes in y, then four in x.
    weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
    rows = sum(nodes[base + k] * (w / 6)[:, None] for k, w in enumerate(weights))
    return sum(rows[:, base + k] * (w / 4) for k, w in enumerate(weights)).astype(np.float32)


def fine_noise(rng: np.random.Generator, size: int, sigma: float | tuple[float, float]) -> Field:
    """White noise blurred by `sigma` pixels (or (y, x) pixels), f32[size,size], variance 1."""
    noise = ndimage.gaussian_filter(
        rng.standard_normal((size, size), np.float32), sigma, mode="wrap", truncate=3
    )
    return noise / noise.std()


def lamp(rng: np.random.Generator, azimuth: float, spread: float) -> Lamp:
    """A lamp near `azimuth` (radians, 0 right, pi/2 below), at 40 to 52 degrees elevation."""
    a = azimuth + rng.uniform(-spread, spread)
    e = rng.uniform(0.70, 0.90)
    slope = rng.uniform(-0.10, 0.10, 2)
    return Lamp(
        float(np.cos(a) * np.cos(e)), float(np.sin(a) * np.cos(e)), float(np.sin(e)),
        float(slope[0]), float(slope[1]), float(rng.uniform(0.28, 0.38)),
    )  # fmt: skip


def shade(surface: Surface, light: Lamp) -> Colors:
    """Light that reaches the camera: f32[h,w,3] linear, mostly in [0, 1].

    Lambert's law, a specular lobe (Blinn's half vector; Kajiya and Kay's for brushed metal) tinted
    by the material, a soft shadow of the product on the table, and the darkening of narrow gaps.
    """
    size = surface.height.shape[0]
    x, y = grid(size)
    dy, dx = np.gradient(surface.height, 2 / size)
    length = np.sqrt(1 + dx * dx + dy * dy)
    diffuse = np.maximum((-dx * light.x - dy * light.y + light.z) / length, 0)
    half = np.array([light.x, light.y, light.z + 1]) / np.sqrt(2 + 2 * light.z)
    if surface.grain is None:
        facing = (-dx * half[0] - dy * half[1] + half[2]) / length
        specular = np.maximum(facing, 0) ** 24
    else:
        tx, ty = surface.grain
        tz = tx * dx + ty * dy
        along = (tx * half[0] + ty * half[1] + tz * half[2]) / np.sqrt(1 + tz * tz)
        specular = (1 - along * along) ** 10 * np.minimum(diffuse / light.z, 1.35) ** 3
    falloff = 1 + light.slope_x * x + light.slope_y * y
    lit = (light.ambient + (1 - light.ambient) * diffuse * surface.shadow) * falloff
    body = surface.albedo * lit[..., None]
    body += (surface.gloss * specular * surface.shadow * falloff)[..., None] * (
        0.35 + 0.65 * surface.albedo
    )
    table_lit = light.ambient + (1 - light.ambient) * light.z * surface.shadow * _cast(
        surface, light
    )
    table = surface.table * (table_lit * falloff)[..., None]
    alpha = surface.alpha[..., None]
    return (alpha * body + (1 - alpha) * table).astype(np.float32)


def _cast(surface: Surface, light: Lamp) -> Field:
    """Share of the light that reaches the table beside the product, f32[h,w] in [0, 1]."""
    size = surface.alpha.shape[0]
    reach = surface.thickness * size / 2 / light.z
    shift = np.round(np.array([light.y, light.x]) * reach).astype(int)
    pad = int(np.abs(shift).max()) + 1
    padded = np.pad(surface.alpha, pad, mode="edge")
    top, left = pad + shift
    moved = padded[top : top + size, left : left + size]
    soft = ndimage.gaussian_filter(moved, 0.45 * reach + 0.5, mode="nearest", truncate=2.5)
    near = ndimage.gaussian_filter(surface.alpha, 0.3 * reach + 0.5, mode="nearest", truncate=2.5)
    return (1 - 0.85 * soft) * (1 - 0.5 * near)


def develop(light: Colors, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
    """The camera: area-average to `size` px, vignette, exposure, white balance, noise, sRGB.

    `light` is f32[k*size,k*size,3] linear, k a whole number.
    """
    k = light.shape[0] // size
    mean = light.reshape(size, k, -1).mean(1).reshape(size, size, k, 3).mean(2)
    mean = ndimage.gaussian_filter(mean, (0.3 * size / 128, 0.3 * size / 128, 0), truncate=3)
    x, y = grid(size)
    vignette = 1 - rng.uniform(0.05, 0.13) * (x * x + y * y)
    gains = rng.uniform(0.93, 1.07) * np.array([1 + rng.uniform(-0.03, 0.03), 1, 1]).astype(float)
    gains[2] *= 1 + rng.uniform(-0.03, 0.03)
    mean = mean * vignette[..., None] * gains
    noise = rng.standard_normal((size, size, 3))
    noise = 0.7 * noise + 0.5 * noise.mean(2, keepdims=True)  # luminance noise dominates
    mean = mean + noise * np.sqrt(1.2e-5 + 7e-5 * np.clip(mean, 0, 1))
    mean = mean / (1 + 0.15 * np.maximum(mean - 0.6, 0))  # highlights roll off instead of clipping
    mean = np.clip(mean, 0, 1)
    srgb = np.where(mean < 0.0031308, 12.92 * mean, 1.055 * mean ** (1 / 2.4) - 0.055)
    return np.round(srgb * 255).astype(np.uint8)
