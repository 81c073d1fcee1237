"""Running a command as a job on a cluster: checks, log, exit code.

The cluster is asked over the job API of its dashboard; its token comes from RAY_AUTH_TOKEN or
~/.ray/auth_token when RAY_AUTH_MODE is `token`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from leuk_ray.cluster.preflight import versions
from leuk_ray.cluster.ray_cluster import span
from leuk_ray.utils.errors import ConfigError, UserError

_POLL_SECONDS = 0.5
_START_SECONDS = 60.0  # that a cluster may take until its first node can start jobs


@dataclass(frozen=True)
class Asked:
    """What a command asks of a cluster: its words, and the settings among them that matter.

    workers: without which it cannot start.
    """

    words: tuple[str, ...]
    workers: int = 0
    gpus: bool = False
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    status: Ray's, or UNREACHABLE. exit_code: None for a job that was left running.
    """

    job: str
    status: str
    exit_code: int | None


def asked_for(words: Sequence[str], settings: dict[str, Any]) -> Asked:
    """Say what `words`, parsed into `settings`, will need on the cluster.

    Raises:
        UserError: for a path that is relative, since a job does not run in your folder.
    """
    paths = []
    for name, value in settings.items():
        for part in value if isinstance(value, tuple) else (value,):
            text = str(part)
            is_path = isinstance(part, Path) or name == "data"
            if part is None or "://" in text or not (is_path or text.startswith("/")):
                continue
            if not text.startswith("/"):
                raise ConfigError(
                    f"submit: {text}: give the path as the cluster's nodes see it, from / on, or "
                    "an s3:// or gs:// address"
                )
            paths.append(text)
    workers, _ = span(settings.get("workers") or 0)
    return Asked(tuple(words), workers, bool(settings.get("gpus")), tuple(paths))


def connect(address: str | None) -> JobSubmissionClient:
    """Return the job API at `address`, RAY_API_SERVER_ADDRESS, or this machine's port 8265.

    Raises:
        UserError: nothing answers there, or the token is not the cluster's.
    """
    # That a log ended is no news beside the job's own words.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"cluster {address or '(default)'}: {said}; is the dashboard's port forwarded, and "
            "RAY_AUTH_MODE=token set with the cluster's RAY_AUTH_TOKEN?"
        ) from error


def submit(
    client: JobSubmissionClient,
    asked: Asked,
    *,
    name: str | None = None,
    working_dir: str | None = None,
    log: Callable[[str], None],
    interrupted: Callable[[str], Literal["stop", "detach"]],
) -> Outcome:
    """Run a command on the cluster and stay with it to its end.

    Args:
        client: see `connect`.
        asked: the command.
        name: of the job; one of Ray's making by default.
        working_dir: a checkout to upload and run instead of what the nodes have installed.
        log: takes the job's output as it comes.
        interrupted: asked at Ctrl-C what to do with the job of this name.
    """
    expected = versions() | {"workers": asked.workers, "gpus": asked.gpus, "paths": asked.paths}
    look = shlex.join(["python", "-m", "leuk_ray.cluster.preflight", json.dumps(expected)])
    command = shlex.join(["python", "-m", "leuk_ray", *asked.words])
    job = _start(client, f"{look} && exec {command}", name, working_dir)
    try:
        asyncio.run(_follow(client, job, log))
        status = _ended(client, job)
    except KeyboardInterrupt:
        if interrupted(job) == "detach":
            return Outcome(job, "RUNNING", None)
        client.stop_job(job)
        status = _ended(client, job)
    except (OSError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        log(
            f"submit: the cluster cannot be reached any more ({said}); when it is back, ask "
            f"`ray job status {job}`, or submit again: a run goes on with --resume\n"
        )
        return Outcome(job, "UNREACHABLE", 1)
    info = client.get_job_info(job)
    code = info.driver_exit_code
    if code is None or code < 0:  # it never ran, or was ended by a signal
        code = 0 if status == JobStatus.SUCCEEDED else 1
    return Outcome(job, status.value, code)


def _start(
    client: JobSubmissionClient, entrypoint: str, name: str | None, working_dir: str | None
) -> str:
    """Start a job; a cluster that has none to start it with yet is waited for."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env={"working_dir": working_dir} if working_dir else {},
            )
        except RuntimeError as error:
            if name and "already exists" in str(error):
                raise UserError(f"--name {name}: the cluster has a job of this name") from error
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise UserError(
                    f"submit: no node of the cluster could start a job for {_START_SECONDS:.0f} s; "
                    "look with `ray status` whether its nodes are up"
                ) from error
        time.sleep(_POLL_SECONDS)


async def _follow(client: JobSubmissionClient, job: str, log: Callable[[str], None]) -> None:
    async for text in client.tail_job_logs(job):
        log(text)


def _ended(client: JobSubmissionClient, job: str) -> JobStatus:
    while not (status := client.get_job_status(job)).is_terminal():
        time.sleep(_POLL_SECONDS)
    return status
