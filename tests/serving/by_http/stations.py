"""Stations for tests: a model that is no network, and one that answers at a port of its own."""

import contextlib
import dataclasses
import io
import pathlib
import socket
import threading
import time

import httpx
import numpy as np
from PIL import Image

from diffad_jax import serve
from diffad_jax.predicting.results import find_boxes
from diffad_jax.serving import app, corrections, guard, models, station

SIZE, THRESHOLD, TOKEN = 16, 0.5, "a-secret"


@dataclasses.dataclass
class Finding:
    score: float
    anomaly_map: np.ndarray
    boxes: tuple
    reconstruction: np.ndarray


def found(picture):
    """The score is the mean level; the map is the picture's red."""
    anomaly_map = picture[..., 0].astype(np.float32) / 255
    return Finding(
        float(picture.mean()) / 255, anomaly_map, find_boxes(anomaly_map, 0.75), 255 - picture
    )


class Judge:
    """Judges as `found`, when it may, and remembers what came together."""

    def __init__(self):
        self.batches, self.may = [], threading.Event()
        self.may.set()

    def __call__(self, pictures):
        assert self.may.wait(20)
        self.batches.append(len(pictures))
        return [found(picture) for picture in pictures]


def served(judge=found, **changes):
    facts = {
        **{"kind": "bundle", "category": "bottle", "size": SIZE, "step": 7, "program": "0"},
        **{"precision": "float32", "threshold": THRESHOLD, "pixel_threshold": 0.75},
        **{"slope": 3.0, "rule": "f1", "batch_size": 4, "reference": None, "needed": ()},
        **{"resizing": ("bilinear", "stretch"), "judge": judge},
    }
    return models.Served(**(facts | changes))


def picture(level=100, shape=(12, 20), format="PNG", **options):
    """The content of a file."""
    array = np.full((*shape, 3), level, np.uint8)
    array[0, 0] = 255 - level  # so that no two levels make the same file in any format
    Image.fromarray(array).save(buffer := io.BytesIO(), format, **options)
    return buffer.getvalue()


def decoded(data):
    """The pixels of a file's content."""
    return models.decode_rgb(pathlib.PurePath("x"), data)


def until(true, seconds=10):
    """Wait for what another thread or process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


@contextlib.contextmanager
def answering(line, for_all=False, hosts=serve.LOOPBACK):
    """A station at a free port: a client that has the token, and knows where it is."""
    service = app.App(line, corrections.Corrections(line.folder))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        guarded = guard.Guard(service.asgi, TOKEN, for_all, hosts, port)
        server = serve.serving(service, guarded)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        address, token = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {TOKEN}"}
        while not server.started:
            time.sleep(0.01)
        try:
            with httpx.Client(base_url=address, headers=token, timeout=20) as client:
                client.server, client.service = server, service
                yield client
        finally:
            server.should_exit = True
            thread.join()


def opened(folder, judge=None, **options):
    """A station that judges with `judge`."""
    changes = options.pop("changes", {})
    return station.Station(served(judge or Judge(), **changes), folder=folder, **options)
