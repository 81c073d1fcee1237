"""Labels that out-of-fold scores contradict, ranked and shown on the audit's page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from click.testing import CliRunner
from scipy.special import expit

from leuk_ray.cli.main import cli
from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.label_errors import doubt, doubtful_labels
from leuk_ray.io.storage import write_table
from leuk_ray.training.record import write_environment

FOUR = ClassSet(("a", "b", "c", "d"))


def test_flipped_labels_are_among_the_most_doubtful() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, 2000)
    scores = 3 * np.eye(4)[truth] + generator.standard_normal((2000, 4))
    logits = scores[:, 1:] - scores[:, :1]
    flipped = generator.random(2000) < 0.05
    label = np.where(flipped, (truth + 1) % 4, truth)
    order = np.argsort(doubt(logits, label))[:200]
    assert flipped[order].sum() > 0.9 * flipped.sum(), "chance finds a tenth"
    table = pa.table(
        {
            "uid": [f"c{n}" for n in range(2000)],
            "subject": [None] * 2000,
            "label": label,
            "class_logits": pa.array(list(logits), pa.list_(pa.float64())),
        }
    )
    found = doubtful_labels(table, FOUR)
    assert sum(one["cells"] for one in found.values()) == 2000
    called = scores.argmax(axis=1)
    for number, name in enumerate(FOUR.names):
        assert found[name]["contradicted"] == ((label == number) & (called != number)).sum()
        suspects = found[name]["suspects"]
        odds = [one["log_odds"] for one in suspects]
        assert odds == sorted(odds)
        assert all(one["probability"] < one["suggested_probability"] for one in suspects)
        assert all(flipped[int(one["uid"][1:])] for one in suspects[:5])


def test_the_audit_lists_them_with_pictures(store_pixels, tmp_path: Path) -> None:
    label = np.arange(40) % 2
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    subject = [f"S{n // 2}" for n in range(40)]
    files = {"width": [16] * 40, "height": [16] * 40, "format": ["PNG"] * 40}
    whose = {"label": label.tolist(), "subject": subject, "group": subject}
    data = store_pixels(tmp_path / "data", pixels, **whose, **files)
    place = tmp_path / "data" / "dataset.json"
    counts = {"files": 40, "rows": 40, "rejected": 0, "skipped": 0, "unlabelled": 0, "subjects": 20}
    place.write_text(json.dumps(data.manifest | {"counts": counts | {"groups": 20}}))
    folder = tmp_path / "crossval"
    (folder / "report").mkdir(parents=True)
    (folder / "crossval.yaml").write_text("{}")
    write_environment(data, folder)
    logit = 4.0 * label - 2
    logit[[7, 12]] *= -1  # c000007 looks healthy, c000012 like ALL
    table = data.cells.select(["uid", "subject", "label", "group"])
    columns = {"logit": logit, "probability": expit(logit), "fold": [0] * 40, "role": ["test"] * 40}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    write_table(folder / "report" / "predictions.parquet", table)

    def audit(*options: object) -> str:
        done = CliRunner().invoke(cli, ["audit", str(data.location), *map(str, options)])
        return done.output + str(done.exception or "")

    text = audit("--scores", folder, "--out", tmp_path / "audit")
    assert "labels ALL: out-of-fold scores contradict 1 of 20, first c000007" in text
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())["doubtful_labels"]
    assert [one["uid"] for one in found["healthy"]["suspects"]] == ["c000012"]
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "Labelled ALL: 1 of 20 contradicted" in page
    assert page.count('<img src="data:image/png') == 2
    assert "add --out DIR" in audit("--scores", folder)
    assert "no folder of a cross-validation" in audit("--scores", tmp_path, "--out", tmp_path / "n")
