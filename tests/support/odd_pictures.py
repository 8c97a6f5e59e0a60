"""Pictures as people have them."""

import pathlib

import numpy as np
from PIL import Image


def write_all(folder: pathlib.Path) -> dict[str, tuple[int, int] | None]:
    """Good and bad ones: {name: (width, height), or None where it cannot be read}."""
    rng = np.random.default_rng(4)
    rgb = rng.integers(0, 256, (33, 50, 3), np.uint8)
    sizes = {}

    def save(name, array, size=(50, 33), **options):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, **options)
        sizes[name] = size

    save("grey.png", rgb[..., 0])
    save("deep.png", rgb[..., 0].astype(np.uint16) * 257)
    save("with alpha.png", np.dstack([rgb, rgb[..., :1]]))
    save("same.png", rgb)
    save("same.jpg", rgb)
    save("sub/same.png", rgb)
    save("sub/same.PNG", rgb)
    save("<script>.png", rgb)
    save("Prüfstück 零件\n2.png", rgb)
    save("pixel.png", rgb[:1, :1], (1, 1))
    save("strip.bmp", np.tile(rgb[:3], (1, 40, 1)), (2000, 3))
    save("a" * 230 + ".png", rgb)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    save("turned.jpg", rgb, (33, 50), exif=turned)
    whole = (folder / "same.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.tif").write_bytes(b"")
    (folder / ".hidden.png").write_bytes(whole)
    (folder / "notes.txt").write_text("no picture, and not called one")
    return sizes | dict.fromkeys(("cut.png", "text.png", "empty.tif"))
