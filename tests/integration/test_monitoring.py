"""What a worker exports about itself, read back from Ray's own metrics endpoint."""

from __future__ import annotations

import re
import sys
import time
import urllib.request

import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle
from torch import nn

from leuk_ray.training import monitoring
from leuk_ray.training.monitoring import GAUGES, Monitor

WAIT, WORK = 0.05, 0.10


def worker(run: str, wait: float, work: float) -> tuple:
    """As the training loop does: batches from a watched loader through a network, two epochs."""

    class SlowFeed:
        def iter_batches(self, batches):
            for rows in batches:
                time.sleep(wait)
                yield torch.zeros(len(rows), 3, 4, 4, dtype=torch.uint8)

    class SlowNetwork(nn.Module):
        def forward(self, images):
            time.sleep(work)
            return images.float().mean()

    monitor = Monitor(run, "node-a", torch.device("cpu"))
    loader, network = monitor.watch(SlowFeed()), monitor.time(SlowNetwork())
    epoch_times, slowest = monitor.epoch, None
    for epoch in range(2):
        for images in loader.iter_batches([np.arange(8), np.arange(6)]):
            network(images)
        epoch_times = monitor.epoch
        slowest = monitor.epoch_done(epoch + 1, 0.5)
    time.sleep(12)  # an export interval is 10 s; the gauges go when the process ends
    return epoch_times, slowest


def exported(run: str) -> dict[str, tuple[float, str]]:
    """Name without prefix -> (value, tags) of all samples of a run, from every node's endpoint."""
    found = {}
    for node in ray.nodes():
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        pattern = rf'^ray_{monitoring.PREFIX}(\w+)\{{(.*run="{run}".*)\}} (\S+)$'
        for name, tags, value in re.findall(pattern, text, re.MULTILINE):
            found[name] = (float(value), tags)
    return found


@pytest.mark.timeout(90)
def test_every_gauge_is_exported_with_what_was_measured():
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    reference = ray.remote(num_cpus=0)(worker).remote("watched", WAIT, WORK)
    samples: dict[str, tuple[float, str]] = {}
    deadline = time.monotonic() + 40
    while set(samples) != set(GAUGES) and time.monotonic() < deadline:
        samples |= exported("watched")
        time.sleep(1)
    assert set(samples) == set(GAUGES)
    for _, tags in samples.values():
        assert 'rank="0"' in tags
        assert 'node="node-a"' in tags
    values = {name: value for name, (value, _) in samples.items()}
    # Sleeps only ever take longer than asked, on a busy machine much longer.
    assert values["step_seconds"] >= WAIT + WORK
    assert WAIT + WORK <= values["own_seconds"] <= values["step_seconds"]
    assert 0 < values["data_wait_share"] < 1
    assert 0 < values["images_per_second"] <= 7 / (WAIT + WORK)
    assert values["device_memory_bytes"] > 2**20
    assert (values["epoch"], values["loss"], values["slowest"]) == (2, 0.5, 1)
    times, slowest = ray.get(reference)
    assert (times.steps, times.images) == (2, 14), "an epoch counts its own steps"
    assert times.own == pytest.approx(2 * slowest.seconds)
    assert "worker 0 on node-a" in str(slowest)
