"""A small part of tests/load/test_bad_bodies.py: no request makes the application fail."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
import requests
import uvicorn

from leuk_ray.serving.api import create_api
from leuk_ray.serving.models import Models
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.replica import local_runners
from leuk_ray.serving.settings import Limits, ServeSettings
from tests.bad_bodies import crafted, from_openapi, mutated, send
from tests.serving_bundles import alone, cells, encode, write_small_bundle


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    bundle = write_small_bundle(tmp_path_factory.mktemp("bad") / "small")
    settings = ServeSettings(bundle=str(bundle), anonymous=True)
    metrics = Metrics()
    models = Models(settings, metrics, local_runners(settings, metrics, alone))
    config = uvicorn.Config(
        create_api(models, Limits(), None, metrics), port=0, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)


def good(url: str) -> bool:
    return requests.post(f"{url}/v1/predict", data=encode(cells(1)[0]), timeout=30).ok


def test_broken_and_crafted_bodies_are_refused_each_with_a_problem(url: str):
    with requests.Session() as session:
        statuses = Counter(
            send(session, url, bad).status_code for bad in [*crafted(), *mutated(60)]
        )
    assert statuses[200] < 60
    assert {400, 404, 415, 422} <= set(statuses) <= {200, 400, 404, 413, 415, 422}, statuses
    assert good(url)


def test_what_the_openapi_document_allows_and_what_it_does_not(url: str):
    statuses = from_openapi(url, examples=4)
    assert statuses.total() > 25
    assert {200, 404, 422} <= set(statuses), statuses
    assert good(url)
