"""The report of an evaluation that people read: one HTML file with everything in it.

It begins with the verdicts in plain words and ends with the configuration; between them stand the
measures, the curves and the pictures, the worst mistakes first. Nothing is loaded from elsewhere,
no script runs, and the same input gives the same bytes.
"""

import importlib.metadata
import math
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from diffad_jax import curves, gallery, metrics, report
from diffad_jax.config import Config
from diffad_jax.document import Html, document, element, join, table
from diffad_jax.threshold import Threshold
from diffad_jax.workdir import write as write_file

PACKAGES = ("diffad_jax", "jax", "jaxlib", "flax", "numpy")
WEIGHTS = {"ema": "averaged weights (EMA)", "raw": "raw weights"}
MEASURES = {
    "auroc": "AUROC",
    "ap": "AP",
    "f1_max": "F1-max",
    "f1_threshold": "at threshold",
}
OVERLAPS = {"aupro_30": "AUPRO 0.30", "aupro_05": "AUPRO 0.05"}


def write(
    path: epath.PathLike,
    step: int,
    evaluation: report.Evaluation,
    values: Mapping[str, float],
    threshold: Threshold | None,
    config: Config,
) -> None:
    """Write the report, an HTML file that opens anywhere, also without a network.

    Args:
      path: of the file to write, local or gs://.
      step: of the checkpoint.
      evaluation: the whole test set; `gallery.choose` says which of a large one are shown.
      values: as `metrics.evaluate` returns them; what is missing shows as '–'.
      threshold: from which score on a picture counts as defective; None: no verdicts.
      config: of the run.
    """
    cut = math.nan if threshold is None else threshold.image
    groups = gallery.choose(evaluation.labels, evaluation.defects, evaluation.scores, cut)
    title = f"{config.data.category}, step {step}"
    pages = [_group(group, f"g{i}", evaluation, threshold) for i, group in enumerate(groups)]
    body = join(
        [
            element("header", _head(title, evaluation, threshold, step, config, groups)),
            element("main", join([*_numbers(evaluation, values, cut), *_charts(evaluation, cut)])),
            element("h2", "Pictures"),
            _selection(groups),
            gallery.legend(report.full_scale(evaluation.maps), _pixel(threshold)),
            *pages,
            *_setting(config),
        ]
    )
    write_file(epath.Path(path), document(title, body))


def _head(title, evaluation, threshold, step, config, groups) -> Html:
    """Heading, the result in a sentence, where its threshold comes from, and the contents."""
    labels = evaluation.labels
    about = (
        f"{WEIGHTS[config.evaluate.weights]} · {len(labels)} test pictures: "
        f"{int((labels == 1).sum())} defective, {int((labels == 0).sum())} good"
    )
    links = [("numbers", "Numbers"), ("curves", "Curves")]
    links += [(f"g{i}", f"{group.title} ({group.total})") for i, group in enumerate(groups)]
    links.append(("configuration", "Configuration"))
    items = join(
        element("li", Html(f'<a href="#{anchor}">{join([name])}</a>')) for anchor, name in links
    )
    return join(
        [
            element("h1", title),
            element("p", about, "faint"),
            element("p", _result(evaluation, threshold), "lede"),
            element("p", _origin(threshold, step), "faint"),
            Html(f'<nav aria-label="Contents"><ul>{items}</ul></nav>'),
        ]
    )
