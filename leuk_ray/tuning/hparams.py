"""Runs for TensorBoard's HParams page."""

from __future__ import annotations

from pathlib import Path

from leuk_ray.runs.table import RunRecord


def write_hparams(directory: Path, record: RunRecord) -> None:
    """Write a run's settings, result and curve as `directory/NAME`."""
    from torch.utils.tensorboard import SummaryWriter

    settings = {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in record.overrides.items()
    }
    with SummaryWriter(str(directory / record.name)) as events:
        for epoch, selection in enumerate(record.curve, 1):
            events.add_scalar("selection", selection, epoch)
        best = {} if record.score is None else {"best": record.score}
        events.add_hparams(settings | {"status": record.status}, best, run_name=".")
