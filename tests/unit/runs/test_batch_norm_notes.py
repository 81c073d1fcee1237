"""The report says which cells BatchNorm normalised by."""

from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.runs.target import batch_norm_notes


def history(*workers: int, layers: int = 7) -> list[dict]:
    return [
        {"epoch": n + 1, "workers": count, "batch_norms": layers} for n, count in enumerate(workers)
    ]


def notes(lines: list[dict], **settings) -> list[str]:
    return batch_norm_notes(TrainingSettings(**settings).model_dump(), lines)


def test_each_number_of_workers_has_its_note():
    first, second = notes(history(2, 2, 1, 4), batch_size=16)
    assert "epochs 1 to 2: 2 workers" in first
    assert "about 8 of a batch's 16 cells" in first
    assert "epochs 4 to 4: 4 workers" in second


def test_nothing_to_say_where_every_cell_of_a_batch_is_seen():
    assert notes(history(1, 1)) == []
    assert notes(history(2, layers=0)) == []
    assert notes(history(2), sync_batchnorm=True) == []


def test_passes_divide_further():
    (note,) = notes(history(2), batch_size=16, accumulate=4)
    assert "about 2 of" in note
