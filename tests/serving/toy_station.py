"""A real station with a model that anybody can predict: the redder, the more anomalous.

python -m tests.serving.toy_station FOLDER
"""

import logging
import sys
import types

import numpy as np

from diffad_jax import serve
from diffad_jax.predicting.results import find_boxes
from diffad_jax.serving import models

THRESHOLD = 0.5
GOOD, DEFECTIVE = [0.05, 0.1, 0.15, 0.6], [0.3, 0.7, 0.8]  # scores of the evaluation


def judge(pictures):
    findings = []
    for picture in pictures:
        red = picture[..., 0].astype(np.float32) - picture[..., 1]
        anomaly_map = np.maximum(red / 255, 0)
        made = picture.copy()
        made[..., 0] = made[..., 1]
        score = float(anomaly_map.max())
        boxes = find_boxes(anomaly_map, THRESHOLD)
        findings.append(
            types.SimpleNamespace(
                score=score, anomaly_map=anomaly_map, boxes=boxes, reconstruction=made
            )
        )
    return findings


def opened(place, threshold=None):
    values = dict.fromkeys(("score", "brightness", "sharpness", "red", "green", "blue"), 0.1)
    reference = [values | {"score": s, "label": 0, "picture": "p"} for s in GOOD]
    reference += [values | {"score": s, "label": 1, "picture": "p"} for s in DEFECTIVE]
    return models.Served(
        **{"kind": "bundle", "category": "toy", "size": 32, "step": 7, "program": "1"},
        **{"precision": "float32", "threshold": THRESHOLD, "pixel_threshold": THRESHOLD},
        **{"slope": 5.0, "rule": "f1, found on 7 pictures", "batch_size": 4},
        **{"reference": {"pictures": reference}, "needed": (), "judge": judge},
        resizing=("bilinear", "stretch"),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    models.opened = opened
    serve.run("toy", output=sys.argv[1], port=0)
