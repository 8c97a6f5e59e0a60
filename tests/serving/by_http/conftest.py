"""A station whose limits are near, and which goes on whatever it was sent."""

import httpx
import pytest

from diffad_jax.serving import guard
from tests.serving.by_http import stations

PNG = {"content-type": "image/png"}


@pytest.fixture
def line(tmp_path):
    """A station, ended in the end."""
    line = stations.opened(tmp_path)
    yield line
    line.close()


@pytest.fixture
def client(line):
    """Who asks it, and may change it."""
    with stations.answering(line) as client:
        yield client


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Of a station whose limits are near."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "MOST_BYTES", 100_000)
        patch.setattr(guard, "SECONDS", 0.4)
        patch.setattr(guard, "MOST_CONNECTIONS", 20)
        line = stations.opened(tmp_path_factory.mktemp("station"))
        with stations.answering(line) as client:
            client.judge = line.served.judge
            yield client
        line.close()


@pytest.fixture
def goes_on(narrow):
    """After each: a picture is judged as before, by a client that comes new."""
    yield
    answer = httpx.post(f"{narrow.base_url}/judge", content=stations.picture(77), headers=PNG)
    assert answer.status_code == 200
    assert (
        answer.json()["parts"][0]["score"]
        == stations.found(stations.decoded(stations.picture(77))).score
    )
