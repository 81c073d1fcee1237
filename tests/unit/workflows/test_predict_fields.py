"""`predict --fields`: cells of fields with their answers, in memory and as tables."""

import json
from pathlib import Path

import pyarrow.csv as pacsv
import pytest
from click.testing import CliRunner
from PIL import Image

from leuk_ray.cli.data_messages import fields_table_text, fields_text
from leuk_ray.cli.main import cli
from leuk_ray.fields.answers import field_answer
from leuk_ray.fields.detector import Detection
from leuk_ray.fields.field import Field, FieldSettings
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows.detect import detect
from leuk_ray.workflows.predict_fields import predict_fields, predict_fields_to_table
from tests.support.serving_bundles import write_small_bundle
from tests.support.small_fields import PIXELS_PER_UM, rendered
from tests.unit.workflows.test_detect import folder  # noqa: F401 # pyright: ignore[reportUnusedImport] a fixture

SETTINGS = FieldSettings()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / "small")


def test_tables_say_what_memory_says_and_what_the_crops_say(
    bundle: Path,
    folder: Path,  # noqa: F811
    tmp_path: Path,
):
    memory = predict_fields(bundle, [folder], SETTINGS)
    out = tmp_path / "cells.csv"
    values = predict_fields_to_table(bundle, [folder], out, SETTINGS, subject="^(patient[0-9])/")
    assert values["summary"] == memory["summary"]
    assert memory["summary"]["cells"] == 8
    assert memory["summary"]["cells"] == (
        memory["summary"]["answered"] + memory["summary"]["not_answered"]
    )
    assert values["fields"] == {"all": 5, "ok": 2, "empty": 1, "refused": 2}
    rows = pacsv.read_csv(out).to_pylist()
    cells = [
        {"field": field["name"]} | cell for field in memory["fields"] for cell in field["cells"]
    ]
    assert len(rows) == len(cells) == 8
    same = ("field", "x0", "y0", "x1", "y1", "label", "probability", "sha256")
    for row, cell in zip(rows, cells, strict=True):
        assert {name: row[name] for name in same} == {name: cell[name] for name in same}
    # The crops that detect writes are the same files, and get the same answers.
    detect([folder], tmp_path / "found", SETTINGS)
    crops = pacsv.read_csv(tmp_path / "found" / "detections.csv")["crop"].to_pylist()
    classifier = Classifier.load(bundle)
    alone = classifier.predict([(name, (tmp_path / "found" / name).read_bytes()) for name in crops])
    for cell, answer in zip(cells, alone, strict=True):
        assert isinstance(answer, Prediction)
        assert answer.sha256 == cell["sha256"]
        assert answer.probability == pytest.approx(cell["probability"], abs=1e-6)
    fields = {
        row["field"]: row for row in pacsv.read_csv(tmp_path / "cells-fields.csv").to_pylist()
    }
    assert fields["patient0/field.png"]["cells"] == 5
    assert fields["dark.png"]["reasons"] == "underexposed"
    assert sum(row["answered"] for row in fields.values()) == values["summary"]["answered"]
    subjects = pacsv.read_csv(tmp_path / "cells-subjects.csv").to_pylist()
    assert [(row["subject"], row["cells"]) for row in subjects] == [
        ("patient0", 5),
        ("patient1", 3),
        ("patient2", 0),  # no cell was found in its field
    ]
    assert values["without_subject"] == 2  # the dark one and the one that is no image
    assert "5 fields = 2 ok + 1 empty + 2 refused" in fields_table_text(values)
    assert "dark.png: refused (underexposed)" in fields_text(memory)
    assert not list(tmp_path.glob("*.parts"))
    with pytest.raises(UserError, match="exists already"):
        predict_fields_to_table(bundle, [folder], out, SETTINGS)
    out.unlink()  # as a job that was killed between two of its tables leaves it
    again = predict_fields_to_table(
        bundle, [folder], out, SETTINGS, subject=r"^(patient\d)/", resume=True
    )
    assert again["summary"] == values["summary"]


def test_a_field_that_is_given_twice_counts_once(bundle: Path, tmp_path: Path):
    pixels, _ = rendered(1, 3)
    (tmp_path / "P1").mkdir()
    for name in ("a.png", "b.bmp"):  # the same pixels, other bytes
        Image.fromarray(pixels).save(tmp_path / "P1" / name)
    out = tmp_path / "cells.csv"
    values = predict_fields_to_table(bundle, [tmp_path], out, SETTINGS, subject="^(P[0-9])/")
    (patient,) = values["patients"]
    assert values["summary"]["cells"] == 6
    assert (patient["subject"], patient["cells"], patient["copies"]) == ("P1", 3, 3)
    assert len(patient["differential"]) == 2
    assert "6 cells = 3 counted + 3 left out as copies" in fields_table_text(values)
    (row,) = pacsv.read_csv(tmp_path / "cells-subjects.csv").to_pylist()
    assert (row["cells"], row["copies"]) == (3, 3)
    # Shares of cells that may be of several patients have no interval.
    assert set(values["summary"]["differential"][0]) == {"name", "cells", "share"}


def test_clumps_and_failures_are_counted_as_not_answered():
    cells = (
        Detection(0, 0, 9, 9, 0.5, 60.0, False),
        Detection(0, 0, 99, 99, 0.5, 600.0, False, clump=True),
        Detection(20, 0, 29, 9, 0.5, 60.0, False),
    )
    good = {"name": "a", "label": "ALL", "reasons": []}
    bad = {"name": "a", "error": "the model output is not finite"}
    answer = field_answer(Field("f", "ok", cells=cells), [good, None, bad], ("healthy", "ALL"))
    summary = answer["summary"]
    assert (summary["cells"], summary["answered"], summary["not_answered"]) == (2, 1, 1)
    assert summary["clumps"] == 1
    assert summary["not_answered_reasons"] == {"failed": 1}
    assert answer["cells"][1]["reasons"] == ["clump"]
    assert [share["cells"] for share in summary["differential"]] == [0, 1]
    assert "name" not in answer["cells"][0]


def test_the_command_takes_fields_and_refuses_what_is_not_for_them(
    bundle: Path,
    folder: Path,  # noqa: F811
):
    field = folder / "patient1" / "field.png"
    done = CliRunner().invoke(cli, ["predict", str(bundle), str(field), "--fields", "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout.splitlines()[-1])
    assert len(values["fields"][0]["cells"]) == 3
    with pytest.raises(UserError, match="--pixels-per-um: input should be a finite number"):
        cli(["detect", str(field), "--out", "x", "--pixels-per-um", "nan"], standalone_mode=False)
    with pytest.raises(UserError, match="add --fields"):
        cli(["predict", str(bundle), str(field), "--pixels-per-um", "9"], standalone_mode=False)
    for out in ([], ["--out", str(folder / "cells.csv")]):
        with pytest.raises(
            UserError, match=r"none of 1 field could be used .1 underexposed: it is"
        ):
            cli(
                ["predict", str(bundle), str(folder / "dark.png"), "--fields", *out],
                standalone_mode=False,
            )
    with pytest.raises(UserError, match="none of 1 field could be used"):
        detect([folder / "dark.png"], folder / "found", SETTINGS)
    assert not list(folder.glob("cells*"))
    assert not list(folder.glob("found*"))
    # 1.4 times the true scale: neither refused nor passed over in silence.
    out = folder / "doubtful.csv"
    doubtful = FieldSettings(pixels_per_um=1.5 * PIXELS_PER_UM)
    values = predict_fields_to_table(bundle, [field], out, doubtful)
    (row,) = pacsv.read_csv(folder / "doubtful-fields.csv").to_pylist()
    assert (row["status"], row["warnings"]) == ("ok", "scale_doubtful")
    assert row["estimated_pixels_per_um"] == pytest.approx(PIXELS_PER_UM, rel=0.15)
    assert (
        "warning: 1 field, scale_doubtful: its red cells, or what the slide states, suggest"
        in fields_table_text(values)
    )
    for table in folder.glob("doubtful*"):
        table.unlink()
    with pytest.raises(UserError, match="--subject: is for tables"):
        cli(
            ["predict", str(bundle), str(field), "--fields", "--subject", "c-nmc"],
            standalone_mode=False,
        )
