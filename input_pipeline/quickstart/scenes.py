"""The two products of the project's own pictures: a turned brass gear and woven cloth."""

import numpy as np

from input_pipeline.quickstart.render import Surface, fine_noise, grid, smooth_noise, smoothstep

TEETH = 12
# Radii of the gear in units of its own frame (the pitch circle of the teeth is at 0.88).
ROOT, TIP, RIM, HUB, BORE = 0.79, 0.97, 0.66, 0.36, 0.19


def gear_outline(u, v):
    """Distance to the gear's toothed outline, negative inside, f32[h,w]."""
    r, angle = np.hypot(u, v) + 1e-6, np.arctan2(v, u)
    wave = np.cos(TEETH * angle)
    flank = np.tanh(2.6 * wave + 0.1)
    slope = (1 - flank * flank) * 2.6 * TEETH * np.sin(TEETH * angle)
    radius = (ROOT + TIP) / 2 + (TIP - ROOT) / 2 * flank
    steep = (TIP - ROOT) / 2 * slope / r
    return ((r - radius) / np.sqrt(1 + steep * steep)).astype(np.float32)


def gear(rng: np.random.Generator, size: int) -> Surface:
    """A brass gear on a rubber mat, put down by a fixture: hardly turned, hardly off the centre."""
    x, y = grid(size)
    shift, turn, scale = (
        rng.uniform(-0.008, 0.008, 2),
        rng.uniform(-0.01, 0.01),
        rng.uniform(0.82, 0.83),
    )
    c, s = np.cos(turn) / scale, np.sin(turn) / scale
    u = (c * (x - shift[0]) + s * (y - shift[1])).astype(np.float32)
    v = (-s * (x - shift[0]) + c * (y - shift[1])).astype(np.float32)
    r = np.hypot(u, v) + 1e-6
    outline = gear_outline(u, v)
    edge = 2.5 / size
    alpha = smoothstep(edge, -edge, outline) * smoothstep(BORE - edge, BORE + edge, r)
    # Chamfered edges, a sunk web between hub and rim, a raised hub.
    height = 0.03 * smoothstep(0.005, -0.035, outline) + 0.03 * smoothstep(BORE, BORE + 0.04, r)
    height -= 0.05 * smoothstep(HUB - 0.02, HUB + 0.03, r) * smoothstep(RIM + 0.02, RIM - 0.03, r)
    # Turning marks: grooves that depend on the radius alone, each lathe pass a little different.
    rings = np.interp(r, np.linspace(0, 1.3, 240), rng.standard_normal(240)).astype(np.float32)
    tarnish = smooth_noise(rng, size, 5)
    brass = np.array([0.66, 0.43, 0.12]) * (1 + rng.uniform(-0.03, 0.03, 3))
    tone = 1 + 0.035 * tarnish + 0.03 * rings + 0.02 * fine_noise(rng, size, 0.8)
    web = smoothstep(HUB, HUB + 0.03, r) * smoothstep(RIM, RIM - 0.03, r)
    albedo = (brass * 0.5 * (tone * (1 - 0.22 * web))[..., None]).astype(np.float32)
    gloss = (0.85 * (1 - 0.45 * web) * (1 + 0.12 * rings + 0.05 * tarnish)).astype(np.float32)
    # The tangent of the circle through each point, in picture axes.
    px, py = (x - shift[0]) / (scale * r), (y - shift[1]) / (scale * r)
    return Surface(
        u, v, alpha, height, albedo, gloss, (-py, px), _mat(rng, size),
        np.ones((size, size), np.float32), 0.09,
    )  # fmt: skip


def _mat(rng: np.random.Generator, size: int):
    """A dark blue-grey rubber mat with a fine grain, linear RGB f32[size,size,3]."""
    tone = 1 + 0.07 * smooth_noise(rng, size, 3) + 0.09 * fine_noise(rng, size, size / 220)
    base = np.array([0.105, 0.125, 0.15]) * rng.uniform(0.9, 1.1)
    return (base * tone[..., None]).astype(np.float32)


def fabric(rng: np.random.Generator, size: int) -> Surface:
    """Plain-woven cloth, blue warp and pale weft, near enough to see every thread."""
    x, y = grid(size)
    turn, threads = rng.uniform(-0.10, 0.10), 11.0 * rng.uniform(0.96, 1.04)  # threads a unit
    c, s = np.cos(turn), np.sin(turn)
    waves = [0.018 * smooth_noise(rng, size, 3) for _ in range(2)]  # cloth is never laid straight
    a = threads * (c * x + s * y + waves[0] + rng.uniform(0, 1))
    b = threads * (-s * x + c * y + waves[1] + rng.uniform(0, 1))
    i, j = np.floor(a).astype(int), np.floor(b).astype(int)
    p, q = a - i - 0.5, b - j - 0.5
    widths = 1 + 0.06 * rng.standard_normal(
        (2, 64), np.float32
    )  # yarn is uneven from thread to thread
    tones = 1 + 0.07 * rng.standard_normal((2, 64), np.float32)
    side = np.where((i + j) % 2 == 0, np.float32(1), np.float32(-1))
    warp = _yarn(p / (0.48 * widths[0, i % 64]), side * np.cos(np.pi * q))
    weft = _yarn(q / (0.48 * widths[1, j % 64]), -side * np.cos(np.pi * p))
    on_top = (warp > weft).astype(np.float32)
    height = np.maximum(warp, weft)
    # Twisted fibres: oblique lines along each yarn.
    twist = np.where(on_top > 0, np.sin(14 * p + 9 * b), np.sin(14 * q + 9 * a))
    fuzz = fine_noise(rng, size, size / 256)
    tone = 1 + 0.07 * twist + 0.06 * fuzz + 0.03 * smooth_noise(rng, size, 4)
    tone *= np.where(on_top > 0, tones[0, i % 64], tones[1, j % 64])
    tone *= 0.35 + 0.65 * smoothstep(0.05, 0.85, height)  # gaps between yarns are dark
    blue = np.array([0.20, 0.29, 0.45]) * (1 + rng.uniform(-0.02, 0.02, 3))
    pale = np.array([0.40, 0.47, 0.55]) * (1 + rng.uniform(-0.02, 0.02, 3))
    color = on_top[..., None] * blue + (1 - on_top[..., None]) * pale
    one = np.ones((size, size), np.float32)
    table = (np.array([0.035, 0.03, 0.028]) * one[..., None]).astype(np.float32)
    return Surface(
        np.array(x), np.array(y), one, (height * 0.025).astype(np.float32),
        (color * tone[..., None]).astype(np.float32), 0.03 * one, None, table, one.copy(), 0.05,
    )  # fmt: skip


def _yarn(across, rise):
    """Height of a round yarn: `across` -1..1 from edge to edge, `rise` -1..1 below to above."""
    return np.sqrt(np.clip(1 - across * across, 0, 1)) * (0.5 + 0.5 * rise)
