"""Progress on stderr: plain bars for driver loops, and a board for what workers report.

In a log, which is no terminal, a bar is written now and then and with every epoch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

_POLL_SECONDS = 0.5
_LOG_SECONDS = 10


def note(text: str) -> None:
    """Write one line on stderr, before something that takes a while and cannot be counted."""
    tqdm.write(text, file=sys.stderr)


@contextmanager
def bar(title: str, unit: str) -> Generator[Callable[[int, int], None]]:
    """Make a bar as a callback (done, total); it appears with the first call."""
    lines: list[tqdm[Any]] = []

    def update(done: int, total: int) -> None:
        if not lines:
            seconds = 0.1 if sys.stderr.isatty() else _LOG_SECONDS
            lines.append(
                tqdm(
                    desc=title, unit=unit, file=sys.stderr, dynamic_ncols=True, mininterval=seconds
                )
            )
        lines[0].total = total
        lines[0].update(done - lines[0].n)

    try:
        yield update
    finally:
        for line in lines:
            line.close()


class _Board:
    """Holds the latest update of a run; rank 0 writes, the driver reads."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {}

    def put(self, update: dict[str, Any]) -> None:
        """Merge an update into the latest."""
        self.latest = {**self.latest, **update}

    def get(self) -> dict[str, Any]:
        """Return the latest of every key."""
        return self.latest


@contextmanager
def training_bar(epochs: int) -> Generator[Any]:
    """Show a training run's progress; yields the board's handle for the workers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On this node: a node that is lost takes its actors with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(num_cpus=0)(_Board).options(scheduling_strategy=here).remote()
    done = threading.Event()
    layout = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(
        total=epochs,
        desc="train: starting workers ",
        file=sys.stderr,
        dynamic_ncols=True,
        bar_format=layout,
    ) as line:

        def follow() -> None:
            while not done.wait(_POLL_SECONDS):
                _show(line, ray.get(board.get.remote()))

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield board
        finally:
            done.set()
            thread.join()
            _show(line, ray.get(board.get.remote()))


def _show(line: tqdm[Any], update: dict[str, Any]) -> None:
    before = line.desc, line.postfix or ""
    if "epoch" in update:
        line.set_description_str(f"train: epoch {update['epoch']}/{line.total} ", refresh=False)
        line.n = update["epoch"] - 1 + update["batches"] / update["of"]
    texts = {
        "images_per_second": "{:.0f} images/s",
        "validation_loss": "val loss {:.3f}",
        "validation_auc": "val AUC {:.3f}",
        "lagging": "held up by {}",
    }
    shown = [text.format(update[key]) for key, text in texts.items() if update.get(key) is not None]
    line.set_postfix_str(", ".join(shown), refresh=False)
    if sys.stderr.isatty() or (line.desc, line.postfix) != before:
        line.refresh()
