"""`leuk-ray doctor`: what is amiss is found, and named with its remedy."""

import json
import socket
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from leuk_ray import __version__
from leuk_ray.cli.main import cli
from leuk_ray.cluster import doctor
from leuk_ray.cluster.doctor import Check, examine


def by_name(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in examine(folder)}


def test_every_check_says_what_it_found_and_what_to_do(tmp_path: Path):
    checks = examine(tmp_path)
    assert len({check.name for check in checks}) == len(checks) == 13
    for check in checks:
        assert check.found, check.name
        assert check.status == "ok" or check.advice or check.name == "shared memory", check.name
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    values = json.loads(done.output)
    assert done.exit_code == int(values["problems"] > 0)
    assert values["problems"] == sum(check["status"] == "problem" for check in values["checks"])
    said = {check["name"]: check["found"] for check in values["checks"]}
    assert f"leuk_ray {__version__}," in said["packages"]


def test_what_is_amiss_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(doctor, "_SERVICE_PORT", server.getsockname()[1])
        monkeypatch.setattr(doctor, "_MIN_MEMORY", psutil.virtual_memory().total * 2)
        monkeypatch.setattr(doctor, "_MIN_DISK", 2**60)
        monkeypatch.setattr(doctor, "_MIN_SHARED", 2**60)
        monkeypatch.setattr(doctor, "_MIN_FILES", 2**62)
        monkeypatch.setattr(doctor, "installed", lambda extra: extra != "onnx")
        monkeypatch.setattr(doctor, "is_here", lambda name: False)
        monkeypatch.setattr(doctor, "answers", lambda address: False)
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        wanted = ["torch>=99", "no-such-package>=1", "x>=9; extra == 'dev'"]
        monkeypatch.setattr(doctor.metadata, "requires", lambda name: wanted)
        found = by_name(tmp_path)
        assert CliRunner().invoke(cli, ["doctor"]).exit_code == 1
    statuses = {name: check.status for name, check in found.items()}
    assert statuses["packages"] == statuses["ray"] == "problem"
    assert "no-such-package is missing" in found["packages"].found
    assert "needs >=99" in found["packages"].found
    for name in ("ports", "memory", "disk", "shared memory", "open files", "extras", "weights"):
        assert statuses[name] == "warning", name
    assert "leuk_ray[onnx]" in found["extras"].advice
    assert by_name(tmp_path / "nothing")["disk"].status == "problem"
