"""A page of the pictures that training will see, with the masks and how each was made.

The first thing to look at before spending GPU hours. One self-contained HTML file, the same on
every run. Training makes the same pictures at the same positions: both call `pipeline.Examples`.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from markupsafe import Markup

from configs.schema import Config
from diffad_jax.reporting.html import document, element, image, join
from diffad_jax.runs import files
from input_pipeline.augment import OP_NAMES
from input_pipeline.datasets import Category, Textures, load_category, load_textures
from input_pipeline.pipeline import Examples, check

logger = logging.getLogger(__name__)

# What an anomaly is painted with.
NORMAL, TEXTURE, PROCEDURAL, SELF = SOURCES = (
    "",
    "texture pictures",
    "procedural textures",
    "self-augmentation",
)


@dataclasses.dataclass(frozen=True)
class Shown:
    """One training example and what it was made of."""

    position: int  # in the data order of the run
    image: UInt8[np.ndarray, "s s 3"]
    mask: UInt8[np.ndarray, "s s 1"]  # 0..255
    clean: UInt8[np.ndarray, "s s 3"]
    name: str  # of the training picture
    source: str  # one of SOURCES
    texture: str  # its name, where the source is a texture
    ops: tuple[str, ...]  # that the source passed, in this order
    blend: float  # share of the picture that shows through the anomaly


def write(config: Config, output: epath.PathLike, first_step: int, count: int) -> None:
    """Write the page.

    Args:
      config: of the run; its data, seed and batch size decide what is shown.
      output: of the HTML file, local or gs://.
      first_step: whose first picture is the first one shown, from 0.
      count: pictures, at least 1.

    Raises:
      UserError: unusable pictures.
    """
    category = load_category(config.data, config.model.image_size)
    check(category, config.train.batch_size, process_count=1)
    textures = load_textures(config.data, config.model.image_size)
    first = first_step * config.train.batch_size
    shown = list(examples(category, textures, config, first, count))
    files.write(output, page(shown, config, category))
    logger.info("wrote %s", output)


def examples(
    category: Category, textures: Textures, config: Config, first: int, count: int
) -> Iterator[Shown]:
    """The examples of a run at the positions first..first + count - 1.

    Args:
      category: as of `pipeline.train_batches`.
      textures: likewise.
      config: of the run; its data and seed decide what is shown.
      first: position, step * batch_size for a batch's first example.
      count: examples.
    """
    made = Examples(category, textures, config.data, config.seed)
    for position, example, origin in made.shown(first, count):
        source = PROCEDURAL if textures.procedural else TEXTURE
        source = SELF if origin["own"] else source
        source = source if example["label"] > 0 else NORMAL
        painted = source in (PROCEDURAL, TEXTURE)
        levels = ("match levels",) if origin["matched"] else ()
        yield Shown(
            position=int(position),
            image=_levels(example["image"]),
            mask=_levels(example["mask"]),
            clean=category.train.images[origin["picture"][None]][0],
            name=category.train.names[int(origin["picture"])],
            source=source,
            texture=textures.names[int(origin["texture"])] if painted else "",
            ops=tuple(OP_NAMES[op] for op in origin["ops"]) + levels,
            blend=float(origin["blend"]),
        )


def page(shown: Sequence[Shown], config: Config, category: Category) -> bytes:
    """The HTML page."""
    batch = config.train.batch_size
    anomalous = [one for one in shown if one.source]
    normal = [one for one in shown if not one.source]
    title = f"Training pictures of {config.data.category}"
    parts = [
        element("h1", title),
        *(element("p", line) for line in _summary(shown, config, category)),
        element("h2", f"With a synthetic anomaly ({len(anomalous)})"),
        element("section", join(_card(one, batch) for one in anomalous), "examples"),
        element("h2", f"Normal: the picture as it is, the mask empty ({len(normal)})"),
        element("section", join(_figure(one, batch) for one in normal), "examples plain"),
    ]
    return document(title, element("main", join(parts)))


def _summary(shown: Sequence[Shown], config: Config, category: Category) -> list[str]:
    """What is shown, what it was made of, and what to look for."""
    batch, size = config.train.batch_size, config.model.image_size
    sources = Counter(one.source for one in shown)
    made_of = ", ".join(
        f"{sources[source]} by {source}" if source == SELF else f"{sources[source]} with {source}"
        for source in SOURCES
        if source and sources[source]
    )
    normal = sources[NORMAL]
    lines = [
        f"{len(shown)} examples as training sees them from step {shown[0].position // batch + 1} "
        f"on (seed {config.seed}, batch size {batch}, {size} px), made of "
        f"{len(category.train.names)} good pictures in {category.folder}, treated as "
        f"{category.kind}.",
        f"{len(shown) - normal} have a synthetic anomaly{f' ({made_of})' if made_of else ''}, "
        f"{normal} are normal.",
        "Look for: anomalies that lie on the part and can be seen; masks that cover them.",
    ]
    if sources[SELF]:
        lines.append("Self-augmentation: painted with rearranged strips of the picture itself.")
    if sources[PROCEDURAL]:
        lines.append("Procedural textures: computed ones, because data.textures is empty.")
    return lines


def _card(one: Shown, batch_size: int) -> Markup:
    """One anomalous example."""
    facts = {
        "picture": one.name,
        "painted with": f"{one.source}: {one.texture}" if one.texture else one.source,
        "changed by": " → ".join(one.ops),
        "shows through": f"{one.blend:.0%} of the picture",
        "area": f"{(one.mask > 0).mean():.1%} of the picture",
    }
    views = {"training sees": one.image, "mask": one.mask[..., 0], "clean picture": one.clean}
    figures = (
        element("figure", join([image(view, label), element("figcaption", label)]))
        for label, view in views.items()
    )
    listed = (
        join([element("dt", name), element("dd", fact)]) for name, fact in facts.items() if fact
    )
    head = element(
        "h3", join([_place(one, batch_size), " ", element("small", f"position {one.position}")])
    )
    parts = [head, element("div", join(figures), "three"), element("dl", join(listed), "facts")]
    return element("article", join(parts), id=f"p{one.position}")


def _figure(one: Shown, batch_size: int) -> Markup:
    """One normal example."""
    caption = element("figcaption", f"{_place(one, batch_size)}: {one.name}")
    return element(
        "figure", join([image(one.image, "training sees"), caption]), id=f"p{one.position}"
    )


def _place(one: Shown, batch_size: int) -> str:
    step, place = divmod(one.position, batch_size)
    return f"step {step + 1}, picture {place + 1}"


def _levels(values: Float[np.ndarray, "s s c"]) -> UInt8[np.ndarray, "s s c"]:
    """Grey levels 0..255 of values in [0, 1]."""
    return np.round(values * 255).astype(np.uint8)
