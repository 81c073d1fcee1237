"""What a submitted command looks at on the cluster before it starts.

    python -m leuk_ray.cluster.preflight '{"ray": ..., "python": ..., "paths": [...]}'

runs inside the job, before the command, and ends with 2 and one line when the command cannot work.
"""

from __future__ import annotations

import json
import platform
import sys
import uuid
from pathlib import Path
from typing import Any

import ray

from leuk_ray import __version__
from leuk_ray.io.locations import Location, parse
from leuk_ray.utils.errors import StorageError, UserError


def versions() -> dict[str, str]:
    """Say what must be the same on both sides. Of Python, the minor version."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"ray": ray.__version__, "python": python, "leuk_ray": __version__}


def check_versions(theirs: dict[str, str]) -> None:
    """Raise a UserError when the submitting side's versions are not those of the cluster."""
    for name, ours in versions().items():
        if theirs[name] != ours:
            raise UserError(
                f"{name}: the cluster has {ours}, you have {theirs[name]}; submit from the image "
                "that the cluster runs, or start the cluster from yours"
            )


def check_shared(*locations: Location) -> None:
    """Raise a UserError where Ray has several nodes and one does not see a local path."""
    paths = [str(path) for place in locations if isinstance(path := parse(str(place)), Path)]
    if sum(node["Alive"] for node in ray.nodes()) > 1:
        check_paths(paths)


def check_paths(paths: list[str]) -> None:
    """Raise a UserError unless every node sees each path as this one does. Ray is initialised.

    A path that is not there yet must lie in a folder that all nodes share: a file made here must
    be seen there.
    """
    markers: list[Path] = []
    wanted: list[str] = []
    try:
        for path in map(Path, paths):
            if path.exists():
                wanted.append(str(path))
                continue
            folder = next(parent for parent in path.parents if parent.exists())
            marker = folder / f".leuk_ray-{uuid.uuid4().hex}"
            try:
                marker.touch()
            except OSError as error:
                raise StorageError(
                    f"{folder}: cannot be written on the cluster ({error.strerror}); "
                    f"name another place than {path}"
                ) from error
            markers.append(marker)
            wanted.append(str(marker))
        for node, seen in _seen_by_node(wanted):
            for path, there in zip(paths, seen, strict=True):
                if not there:
                    raise StorageError(
                        f"{path}: node {node} does not see it, or not the same folder; all nodes "
                        "need storage that they share (NFS), or give an s3:// or gs:// address"
                    )
    finally:
        for marker in markers:
            marker.unlink()


def _seen_by_node(paths: list[str]) -> list[tuple[str, list[bool]]]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(paths: list[str]) -> list[bool]:
        return [Path(path).exists() for path in paths]

    nodes = [node for node in ray.nodes() if node["Alive"]]
    task: Any = ray.remote(num_cpus=0)(look)
    answers = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(paths)
        for node in nodes
    ]
    names = [node["NodeManagerAddress"] for node in nodes]
    return list(zip(names, ray.get(answers), strict=True))


def preflight(expected: dict[str, Any]) -> None:
    """Make all checks; see the module."""
    from leuk_ray.cluster import ray_cluster

    check_versions(expected)
    ray_cluster.connect()
    if expected["workers"]:
        ray_cluster.require(expected["workers"], expected["gpus"])
    check_paths(expected["paths"])


if __name__ == "__main__":
    try:
        preflight(json.loads(sys.argv[1]))
    except UserError as error:
        sys.stderr.write(f"leuk-ray: {error}\n")
        sys.exit(2)
