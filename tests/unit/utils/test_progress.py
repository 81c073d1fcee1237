"""Progress in a log, where every refresh would be one more line."""

from __future__ import annotations

import sys

from tqdm import tqdm

from leuk_ray.utils.progress import _show, bar


def test_a_bar_in_a_log_is_written_at_its_start_and_its_end(capsys):
    with bar("read", "images") as update:
        for done in range(1000):
            update(done + 1, 1000)
    said = capsys.readouterr().err
    assert said.count("read") == 2, said
    assert "1000/1000" in said


def test_a_run_in_a_log_is_told_once_an_epoch(capsys):
    line = tqdm(total=2, desc="train: starting workers ", file=sys.stderr)
    for epoch in (1, 2):
        for batch in range(50):
            _show(line, {"epoch": epoch, "batches": batch, "of": 50, "images_per_second": None})
    line.close()
    said = capsys.readouterr().err
    assert said.count("epoch 1/2") == 1, said
    assert said.count("epoch 2/2") == 2, "at its first batch, and at the end"
