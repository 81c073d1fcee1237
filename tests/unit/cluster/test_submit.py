"""What a submitted command is read as, before any cluster is asked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import click
import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from leuk_ray.cli.cluster import _parsed
from leuk_ray.cli.main import cli
from leuk_ray.cluster import preflight
from leuk_ray.cluster import submit as jobs
from leuk_ray.cluster.submit import asked_for
from leuk_ray.utils.errors import UserError

ROOT = Path(__file__).parents[3]
TRAIN = ("train", "lite", "--data", "/shared/d", "--out", "/shared/runs/r", "--workers", "3")


def asked(*words: str):
    with click.Context(cli) as context:
        return asked_for(words, _parsed(context, words))


def test_a_command_tells_its_workers_gpus_and_paths():
    found = asked(*TRAIN, "--gpus", "lr=1e-3")
    assert (found.workers, found.gpus) == (3, True)
    assert set(found.paths) == {"/shared/d", "/shared/runs/r"}
    assert found.words == (*TRAIN, "--gpus", "lr=1e-3")
    assert asked("audit", "/shared/d").workers == 0
    assert asked(*TRAIN[:-1], "2:8").workers == 2, "with these it can start"


def test_addresses_of_object_stores_are_no_paths_of_nodes():
    assert asked("audit", "s3://bucket/cells.dataset").paths == ()


@pytest.mark.parametrize("words", [
    ("train", "lite", "--data", "here", "--out", "/o"),
    ("train", "lite", "--data", "/d", "--out", "runs/here"),
])  # fmt: skip
def test_a_relative_path_is_refused(words: tuple[str, ...]):
    with pytest.raises(UserError, match=r"here: give the path as the cluster's nodes see it"):
        asked(*words)


@pytest.mark.parametrize("words", [("trian", "lite"), ("submit", "audit", "/d")])
def test_no_such_command(words: tuple[str, ...]):
    with pytest.raises(UserError, match=r"no such command; there are: .*train"):
        asked(*words)


def test_an_unknown_option_is_refused_here():
    with pytest.raises(click.UsageError, match="--datta"):
        asked("train", "lite", "--datta", "/d")


@pytest.mark.parametrize("name", ["ray", "python", "leuk_ray"])
def test_other_versions_on_the_cluster_are_refused(name: str):
    preflight.check_versions(preflight.versions())
    with pytest.raises(UserError, match=rf"^{name}: the cluster has .*, you have 0\.1\.2"):
        preflight.check_versions(preflight.versions() | {name: "0.1.2"})


def test_a_folder_that_a_node_does_not_share_is_refused(tmp_path: Path, monkeypatch):
    """Nodes of one machine always share its folders, so the other node's answer is given here."""
    asked_of_nodes = []

    def other_node(paths: list[str]):
        asked_of_nodes.extend(paths)
        assert all(Path(path).exists() for path in paths), "what is looked for is there"
        return [("10.0.0.1", [True, True]), ("10.0.0.2", [True, False])]

    monkeypatch.setattr(preflight, "_seen_by_node", other_node)
    (tmp_path / "d").mkdir()
    out = tmp_path / "runs" / "r"
    with pytest.raises(UserError, match=rf"^{out}: node 10\.0\.0\.2 does not see it.*NFS"):
        preflight.check_paths([str(tmp_path / "d"), str(out)])
    assert Path(asked_of_nodes[1]).parent == tmp_path, "a marker in the folder that is there"
    assert [path.name for path in tmp_path.iterdir()] == ["d"], "and it is gone again"


class Starting(jobs.JobSubmissionClient):
    """A cluster whose nodes cannot start jobs yet when they are first asked."""

    def __init__(self, refusals: list[str]) -> None:
        self.refusals = refusals

    def submit_job(self, *, submission_id: str | None = None, **_) -> str:
        if self.refusals:
            raise RuntimeError(f"Request failed with status code 500: {self.refusals.pop(0)}")
        return submission_id or "raysubmit_1"


EARLY = "No available agent to submit job, please try again later.."


def test_a_cluster_that_has_just_started_is_waited_for(monkeypatch):
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.0)
    assert jobs._start(Starting([EARLY] * 3), "true", "nightly", None) == "nightly"
    monkeypatch.setattr(jobs, "_START_SECONDS", 0.0)
    with pytest.raises(UserError, match="no node of the cluster could start a job for 0 s"):
        jobs._start(Starting([EARLY] * 9), "true", None, None)
    with pytest.raises(RuntimeError, match="disk is full"):
        jobs._start(Starting(["disk is full"]), "true", None, None)


def test_an_uploaded_checkout_holds_the_whole_package_and_is_small(tmp_path: Path):
    left_out = get_runtime_env_default_excludes()  # by Ray itself, .git among them
    create_package(str(ROOT), tmp_path / "upload.zip", include_gitignore=True, excludes=left_out)
    with zipfile.ZipFile(tmp_path / "upload.zip") as upload:
        names = set(upload.namelist())
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "leuk_ray").rglob("*.py")}
    assert ours <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", ".venv"))]
    assert (tmp_path / "upload.zip").stat().st_size < 5 * 2**20
