"""Stations that watch a folder."""

import pytest

from diffad_jax.serving import station, watching
from tests.serving import toy_line
from tests.serving.toy_line import SETTLE


@pytest.fixture
def place(tmp_path):
    """The watched folder; the output is beside it."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def watch(place):
    """Starts a station that watches `place`; all are stopped at the end."""
    begun = []

    def start(settle=SETTLE, limits=None, **served):
        output = place.parent / "out"
        line = station.Station(toy_line.served(**served), folder=output, **limits or {})
        watcher = watching.Watcher(line, place, output, settle)
        watcher.start()
        begun.append((watcher, line))
        return line

    def stop():
        for watcher, line in begun:
            watcher.stop()
            line.close()
        begun.clear()

    start.stop = stop
    yield start
    stop()
