"""--workers takes a number or a span, and everything that asks for less than it."""

from __future__ import annotations

import click
import pytest

from leuk_ray.cli.base import WORKERS
from leuk_ray.cluster.ray_cluster import span


@pytest.mark.parametrize(("text", "workers"), [("3", 3), ("2:8", (2, 8)), ("2:2", (2, 2))])
def test_a_number_or_a_span(text: str, workers):
    assert WORKERS.convert(text, None, None) == workers


@pytest.mark.parametrize("text", ["0", "two", "0:2", "2:", ":2", "1:2:3", "-1", "2.5"])
def test_what_is_neither_is_refused(text: str):
    with pytest.raises(click.BadParameter, match="give a number from 1 on, or MIN:MAX"):
        WORKERS.convert(text, None, None)


def test_a_span_goes_upwards():
    with pytest.raises(click.BadParameter, match="'8:2': MIN is larger than MAX"):
        WORKERS.convert("8:2", None, None)


def test_a_number_is_a_span_of_itself():
    assert (span(3), span((2, 8))) == ((3, 3), (2, 8))
