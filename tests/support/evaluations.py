"""A judged set of six small pictures with awkward names, and an evaluation of it."""

import numpy as np

from diffad_jax.scoring import results
from diffad_jax.scoring.identity import identify
from diffad_jax.scoring.threshold import Threshold
from tests.support import helpers

CONFIG = helpers.parsed(data__category="<b>&", evaluate__weights="ema")
IDENTITY = identify(CONFIG, 7, "0123456789ab")
FOUND = Threshold(
    image=0.6,
    pixel=0.3,
    source="f1",
    pictures=6,
    false_alarm_rate=0.5,
    false_alarm_interval=(0.0126, 0.9874),
    recall=0.75,
    recall_interval=(0.1941, 0.9937),
    slope=2.0,
    identity=IDENTITY,
)
SIZE = 32
NAMES = [
    "good/000.png",
    "good/001.png",
    'a,"b".png',
    "螺丝 ü.png",
    "<script>alert($1)$.png",
    "a_name_so_long_that_it_cannot_stand_beside_the_pictures_of_its_row\n.png",
]
DEFECTS = ["good", "good", "hole", "hole", "scratch", "metal_contamination"]


def judged(**changes):
    """Two good pictures and four defective ones, with a mask missing among them."""
    rng = np.random.default_rng(0)
    count = len(NAMES)
    labels = np.array([0, 0, 1, 1, 1, 1], np.int32)
    masks = np.zeros((count, SIZE, SIZE, 1), np.uint8)
    masks[2:, :8, 4:12] = 255  # touches the picture's edge
    fields = {
        "names": NAMES,
        "defects": DEFECTS,
        "labels": labels,
        "scores": np.array([0.1, 0.6, 0.7, 1 / 3, 0.9, 0.8]),
        "maps": (masks[..., 0] / 255 * 0.5 + 0.1 * rng.random(masks.shape[:3])).astype(np.float32),
        "images": rng.integers(0, 255, (count, SIZE, SIZE, 3), dtype=np.uint8),
        "reconstructions": rng.integers(0, 255, (count, SIZE, SIZE, 3), dtype=np.uint8),
        "masks": masks,
        "has_mask": np.array([False, False, True, False, True, True]),
    }
    return results.Judged(**{**fields, **changes})


def numbered(defects):
    """A judged set where only the order and the type of defect matter."""
    count = len(defects)
    return results.Judged(
        names=[str(i) for i in range(count)],
        defects=defects,
        labels=np.array([defect != "good" for defect in defects], np.int32),
        scores=np.zeros(count),
        maps=np.zeros((count, 1, 1), np.float32),
        images=np.zeros((count, 1, 1, 3), np.uint8),
        reconstructions=np.zeros((count, 1, 1, 3), np.uint8),
        masks=None,
        has_mask=np.zeros(count, bool),
    )


def evaluated(tests=None, values=None, pixels=None, threshold=FOUND, identity=IDENTITY):
    """An evaluation; of `judged()` where nothing else is given."""
    tests = judged() if tests is None else tests
    return results.Evaluation(tests, values or {}, pixels, threshold, identity)


def many(count):
    """Labels, types and scores of a test set where one in five is judged wrongly at 0.5."""
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.int32)
    wrong = rng.random(count) < 0.2
    scores = 0.5 * rng.random(count) + 0.5 * (labels ^ wrong)
    return labels, [("good", "hole")[label] for label in labels], scores
