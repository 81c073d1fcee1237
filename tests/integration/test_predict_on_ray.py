"""Image files scored by a pool of actors."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leuk_ray.prediction import predict_to_table
from tests.serving_bundles import cells, encode, write_small_bundle


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
