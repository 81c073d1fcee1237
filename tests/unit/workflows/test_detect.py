"""`detect`: what it writes, counts, refuses, and goes on with."""

import json
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from leuk_ray.cli.data_messages import detect_text
from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.images import decode
from leuk_ray.datasets.layouts import read_layout
from leuk_ray.fields.crops import crop_png
from leuk_ray.fields.detector import Detection, Scale
from leuk_ray.fields.field import FieldSettings
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows import fields as work
from leuk_ray.workflows.detect import detect, read_recall
from tests.support.small_fields import rendered

SETTINGS = FieldSettings()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two fields of cells, one without, a dark image, and a file that is none."""
    folder = tmp_path_factory.mktemp("fields")
    for number, cells in enumerate((5, 3, 0)):
        place = folder / f"patient{number}" / "field.png"
        place.parent.mkdir()
        Image.fromarray(rendered(number, cells)[0]).save(place)
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(folder / "dark.png")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_tables_crops_and_overlays_count_every_field(folder: Path, tmp_path: Path):
    annotated = tmp_path / "annotated.csv"
    lines = [
        f"patient{number}/field.png,{x},{y}\n"
        for number, cells in enumerate((5, 3))
        for x, y in rendered(number, cells)[1]
    ]
    lines += ["other.png,1,1\n"]  # no field that was given
    lines += [f"{folder / 'patient2/field.png'},9000,5\n"]  # outside the field
    annotated.write_text("file,x,y\n" + "".join(lines))
    out = tmp_path / "found"
    values = detect([folder], out, SETTINGS, annotated=annotated, subject="^(patient[0-9])/")
    assert values["counts"] == {
        "fields": 5, "ok": 2, "empty": 1, "refused": 2, "cells": 8, "clumps": 0,
    }  # fmt: skip
    assert values["reasons"] == {"unreadable": 1, "underexposed": 1}
    assert values["left_out"] == {"suffix": 1}
    assert (values["measured"]["found"], values["measured"]["cells"]) == (8, 8)
    assert values["measured"]["found_by_label"] == [
        {"": {"cells": 5, "found": 5}}, {"": {"cells": 3, "found": 3}},
    ]  # fmt: skip
    text = detect_text(values)
    assert "recall 8 of 8 annotated cells, precision 8 of 8 detections, over 3 annotated" in text
    assert "2 fields without a row: not annotated, not measured" in text
    assert "1 annotated cell left out: centre outside the field, of patient2/field.png" in text
    assert "1 annotated cell left out: of files that are none of the fields: other.png" in text
    assert json.loads((out / "detect.json").read_text())["counts"] == values["counts"]
    fields = {row["file"]: row for row in pacsv.read_csv(out / "fields.csv").to_pylist()}
    assert fields["dark.png"]["reasons"] == "underexposed"
    assert fields["broken.png"]["detail"].startswith("not_an_image")
    assert fields["patient2/field.png"]["status"] == "empty"
    cells = pacsv.read_csv(out / "detections.csv").to_pylist()
    assert list(cells[0])[:8] == ["file", "x0", "y0", "x1", "y1", "score", "area", "touches_border"]
    scale = Scale(fields["patient0/field.png"]["pixels_per_um"])
    pixels = rendered(0, 5)[0]
    for cell in cells[:5]:
        box = {name: cell[name] for name in ("x0", "y0", "x1", "y1", "score", "area")}
        found = Detection(**box, touches_border=False)
        data = (out / cell["crop"]).read_bytes()
        assert data == crop_png(pixels, found, scale, SETTINGS.crop_um)
        assert decode(data).shape == (300, 300, 3)
    assert len(list(out.rglob("overlays/**/*.jpg"))) == 4  # all but the one that is no image
    assert len(list(out.rglob("crops/**/0*.png"))) == 8
    assert sorted(path.name for path in out.iterdir()) == [
        "crops", "crops.csv", "detect.json", "detections.csv", "fields.csv", "overlays",
    ]  # fmt: skip
    rows = read_layout("csv", out / "crops.csv").table()
    assert sorted(set(rows["source_image"].to_pylist())) == [
        "patient0/field.png", "patient1/field.png",
    ]  # fmt: skip
    with pytest.raises(UserError, match="exists already"):
        detect([folder], out, SETTINGS)


def test_a_stopped_job_goes_on_and_gives_the_same_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = tmp_path / "whole"
    detect([folder], whole, SETTINGS, format="parquet")
    out, rows = tmp_path / "found", work.FieldWorker._row
    done = []

    def stops(self, number: int, path: str, place: str) -> dict:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(path)
        return rows(self, number, path, place)

    monkeypatch.setattr(work.FieldWorker, "_row", stops)
    with pytest.raises(KeyboardInterrupt):
        detect([folder], out, SETTINGS, format="parquet")
    assert not out.exists()
    with pytest.raises(UserError, match="add --resume"):
        detect([folder], out, SETTINGS)
    with pytest.raises(UserError, match="begun with other settings"):
        detect([folder], out, FieldSettings(crop_um=15), resume=True)
    monkeypatch.setattr(work.FieldWorker, "_row", rows)
    detect([folder], out, SETTINGS, format="parquet", resume=True)
    for name in ("detections.parquet", "fields.parquet"):
        assert pq.read_table(out / name).equals(pq.read_table(whole / name))
    assert not list(tmp_path.glob("*.parts"))


def test_annotated_cells_of_other_fields_are_refused(folder: Path, tmp_path: Path):
    annotated = tmp_path / "annotated.csv"
    annotated.write_text("file,x,y\nother.png,1,1\n")
    with pytest.raises(UserError, match="names none of the fields"):
        detect([folder], tmp_path / "found", SETTINGS, annotated=annotated)
    with pytest.raises(UserError, match=r"--annotated-label, --subject: .*add --boxes CSV"):
        detect([folder], tmp_path / "found", SETTINGS, annotated_labels=["WBC"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotated.csv"]


def test_misses_are_read_for_the_classes_of_a_bundle(tmp_path: Path):
    groups = [{"ALL": {"cells": 9, "found": 7}, "healthy": {"cells": 5, "found": 5}}] * 10
    place = tmp_path / "detect.json"

    def written(groups: list) -> Path:
        measured = {"found_by_label": groups, "counted_by": "patients"}
        place.write_text(json.dumps({"measured": measured}))
        return place

    recall = read_recall(written(groups), BINARY)
    assert [(one.cells, one.found) for one in recall.positive] == [(9, 7)] * 10
    assert recall.described.endswith("blasts of 10 and other cells of 10 patients")
    assert read_recall(tmp_path, BINARY) == recall  # the folder that detect wrote
    with pytest.raises(UserError, match="blasts of 9 patients and other cells of 9; 10 of either"):
        read_recall(written(groups[1:]), BINARY)
    with pytest.raises(UserError, match="labelled WBC; the classes are healthy, ALL"):
        read_recall(written([{"WBC": {"cells": 9, "found": 7}}]), BINARY)
    with pytest.raises(UserError, match="cannot be used"):
        read_recall(written(groups * 300), BINARY)  # more groups than a bundle holds
    with pytest.raises(UserError, match="is no detect"):
        read_recall(written([[1]]), BINARY)
    place.write_text("{}")
    with pytest.raises(UserError, match=r"is no detect.json of `leuk-ray detect --boxes`"):
        read_recall(place, BINARY)
