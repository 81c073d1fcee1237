"""A `leuk-ray serve` that is killed takes all that it started with it. On demand."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.support.service_process import serving


@pytest.mark.timeout(300)
def test_nothing_is_left_of_a_killed_service(tmp_path: Path):
    with serving(tmp_path) as service:
        assert service.answers()
        started = psutil.Process(service.process.pid).children(recursive=True)
        agents = {process for process in started if "Agent" in process.name()}
        names = {process.name() for process in started}
        assert {"haproxy", "raylet", "gcs_server"} <= names, names
        service.process.kill()
        # Ray's agents, which answer nobody, first wait a minute for the head that is gone.
        _, left = psutil.wait_procs([p for p in started if p not in agents], timeout=20)
        assert not left
        with pytest.raises(ConnectionRefusedError):
            service.connect()
        _, left = psutil.wait_procs(agents, timeout=120)
        assert not left
