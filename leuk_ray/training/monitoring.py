"""How fast each worker of a run is, as Ray metrics, and which of them holds the others up.

Every metric carries the tags run, rank and node, and is exported by Ray with the prefix `ray_`.
In data-parallel training all workers' steps last equally long, since each waits for the last one's
gradients; what tells them apart is the time until a worker's own forward pass is done. A step here
is one pass forward and backward: with `accumulate`, an update has several.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from leuk_ray.datasets.loaders import Loader
from leuk_ray.training import collective

PREFIX = "leuk_ray_train_"
GAUGES = {
    "images_per_second": "Images this worker trained on a second.",
    "step_seconds": "Seconds of a step, waiting for other workers included.",
    "own_seconds": "Seconds of a step until this worker's forward pass is done.",
    "data_wait_share": "Share of the time spent waiting for pixels, 0 to 1.",
    "device_memory_bytes": "Memory in use: on the GPU, or of the process.",
    "loss": "Mean training loss of the last epoch, over all workers.",
    "epoch": "Epochs done.",
    "slowest": "1 on the worker whose own part of a step took longest in the last epoch.",
}
_PUBLISH_SECONDS = 2.0
_LAGS = 1.5


@dataclass
class Times:
    """Sums over some steps. images: cells seen. wall, wait, own: seconds."""

    steps: int = 0
    images: int = 0
    wall: float = 0.0
    wait: float = 0.0
    own: float = 0.0


@dataclass(frozen=True)
class Slowest:
    """The worker that held the others up in an epoch: seconds of its own a step, and the median."""

    rank: int
    node: str
    seconds: float
    median: float

    @property
    def lags(self) -> bool:
        """Whether the others would be much faster without it."""
        return self.seconds > _LAGS * self.median

    def __str__(self) -> str:
        return (
            f"worker {self.rank} on {self.node}: {self.seconds:.3f} s of its own a step, "
            f"median {self.median:.3f} s"
        )


class Monitor:
    """Watches one worker; a training loop need not know of it."""

    def __init__(self, run: str, node: str, device: torch.device) -> None:
        from ray.util.metrics import Gauge

        tags = {"run": run, "rank": str(collective.rank()), "node": node}
        self.node = node
        self.device = device
        self.gauges = {
            name: Gauge(PREFIX + name, description=text, tag_keys=tuple(tags))
            for name, text in GAUGES.items()
        }
        for gauge in self.gauges.values():
            gauge.set_default_tags(tags)
        self.epoch = Times()
        self.recent = Times()
        self.asked = 0.0

    def watch(self, loader: Loader) -> Loader:
        """Return the same loader, with its deliveries timed."""
        return _WatchedLoader(loader, self)

    def time(self, model: nn.Module) -> nn.Module:
        """Time the forward passes of a model; one that exchanges no gradients is returned as is.

        A lone worker waits for no one, and a hook would become part of its compiled graph.
        """
        if collective.world_size() > 1:
            model.register_forward_hook(lambda *_: self.add(own=time.perf_counter() - self.asked))
        return model

    def epoch_done(self, num_epochs: int, loss: float) -> Slowest:
        """Publish an epoch; who was slowest in it. All workers must call."""
        own = self.epoch.own / max(self.epoch.steps, 1)
        everywhere = collective.gather_objects((own, self.node))
        seconds = [value for value, _ in everywhere]
        rank = int(np.argmax(seconds))
        slowest = Slowest(rank, everywhere[rank][1], seconds[rank], float(np.median(seconds)))
        self.gauges["loss"].set(loss)
        self.gauges["epoch"].set(num_epochs)
        self.gauges["slowest"].set(float(rank == collective.rank()))
        self.publish()
        self.epoch = Times()
        return slowest

    def add(self, **sums: float) -> None:
        """Add to the sums of the epoch, and of the steps since the gauges were set."""
        for times in (self.epoch, self.recent):
            for name, value in sums.items():
                setattr(times, name, getattr(times, name) + value)

    def publish(self) -> None:
        """Set the gauges from the steps since they were last set, if there were any."""
        recent, self.recent = self.recent, Times()
        if not recent.steps:
            return
        self.gauges["images_per_second"].set(recent.images / recent.wall)
        self.gauges["step_seconds"].set(recent.wall / recent.steps)
        self.gauges["own_seconds"].set(recent.own / recent.steps)
        self.gauges["data_wait_share"].set(recent.wait / recent.wall)
        self.gauges["device_memory_bytes"].set(memory_in_use(self.device))


class _WatchedLoader:
    """A loader that tells a monitor how long each batch was waited for and worked on."""

    def __init__(self, loader: Loader, monitor: Monitor) -> None:
        self.loader = loader
        self.monitor = monitor

    def iter_batches(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """See Loader."""
        monitor, delivered = self.monitor, iter(self.loader.iter_batches(batches))
        while True:
            monitor.asked = asked = time.perf_counter()
            images = next(delivered, None)
            if images is None:
                return
            wait = time.perf_counter() - asked
            yield images
            wall = time.perf_counter() - asked
            alone = wall if collective.world_size() == 1 else 0.0
            monitor.add(steps=1, images=len(images), wait=wait, wall=wall, own=alone)
            if monitor.recent.wall > _PUBLISH_SECONDS:
                monitor.publish()


def memory_in_use(device: torch.device) -> int:
    """Bytes that PyTorch holds on a GPU, or the resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return psutil.Process().memory_info().rss
