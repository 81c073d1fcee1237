"""Whose a folder of runs is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.runs.root import RunsRoot
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.settings import Settings


class Wanted(Settings):
    """What such a folder may be started with."""

    top: int = 1


def root(path: Path, top: int = 1, images: str = "a") -> RunsRoot:
    hashes = dict.fromkeys(("names", "labels", "subjects", "status"), "")
    identity = DatasetIdentity(rows=1, images=images, storage=StorageSettings(), **hashes)
    dataset: Any = SimpleNamespace(identity=identity, location=path / "data")
    return RunsRoot(path / "out", "sweep", Wanted(top=top), dataset)


def test_a_folder_goes_on_with_what_it_was_started_with_alone(tmp_path: Path):
    assert not root(tmp_path).check(resume=True), "nothing is there yet"
    root(tmp_path).start()
    assert root(tmp_path).check(resume=True)
    with pytest.raises(UserError, match="--resume"):
        root(tmp_path).check(resume=False)
    with pytest.raises(UserError, match="other settings"):
        root(tmp_path, top=2).check(resume=True)
    with pytest.raises(UserError, match="is not the dataset of"):
        root(tmp_path, images="b").check(resume=True)


@pytest.mark.parametrize("text", ["", "[1", "name", "recipe: lite"])
def test_a_file_that_is_foreign_or_broken_is_refused(tmp_path: Path, text: str):
    root(tmp_path).start()
    (tmp_path / "out" / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match="other settings"):
        root(tmp_path).check(resume=True)
    (tmp_path / "out" / "sweep.yaml").unlink()
    with pytest.raises(UserError, match="is no sweep"):
        root(tmp_path).check(resume=True)
