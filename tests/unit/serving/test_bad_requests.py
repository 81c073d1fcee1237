"""A small part of tests/load/test_bad_bodies.py: no request makes the application fail."""

from __future__ import annotations

from collections import Counter

import pytest
import requests

from tests.support.bad_bodies import crafted, from_openapi, mutated, send
from tests.support.serving_bundles import cells, encode, listening, write_small_bundle


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with listening(write_small_bundle(tmp_path_factory.mktemp("bad") / "small")) as url:
        yield url


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
