"""Image files scored by a pool of actors."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from leuk_ray.fields.field import FieldSettings
from leuk_ray.workflows.detect import detect
from leuk_ray.workflows.pool import answer_on_pool
from leuk_ray.workflows.predict import predict_to_table
from leuk_ray.workflows.predict_fields import predict_fields_to_table
from tests.support.serving_bundles import cells, encode, write_small_bundle
from tests.support.small_fields import rendered


def test_a_pool_answers_as_one_process_does(tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "bundle")
    images = tmp_path / "images"
    images.mkdir()
    for number, pixels in enumerate(cells(20)):
        (images / f"{number}.png").write_bytes(encode(pixels))
    (images / "broken.png").write_bytes(b"no image")
    alone, pool = tmp_path / "alone.parquet", tmp_path / "pool.parquet"
    predict_to_table(bundle, [images], alone, workers=0)
    values = predict_to_table(bundle, [images], pool, workers=2)
    assert values["images"] == 21
    assert values["labels"]["failed"] == 1
    ours, theirs = pq.read_table(pool).to_pydict(), pq.read_table(alone).to_pydict()
    assert ours.pop("probability") == pytest.approx(theirs.pop("probability"), abs=1e-5)
    assert ours == theirs


def test_ray_data_takes_the_plan_of_a_pool_on_gpus(monkeypatch):
    """Without a GPU nothing more can be asked: Ray Data plans, and nobody reads the result."""
    monkeypatch.setattr(ray.data.Dataset, "iter_batches", lambda *_, **__: iter([]))
    files = [(f"{number}.png", Path(f"{number}.png")) for number in range(9)]
    assert list(answer_on_pool(Path("bundle"), files, range(9), actors=1, gpus=True)) == []


def test_a_pool_works_through_fields_as_one_process_does(tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "bundle")
    (tmp_path / "fields").mkdir()
    for number in range(4):
        place = tmp_path / "fields" / f"{number}.png"
        Image.fromarray(rendered(number, 2 + number % 2)[0]).save(place)
    for workers in (0, 2):
        out = tmp_path / f"found{workers}"
        detect([tmp_path / "fields"], out, FieldSettings(), format="parquet", workers=workers)
        table = tmp_path / f"cells{workers}.parquet"
        predict_fields_to_table(
            bundle, [tmp_path / "fields"], table, FieldSettings(), workers=workers
        )
    for name in ("found0/detections.parquet", "found0/fields.parquet"):
        other = name.replace("found0", "found2")
        assert pq.read_table(tmp_path / name).equals(pq.read_table(tmp_path / other))
    ours = pq.read_table(tmp_path / "cells2.parquet").to_pydict()
    theirs = pq.read_table(tmp_path / "cells0.parquet").to_pydict()
    assert len(ours["field"]) == 10
    assert ours.pop("probability") == pytest.approx(theirs.pop("probability"), abs=1e-6)
    assert ours == theirs
    files = sorted(path.name for path in (tmp_path / "found2").rglob("00*.png"))
    assert len(files) == 10
