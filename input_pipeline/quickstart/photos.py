"""Product pictures made by the project: two categories in MVTec AD layout, and textures.

Every picture is a function of (seed, category, split, index) alone: adding pictures changes none.
"""

import json
import os
import pathlib

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from configs.errors import UserError
from input_pipeline.on_disk import replacing
from input_pipeline.quickstart.defects import DEFECTS
from input_pipeline.quickstart.render import Surface, develop, lamp, shade, stream
from input_pipeline.quickstart.scenes import fabric, gear
from input_pipeline.textures import RULES, texture

RECIPE = 3  # raise it whenever a picture would come out differently
STAMP = "recipe.json"
SCENES = {"gear": gear, "fabric": fabric}
# A pixel belongs to a defect's mask where a channel changed by at least this many grey levels.
VISIBLE = 10
# Smallest region of a mask, as a share of the picture; smaller specks are undone.
SMALLEST_REGION = 0.0015
SMALLEST_DEFECT = 0.004
LAMP_AZIMUTH = -2.36  # upper left
Picture = UInt8[np.ndarray, "size size 3"]


def good_picture(category: str, split: str, index: int, size: int, seed: int) -> Picture:
    """A picture without defect, sRGB u8[size,size,3]; `split` such as 'train/good'."""
    surface, light = _scene(category, split, index, size, seed)
    return _photograph(surface, light, category, split, index, size, seed)


def defect_picture(
    category: str, defect: str, index: int, size: int, seed: int
) -> tuple[Picture, Bool[np.ndarray, "size size"]]:
    """A picture of split 'test/DEFECT' and the mask of the pixels that the defect changed.

    Outside the mask the picture equals `good_picture` of the same arguments exactly.
    """
    split = f"test/{defect}"
    surface, light = _scene(category, split, index, size, seed)
    good = _photograph(surface, light, category, split, index, size, seed)
    for attempt in range(100):
        broken = surface.copy()
        rng = stream(seed, category, split, index, "defect", attempt)
        DEFECTS[category][defect](broken, rng)
        bad = _photograph(broken, light, category, split, index, size, seed)
        mask = changed_region(good, bad)
        if mask.mean() >= SMALLEST_DEFECT:
            return np.where(mask[..., None], bad, good), mask
    raise RuntimeError(f"no visible {defect} on {category} {index} in 100 attempts")


def changed_region(good: Picture, bad: Picture) -> Bool[np.ndarray, "size size"]:
    """Pixels that differ visibly, without gaps and without specks."""
    size = good.shape[0]
    change = np.abs(good.astype(int) - bad.astype(int)).max(2) >= VISIBLE
    # A hollow or a stain may meet the old grey by chance on a line through it: close such lines.
    padded = np.pad(change, 4)
    closed = ndimage.binary_closing(padded, np.ones((3, 3), bool), max(1, size // 128))[4:-4, 4:-4]
    regions, count = ndimage.label(ndimage.binary_fill_holes(closed), np.ones((3, 3)))
    areas = np.bincount(regions.ravel(), minlength=count + 1)
    keep = areas >= SMALLEST_REGION * size * size
    keep[0] = False
    return keep[regions]


def _scene(category: str, split: str, index: int, size: int, seed: int):
    """The product and the lamp of one picture."""
    rng = stream(seed, category, split, index, "scene")
    oversampling = max(2, 256 // size)
    light = lamp(rng, LAMP_AZIMUTH, 0.45)
    return SCENES[category](rng, size * oversampling), light


def _photograph(surface: Surface, light, category, split, index, size, seed) -> Picture:
    camera = stream(seed, category, split, index, "camera")
    return develop(shade(surface, light), size, camera)


def write_photos(
    output: str | os.PathLike,
    size: int = 128,
    seed: int = 0,
    train: int = 120,
    good: int = 24,
    defects: int = 6,
    textures: int = 8,
) -> bool:
    """Write `gear/`, `fabric/` and `textures/images/RULE/` into the new folder `output`.

    `train` and `good` pictures a category, `defects` a kind of defect, `textures` a rule.
    All or nothing: the folder appears when it is complete. Returns False, and does nothing, where
    the same pictures are there already.

    Raises:
      UserError: a size outside 64..256, or an `output` that holds anything else.
    """
    if not 64 <= size <= 256:
        raise UserError(f"size={size} is not in 64..256 px")
    output = pathlib.Path(output).expanduser().resolve()
    recipe = dict(
        recipe=RECIPE, size=size, seed=seed, train=train, good=good, defects=defects,
        textures=textures,
    )  # fmt: skip
    if output.exists():
        _require_same(output, recipe)
        return False
    with replacing(output) as partial:
        unfinished = pathlib.Path(partial)
        for category in SCENES:
            _write_category(unfinished / category, recipe)
        _write_textures(unfinished / "textures" / "images", recipe)
        (unfinished / STAMP).write_text(json.dumps(recipe, sort_keys=True) + "\n")
    return True


def _require_same(output: pathlib.Path, recipe: dict) -> None:
    stamp = output / STAMP
    if not stamp.is_file():
        raise UserError(f"{output} exists and was not made by this program: nothing written")
    found = json.loads(stamp.read_text())
    if found != recipe:
        raise UserError(f"{output} holds pictures of {found}, asked for {recipe}: nothing written")


def _write_category(folder: pathlib.Path, recipe: dict) -> None:
    category, size, seed = folder.name, recipe["size"], recipe["seed"]
    for split, count in (("train/good", recipe["train"]), ("test/good", recipe["good"])):
        for index in range(count):
            _save(
                folder / split / f"{index:03d}.png",
                good_picture(category, split, index, size, seed),
            )
    for defect in DEFECTS[category]:
        for index in range(recipe["defects"]):
            picture, mask = defect_picture(category, defect, index, size, seed)
            _save(folder / "test" / defect / f"{index:03d}.png", picture)
            truth = folder / "ground_truth" / defect / f"{index:03d}_mask.png"
            _save(truth, np.where(mask, np.uint8(255), np.uint8(0)))


def _write_textures(folder: pathlib.Path, recipe: dict) -> None:
    """Procedural textures, in a folder for each rule as DTD has one for each kind of surface."""
    for place, rule in enumerate(RULES):
        for index in range(recipe["textures"]):
            picture = texture(place + index * len(RULES), recipe["size"], recipe["seed"])
            _save(folder / rule / f"{rule}_{index:03d}.png", picture)


def _save(path: pathlib.Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
