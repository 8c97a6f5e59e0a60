"""Defects of the project's own pictures, as changes of shape and material before the photograph.

None of them is made as training anomalies are (noise shapes blended over a finished picture): a
scratch is a groove, a dent a hollow, a hole shows the table, a foreign body throws a shadow.
Each function changes a Surface in place; lengths are in units of the product's own frame.
"""

from collections.abc import Callable

import numpy as np

from input_pipeline.quickstart.render import Surface, smooth_noise, smoothstep
from input_pipeline.quickstart.scenes import BORE, HUB, RIM, ROOT, TEETH

Defect = Callable[[Surface, np.random.Generator], None]


def _ring_point(rng, low: float, high: float) -> tuple[float, float]:
    """A point of the gear between two radii."""
    r, angle = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
    return r * np.cos(angle), r * np.sin(angle)


def _blob(s: Surface, rng, center, radius: float, rough: float, stretch: float = 1.4):
    """Signed distance-like field of an irregular round shape, negative inside."""
    turn, k = rng.uniform(0, np.pi), rng.uniform(1, stretch)
    du, dv = s.u - center[0], s.v - center[1]
    a = (np.cos(turn) * du + np.sin(turn) * dv) / np.sqrt(k)
    b = (-np.sin(turn) * du + np.cos(turn) * dv) * np.sqrt(k)
    angle = np.arctan2(b, a)
    bound = np.ones_like(angle)
    for n in range(2, 6):
        bound += 2 * rough / n**2 * rng.standard_normal() * np.cos(n * angle + rng.uniform(0, 6.28))
    return np.hypot(a, b) - radius * np.maximum(bound, 0.4)


def _shard(s: Surface, rng, center, low: float, high: float):
    """Distance to an irregular five-sided outline, sides `low` to `high` from its centre."""
    du, dv = s.u - center[0], s.v - center[1]
    facing = (np.arange(5) + rng.uniform(0, 0.7, 5)) * 2 * np.pi / 5
    sides = [np.cos(a) * du + np.sin(a) * dv - rng.uniform(low, high) for a in facing]
    return np.max(sides, 0)


def _curve(s: Surface, rng, center, length: float, bend: float):
    """Distance to a bent line near `center`, and the place along it, -1..1 between its ends."""
    turn = rng.uniform(0, 2 * np.pi)
    du, dv = s.u - center[0], s.v - center[1]
    t = (np.cos(turn) * du + np.sin(turn) * dv) * 2 / length
    side = -np.sin(turn) * du + np.cos(turn) * dv
    c1, c2 = bend * length * rng.uniform(0.5, 1) * rng.choice([-1, 1]), bend * length
    c2 *= rng.uniform(-0.5, 0.5)
    path = c1 * (t * t - 0.3) + c2 * np.sin(np.pi * t)
    slope = (2 * c1 * t + c2 * np.pi * np.cos(np.pi * t)) * 2 / length
    across = (side - path) / np.sqrt(1 + slope * slope)
    past = np.maximum(np.abs(t) - 1, 0) * length / 2
    return np.hypot(across, past).astype(np.float32), t


def _frayed(s: Surface, rng, edge, ragged: float) -> None:
    """Open the cloth where `edge` is negative: torn unevenly, curled, loose fibres across."""
    size = s.height.shape[0]
    edge = edge + ragged * smooth_noise(rng, size, 45) + 0.7 * (s.height - 0.012)
    s.height = s.height + 0.015 * np.exp(-((edge / 0.03) ** 2))
    s.alpha = s.alpha * smoothstep(-0.008, 0.008, edge)
    near = np.argwhere(np.abs(edge) < 0.01)
    for _ in range(7):
        i, j = near[int(rng.random() * len(near))]
        d, _ = _curve(s, rng, (s.u[i, j], s.v[i, j]), rng.uniform(0.10, 0.18), 0.3)
        fibre = smoothstep(0.012, 0.004, d)
        _paint(s, fibre, (0.36, 0.43, 0.52), 0.03)
        s.alpha = np.maximum(s.alpha, 0.9 * fibre)


def _paint(s: Surface, weight, color, gloss: float) -> None:
    """Replace the material by `color` (linear RGB) and `gloss` where weight is 1."""
    w = weight[..., None]
    s.albedo = (s.albedo * (1 - w) + w * np.asarray(color, np.float32)).astype(np.float32)
    s.gloss = s.gloss * (1 - weight) + gloss * weight


def _lay(s: Surface, rng, distance, half_width: float, thickness: float, color) -> None:
    """Lay a body on the product: outline distance (negative inside), rounded edge, own shadow."""
    edge = 3.0 / s.height.shape[0]
    cover = smoothstep(edge, -edge, distance)
    lift = thickness * np.sqrt(np.clip(-distance / half_width, 0, 1))
    size = s.height.shape[0]
    reach = round(thickness * size * 0.35)
    # The lamp stands at the upper left: the shadow is the outline moved down and right.
    padded = np.pad(cover, ((reach, 0), (reach, 0)), mode="edge")
    half = reach - reach // 2
    near = np.maximum(padded[:size, :size], padded[half : half + size, half : half + size])
    s.shadow = s.shadow * (1 - 0.6 * near * (1 - cover))
    _paint(s, cover, np.asarray(color) * rng.uniform(0.9, 1.1), 0.10)
    s.height = s.height * (1 - cover) + (s.height.max() + lift) * cover
    s.alpha = np.maximum(s.alpha, cover)
    s.grain = s.grain and tuple(g * (1 - cover) for g in s.grain)


def scratch(s: Surface, rng) -> None:
    """A bright groove over the metal, with a raised burr beside it."""
    center = _ring_point(rng, HUB, RIM)
    d, t = _curve(s, rng, center, rng.uniform(0.6, 0.95), 0.035)
    width = rng.uniform(0.018, 0.026) * np.clip(1.25 - np.abs(t), 0.3, 1)
    groove = np.exp(-((d / width) ** 2)) * s.alpha
    s.height = s.height - 0.022 * groove
    _paint(s, np.clip(1.2 * groove, 0, 0.9), (0.78, 0.72, 0.58), 0.45)


def dent(s: Surface, rng) -> None:
    """A hollow from a blow, with the metal pushed up around it."""
    center = _ring_point(rng, HUB + 0.06, ROOT - 0.10)
    radius = rng.uniform(0.13, 0.18)
    d = _blob(s, rng, center, radius, 0.10) + radius
    hollow = smoothstep(radius, 0.0, d)
    s.height = s.height - 0.45 * hollow * radius
    s.gloss = s.gloss * (1 - 0.3 * hollow)


def stain(s: Surface, rng) -> None:
    """Dried oil or green corrosion: dull, darker at its rim."""
    center = _ring_point(rng, HUB - 0.05, ROOT - 0.08)
    d = _blob(s, rng, center, rng.uniform(0.13, 0.20), 0.25)
    d = d + 0.03 * smooth_noise(rng, s.height.shape[0], 18)
    body, rim = smoothstep(0.025, -0.025, d), np.exp(-(((d + 0.025) / 0.02) ** 2))
    colors = [(0.055, 0.035, 0.02), (0.07, 0.16, 0.115), (0.16, 0.055, 0.02)]
    weight = body * (0.84 + 0.14 * rim) * s.alpha
    _paint(s, weight, colors[rng.integers(3)], 0.06)


def hole(s: Surface, rng) -> None:
    """A hole bored where none belongs, with a countersunk edge."""
    center = _ring_point(rng, (BORE + HUB) / 2 + 0.16, ROOT - 0.10)
    radius = rng.uniform(0.075, 0.11)
    d = np.hypot(s.u - center[0], s.v - center[1])
    edge = 2.5 / s.height.shape[0]
    s.height = s.height - 0.045 * smoothstep(radius + 0.03, radius - 0.01, d)
    s.alpha = s.alpha * smoothstep(radius - edge, radius + edge, d)


def missing_part(s: Surface, rng) -> None:
    """One or two teeth broken off, leaving a rough bright fracture."""
    first, count = rng.integers(TEETH), rng.integers(1, 3)
    half = count * np.pi / TEETH
    angle = np.arctan2(s.v, s.u) - (first + (count - 1) / 2) * 2 * np.pi / TEETH
    angle = (angle + np.pi) % (2 * np.pi) - np.pi
    jag = 0.025 * smooth_noise(rng, s.height.shape[0], 24)
    line = rng.uniform(0.74, 0.77) + jag + 3 * np.maximum(np.abs(angle) - 0.8 * half, 0)
    past = (np.hypot(s.u, s.v) - line).astype(np.float32)
    edge = 2.5 / s.height.shape[0]
    face = smoothstep(-0.05, 0.0, past) * s.alpha
    s.height = s.height - 0.045 * face
    _paint(s, 0.7 * face, (0.5, 0.42, 0.3), 0.1)
    s.alpha = s.alpha * smoothstep(edge, -edge, past)


def foreign_body(s: Surface, rng) -> None:
    """A chip of plastic or a piece of wire left on the part."""
    center = _ring_point(rng, HUB, ROOT - 0.05)
    colors = [(0.55, 0.06, 0.05), (0.06, 0.16, 0.50), (0.62, 0.62, 0.60), (0.03, 0.03, 0.035)]
    color = colors[rng.integers(len(colors))]
    if rng.random() < 0.5:
        d, _ = _curve(s, rng, center, rng.uniform(0.4, 0.6), 0.25)
        _lay(s, rng, d - 0.03, 0.03, 0.05, color)
    else:
        _lay(s, rng, _shard(s, rng, center, 0.08, 0.14), 0.04, 0.06, color)


def cut(s: Surface, rng) -> None:
    """A slit by a knife: it gapes in the middle and its edges curl up."""
    d, t = _curve(s, rng, rng.uniform(-0.5, 0.5, 2), rng.uniform(0.6, 0.95), 0.06)
    gap = rng.uniform(0.055, 0.075) * np.sqrt(np.clip(1 - t * t, 0, 1))
    _frayed(s, rng, d - gap, 0.010)


def cloth_stain(s: Surface, rng) -> None:
    """A drop of coffee, oil or ink: it darkens the yarn, most at its rim."""
    d = _blob(s, rng, rng.uniform(-0.6, 0.6, 2), rng.uniform(0.17, 0.27), 0.30)
    d = (
        d + 0.03 * smooth_noise(rng, s.height.shape[0], 18) - (s.height - 0.012)
    )  # it creeps along the yarns
    body, rim = smoothstep(0.03, -0.03, d), np.exp(-(((d + 0.03) / 0.03) ** 2))
    tints = [(0.50, 0.30, 0.14), (0.38, 0.36, 0.30), (0.20, 0.16, 0.34)]
    weight = (body * (0.75 + 0.25 * rim))[..., None]
    s.albedo = s.albedo * (1 - weight + weight * np.array(tints[rng.integers(3)], np.float32))


def cloth_hole(s: Surface, rng) -> None:
    """Yarns torn away: the dark table shows, loose ends stand in from the edge."""
    _frayed(s, rng, _blob(s, rng, rng.uniform(-0.6, 0.6, 2), rng.uniform(0.14, 0.21), 0.3), 0.03)


def thread(s: Surface, rng) -> None:
    """A loose end of another yarn lying on the cloth."""
    d, t = _curve(s, rng, rng.uniform(-0.4, 0.4, 2), rng.uniform(0.8, 1.3), 0.22)
    colors = [(0.55, 0.07, 0.06), (0.72, 0.55, 0.12), (0.05, 0.05, 0.055), (0.75, 0.72, 0.66)]
    _lay(s, rng, d - 0.035 * (1 + 0.12 * np.sin(40 * t)), 0.035, 0.05, colors[rng.integers(4)])


def foreign_chip(s: Surface, rng) -> None:
    """A chip of wood or plastic caught on the cloth."""
    d = _shard(s, rng, rng.uniform(-0.6, 0.6, 2), 0.09, 0.16)
    colors = [(0.50, 0.30, 0.12), (0.10, 0.36, 0.14), (0.70, 0.68, 0.62)]
    _lay(s, rng, d, 0.04, 0.06, colors[rng.integers(3)])


DEFECTS: dict[str, dict[str, Defect]] = {
    "gear": {
        "scratch": scratch, "dent": dent, "stain": stain, "hole": hole,
        "missing_part": missing_part, "foreign_body": foreign_body,
    },
    "fabric": {
        "cut": cut, "stain": cloth_stain, "hole": cloth_hole, "thread": thread,
        "foreign_body": foreign_chip,
    },
}  # fmt: skip
