"""Shared by all tiers: where real data lie, and small synthetic datasets without Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("LEUK_RAY_REAL_DATA")
    if not folder:
        pytest.skip("LEUK_RAY_REAL_DATA is unset: real cells are not part of the repository")
    return Path(folder)
