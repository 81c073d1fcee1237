"""What this machine has for leuk_ray, what is missing, and how to mend it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement

from leuk_ray import __version__
from leuk_ray.cluster.ray_cluster import answers
from leuk_ray.models.weights import is_here
from leuk_ray.utils.extras import MODULES, installed

Status = Literal["ok", "warning", "problem"]

_GIB = 2**30
_MIN_MEMORY = 4 * _GIB  # the demo with two workers
_MIN_SHARED = 2 * _GIB  # of /dev/shm: below, Ray's object store goes to disk
_MIN_DISK = 5 * _GIB
_MIN_FILES = 4096  # open files: Ray's advice for its processes
_SERVICE_PORT = 8000
_RAY_PORTS = {"dashboard": 8265, "client": 10001}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    advice: how to mend it; empty where nothing is to be done.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def examine(folder: Path) -> list[Check]:
    """Look at versions, processors, memory, disk, ports and Ray; changes nothing.

    Args:
        folder: where runs are going to be written.
    """
    looks: tuple[Callable[[], Check], ...] = (
        _python,
        _packages,
        _extras,
        _weights,
        _processors,
        _gpus,
        _memory,
        _shared_memory,
        lambda: _disk("disk", folder),
        lambda: _disk("temporary folder", Path(tempfile.gettempdir())),
        _open_files,
        _ports,
        _cluster,
    )
    return [look() for look in looks]


def _python() -> Check:
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    found = f"Python {version} on {system}"
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return Check("python", "problem", found, "use Python 3.11 to 3.13")
    if platform.system() != "Linux":
        return Check("python", "warning", found, "only Linux is tested")
    return Check("python", "ok", found)


def _packages() -> Check:
    """Every requirement of leuk_ray itself, without those of its extras."""
    missing, old, shown = [], [], []
    for text in metadata.requires("leuk_ray") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except PackageNotFoundError:
            missing.append(wanted.name)
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            old.append(f"{wanted.name} {version} (needs {wanted.specifier})")
        if wanted.name in ("ray", "torch", "timm", "kornia", "pyarrow"):
            shown.append(f"{wanted.name} {version}")
    found = ", ".join([f"leuk_ray {__version__}", *shown])
    if missing or old:
        what = ", ".join([*(f"{name} is missing" for name in missing), *old])
        return Check("packages", "problem", f"{found}; {what}", "pip install -U leuk_ray")
    return Check("packages", "ok", found)


def _extras() -> Check:
    absent = [extra for extra in MODULES if not installed(extra)]
    if not absent:
        return Check("extras", "ok", ", ".join(MODULES))
    advice = f"where you need it: pip install 'leuk_ray[{','.join(absent)}]'"
    return Check("extras", "warning", f"not installed: {', '.join(absent)}", advice)


def _weights() -> Check:
    if is_here("tf_efficientnet_lite0.in1k"):
        return Check("weights", "ok", "of recipe lite (ImageNet)")
    return Check(
        "weights",
        "warning",
        "those of recipe lite are not here; training asks the model hub for them",
        "offline: leuk-ray weights fetch lite --to weights on a machine with internet",
    )


def _processors() -> Check:
    cores = len(os.sched_getaffinity(0))
    return Check("processors", "ok", f"{cores} CPU cores")


def _gpus() -> Check:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("gpus", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi"):
        return Check(
            "gpus",
            "warning",
            f"PyTorch {torch.__version__} sees none, though there is an NVIDIA driver",
            "install the PyTorch build for this driver's CUDA version (nvidia-smi shows it)",
        )
    return Check("gpus", "ok", "none; training and service run on the CPU")


def _memory() -> Check:
    free = psutil.virtual_memory().available
    found = f"{free / _GIB:.1f} GiB of {psutil.virtual_memory().total / _GIB:.1f} GiB free"
    if free < _MIN_MEMORY:
        advice = "close other programs, or train with --workers 1"
        return Check("memory", "warning", found, advice)
    return Check("memory", "ok", found)


def _shared_memory() -> Check:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check("shared memory", "warning", "no /dev/shm: Ray keeps its objects on disk")
    total = shutil.disk_usage(place).total
    found = f"{total / _GIB:.1f} GiB in /dev/shm"
    if total < _MIN_SHARED:
        advice = "in a container: docker run --shm-size=8g, or an emptyDir of medium Memory"
        return Check("shared memory", "warning", found, advice)
    return Check("shared memory", "ok", found)


def _disk(name: str, folder: Path) -> Check:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Check(name, "problem", f"{folder} cannot be written", "give another folder")
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.0f} GiB free in {folder}"
    if free < _MIN_DISK:
        return Check(name, "warning", found, "free some; TMPDIR names another temporary folder")
    return Check(name, "ok", found)


def _open_files() -> Check:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{limit} at once"
    if limit < _MIN_FILES:
        return Check("open files", "warning", found, f"ulimit -n {min(most, 65536)}")
    return Check("open files", "ok", found)


def _ports() -> Check:
    taken = [str(port) for port in (_SERVICE_PORT, *_RAY_PORTS.values()) if _listens(port)]
    if not taken:
        return Check("ports", "ok", f"{_SERVICE_PORT} (serve) and Ray's are free")
    return Check(
        "ports",
        "warning",
        f"{', '.join(taken)} in use",
        "leuk-ray serve --port N takes another one; a Ray that runs here is joined with --address",
    )


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _cluster() -> Check:
    address = os.environ.get("RAY_ADDRESS", "")
    if not address or address in ("auto", "local"):
        return Check("ray", "ok", "starts on this machine when a command needs it")
    if address.startswith(("http://", "https://")):
        return Check("ray", "ok", f"RAY_ADDRESS={address}: for leuk-ray submit")
    if answers(address.removeprefix("ray://")):
        return Check("ray", "ok", f"the cluster at {address} answers")
    advice = "start it, or unset RAY_ADDRESS to start Ray here"
    return Check("ray", "problem", f"RAY_ADDRESS={address} does not answer", advice)
