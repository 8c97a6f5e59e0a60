"""A page of the pictures that training will see, with the masks and how each was made.

    python -m input_pipeline.gallery --config configs/default.py \
        --config.data.root=parts --config.data.category=screw --output gallery.html

The first thing to look at before spending GPU hours. One self-contained HTML file, the same on
every run. Training makes the same pictures at the same positions: both call `pipeline.Examples`.
"""

import base64
import dataclasses
import html
import io
import logging
import pathlib
import string
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import flags
from jaxtyping import UInt8
from PIL import Image

from configs.schema import Config
from diffad_jax.data_tools import cli
from input_pipeline.augment import OP_NAMES
from input_pipeline.builder import records
from input_pipeline.datasets import Category, load_category, load_textures, textures_builder
from input_pipeline.on_disk import Stored
from input_pipeline.pipeline import Examples, check

logger = logging.getLogger(__name__)

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #f6f6f4; --card: #fff; --ink: #222; --soft: #666;
  --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --page: #17181a; --card: #222427; --ink: #e6e6e6;
  --soft: #a0a4a8; --line: #3a3d41; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 110rem; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { margin: 0 0 .3rem; font-size: 1.4rem; overflow-wrap: anywhere; }
p { margin: .2rem 0; max-width: 75ch; overflow-wrap: anywhere; }
h2 { margin: 1.4rem 0 .6rem; font-size: 1.1rem; }
section { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 33rem), 1fr)); }
section.normal { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
article { padding: .8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
h3 { margin: 0 0 .5rem; font-size: .95rem; }
h3 span, figcaption, dt { color: var(--soft); font-weight: normal; }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem; }
figure { margin: 0; overflow-wrap: anywhere; }
figcaption { font-size: .8rem; }
img { display: block; width: 100%; border: 1px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .7rem; margin: .5rem 0 0;
  font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>$title</h1>
$summary
<h2>With an anomaly</h2>
<section>
$anomalous
</section>
<h2>Normal: the picture as it is, the mask empty</h2>
<section class="normal">
$normal
</section>
</body>
</html>
""")


@dataclasses.dataclass(frozen=True)
class Shown:
    """One training example and what it was made of."""

    position: int  # in the data order of the run
    image: UInt8[np.ndarray, "s s 3"]
    mask: UInt8[np.ndarray, "s s 1"]  # 0..255
    clean: UInt8[np.ndarray, "s s 3"]
    name: str  # of the training picture
    source: str  # "": the example is normal; else what the anomaly was painted with
    ops: tuple[str, ...]  # that the source passed, in this order
    blend: float  # share of the picture that shows through the anomaly


def examples(
    category: Category,
    textures: UInt8[np.ndarray, "m s s 3"] | Stored | None,
    names: Sequence[str],
    config: Config,
    first: int,
    count: int,
) -> Iterator[Shown]:
    """The examples of a run at the positions first..first + count - 1.

    Args:
      category: as of `pipeline.train_batches`.
      textures: likewise.
      names: of the textures; of no meaning where there are none.
      config: as of `pipeline.train_batches`.
      first: position, step * batch_size for a batch's first example.
      count: examples.
    """
    made = Examples(category, textures, config)
    both = tf.autograph.experimental.do_not_convert(
        lambda position: (position, made.example(position), made.origin(position))
    )
    rows = tf.data.Dataset.range(first, first + count).map(both)
    for position, example, origin in rows.as_numpy_iterator():
        anomalous, texture = example["label"] > 0, int(origin["texture"])
        source = (
            f"texture {names[texture]}" if textures is not None else f"made-up texture {texture}"
        )
        source = "own pieces" if origin["own"] else source
        yield Shown(
            position=int(position),
            image=_levels(example["image"]),
            mask=_levels(example["mask"]),
            clean=category.train.images[origin["picture"][None]][0],
            name=category.train.names[int(origin["picture"])],
            source=source if anomalous else "",
            ops=tuple(OP_NAMES[op] for op in origin["ops"]),
            blend=float(origin["blend"]),
        )


def page(shown: Sequence[Shown], config: Config, category: Category) -> str:
    """The HTML page."""
    anomalous = [one for one in shown if one.source]
    kinds = Counter(one.source.split(" ")[0] for one in anomalous)
    named = {"texture": "texture pictures", "made-up": "made-up textures", "own": "own pieces"}
    made_of = ", ".join(f"{count} from {named[kind]}" for kind, count in sorted(kinds.items()))
    size = config.model.image_size
    lines = [
        f"{len(shown)} examples that training sees from step "
        f"{shown[0].position // config.train.batch_size + 1} on, seed {config.seed}, batch size "
        f"{config.train.batch_size}, {size} px; {len(category.train.names)} good pictures of "
        f"{category.folder}, treated as {category.kind}.",
        f"{len(anomalous)} with a synthetic anomaly{f' ({made_of})' if anomalous else ''}, "
        f"{len(shown) - len(anomalous)} normal.",
        "Look for: anomalies that lie on the part and can be seen; masks that cover them.",
    ]
    batch = config.train.batch_size
    return _PAGE.substitute(
        title=html.escape(f"Training pictures of {config.data.category}"),
        summary="\n".join(f"<p>{html.escape(line)}</p>" for line in lines),
        anomalous="\n".join(_card(one, batch) for one in anomalous),
        normal="\n".join(
            _figure(f"{_place(one, batch)}: {one.name}", one) for one in shown if not one.source
        ),
    )


def _card(one: Shown, batch_size: int) -> str:
    """One anomalous example."""
    facts = {
        "picture": one.name,
        "source": one.source,
        "ops": " → ".join(one.ops),
        "shows through": f"{one.blend:.0%} of the picture",
        "area": f"{(one.mask > 0).mean():.1%}",
    }
    listed = "".join(f"<dt>{k}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    figures = "".join(
        f'<figure><img alt="{label}" src="{_data_url(picture)}">'
        f"<figcaption>{label}</figcaption></figure>"
        for label, picture in (
            ("training sees", one.image),
            ("mask", one.mask),
            ("clean picture", one.clean),
        )
    )
    return (
        f'<article id="p{one.position}"><h3>{_place(one, batch_size)} '
        f"<span>position {one.position}</span></h3>"
        f'<div class="pictures">{figures}</div><dl>{listed}</dl></article>'
    )


def _figure(caption: str, one: Shown) -> str:
    """One normal example."""
    return (
        f'<figure id="p{one.position}"><img alt="training sees" src="{_data_url(one.image)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _place(one: Shown, batch_size: int) -> str:
    step, place = divmod(one.position, batch_size)
    return f"step {step + 1}, picture {place + 1}"


def _levels(values: np.ndarray) -> np.ndarray:
    """u8 of values in [0, 1]."""
    return np.round(values * 255).astype(np.uint8)


def _data_url(picture: UInt8[np.ndarray, "s s c"]) -> str:
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def texture_names(config: Config) -> list[str]:
    """Paths of the anomaly sources, in their order; none where there are none."""
    if not config.data.textures:
        return []
    builder = textures_builder(config.data, config.model.image_size)
    return [record.picture for record in records(builder, "train")]


def write(config: Config, output: pathlib.Path, first_step: int, count: int) -> int:
    """Write the page; `first_step` counts from 0. Returns 0."""
    category = load_category(config.data, config.model.image_size)
    check(category, config.train.batch_size, process_count=1)
    textures = load_textures(config.data, config.model.image_size)
    first = first_step * config.train.batch_size
    shown = list(examples(category, textures, texture_names(config), config, first, count))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(shown, config, category), encoding="utf-8")
    logger.info("wrote %s", output)
    return 0


if __name__ == "__main__":
    _OUTPUT = flags.DEFINE_string("output", None, "The page, an HTML file.")
    _COUNT = flags.DEFINE_integer("count", 24, "Pictures on the page.", lower_bound=1)
    _STEP = flags.DEFINE_integer("first_step", 0, "First step shown, from 0.", lower_bound=0)
    flags.mark_flag_as_required("output")
    cli.run(lambda config: write(config, pathlib.Path(_OUTPUT.value), _STEP.value, _COUNT.value))
