"""Runs a prediction of many pictures in two shares, and kills one of them in several places.

python -m tests.predicting.kills PICTURES OUTPUT [SEED]

Prints {place: how many pictures each of its processes judged; -1: it was killed}. A child for each,
forked before JAX does anything; the model takes the mean of the red.
"""

import json
import os
import pathlib
import signal
import sys

import numpy as np
from etils import epath

from configs.errors import UserError
from diffad_jax import predict
from diffad_jax.predicting import shares
from diffad_jax.predicting.predictor import Predictor
from diffad_jax.predicting.results import Prediction
from tests.support import helpers

LOCAL = type(epath.Path("/"))


class Model(Predictor):
    """Without a network."""

    config = helpers.parsed()
    step, threshold, pixel_threshold, slope = 3, 0.5, 0.5, None

    def __init__(self, last: int):
        self.judged, self._last = 0, last

    def stream(self, sources, read, then, count):
        self.count = count
        for source in sources:
            try:
                picture = read(source)
            except UserError as error:
                yield then(source, None, error)
            else:
                yield then(source, picture, self._judge(picture))
            self.judged += 1
            if self.judged == self._last:
                die()

    def _judge(self, picture):
        anomaly_map = picture[..., 0].astype(np.float32) / 255
        score = float(anomaly_map.mean())
        return Prediction(score, score >= 0.5, None, anomaly_map, (), picture)

    def told(self):
        return "judged"


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def dies(owner, name, call, before=die):
    """Let a function's `call`-th call be this process's end."""
    whole, calls = getattr(owner, name), []

    def function(*args, **kwargs):
        calls.append(0)
        if len(calls) == call:
            before(*args, **kwargs)
            die()
        return whole(*args, **kwargs)

    setattr(owner, name, function)


def half(path, data):
    pathlib.Path(path).write_bytes(data[: len(data) // 2])


# Files are named in this order: what it is about, three parts, table, mark.
PLACES = {
    "before the first part": lambda: Model(500),
    "while a part is written": lambda: dies(LOCAL, "write_bytes", 3, half),
    "before a part has its name": lambda: dies(LOCAL, "replace", 4),
    "between two parts": lambda: Model(1700),
    "while the table is written": lambda: dies(shares, "_named", 1200),
    "before the mark has its name": lambda: dies(LOCAL, "replace", 6),
    "before the parts are removed": lambda: dies(LOCAL, "rmtree", 1),
}


def judged(pictures, output, shard, place=None):
    """How many pictures a process judges; -1: it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        model = (PLACES[place]() if place else None) or Model(-1)
        predict.load = lambda *_: model
        predict.run("run", pictures, output, maps="none", shard=shard)
        os.write(writing, str(model.judged).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    told = os.read(reading, 20)
    os.close(reading)
    return -1 if os.WIFSIGNALED(status) else int(told or -2)


def main(pictures, output):
    """Share 1 is killed in each place and started again; then share 0, and both are merged."""
    print(json.dumps({"plain": [judged(pictures, output / "plain", None)]}))
    for number, place in enumerate(PLACES):
        folder = output / f"{number}"
        runs = [((1, 2), place), ((1, 2), None), ((0, 2), None), ((1, 2), None)]
        counts = [judged(pictures, folder, *run) for run in runs]
        shares.merge(folder)
        print(json.dumps({place: counts}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
