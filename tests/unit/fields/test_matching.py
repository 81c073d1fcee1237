"""Detections counted against annotated cells."""

from pathlib import Path

import pytest

from leuk_ray.evaluation.error_rates import FoundCells
from leuk_ray.fields.annotated import AnnotatedCell, join_fields, read_annotated
from leuk_ray.fields.detector import Detection
from leuk_ray.fields.matching import match
from leuk_ray.utils.errors import UserError


def cell(x: int, y: int, clump: bool = False) -> Detection:
    return Detection(x - 10, y - 10, x + 10, y + 10, 0.8, 60.0, False, clump)


def annotated(*boxes: tuple[float, float, float, float], label: str = "") -> list[AnnotatedCell]:
    return [AnnotatedCell(box, label) for box in boxes]


def test_each_cell_is_paired_once():
    cells = [cell(50, 50), cell(55, 55), cell(200, 200), cell(300, 300, clump=True)]
    own = {
        "a": annotated((0, 0, 100, 100), (290, 290, 310, 310), label="blast"),
        "b": annotated((0, 0, 9, 9)),
    }
    counts = match({"a": cells, "b": [], "not annotated": cells}, own)
    assert (counts.found, counts.cells, counts.detections) == (1, 3, 3)
    assert [file for file, _ in counts.missed] == ["a", "b"]
    assert len(counts.wrong) == 2
    assert (counts.recall, counts.precision) == (1 / 3, 1 / 3)
    assert counts.by_field == {
        "a": {"blast": FoundCells(cells=2, found=1)},
        "b": {"": FoundCells(cells=1)},
    }
    nothing = match({"a": []}, {"a": []})
    assert (nothing.recall, nothing.precision) == (None, None)


def test_as_many_as_can_be_are_paired():
    """The first detection lies in both boxes, the second in one: both are cells."""
    boxes = [(0, 0, 100, 100), (40, 40, 140, 140)]
    assert match({"a": [cell(50, 50), cell(20, 20)]}, {"a": annotated(*boxes)}).found == 2


def test_boxes_and_centres_are_read(tmp_path: Path):
    table = tmp_path / "annotated.csv"
    table.write_text(
        "file,label,xmin,ymin,xmax,ymax\na.png,WBC,1,2,3,4\na.png,RBC,5,6,7,8\nb.png,RBC,5,6,7,8\n"
        "c.png,,,,,\n'-d.png,blast,1,2,3,4\n"  # quoted, as our own tables quote it
    )
    assert read_annotated(table, ["WBC", "blast"]) == {
        "a.png": annotated((1, 2, 3, 4), label="WBC"),
        "b.png": [],  # annotated, without a white cell
        "c.png": [],
        "-d.png": annotated((1, 2, 3, 4), label="blast"),
    }
    with pytest.raises(UserError, match="has the labels RBC, WBC, blast; choose"):
        read_annotated(table)
    with pytest.raises(UserError, match="--annotated-label wbc"):
        read_annotated(table, ["wbc"])
    table.write_text("file,x,y\na.png,50,60\n")
    assert match({"a.png": [cell(55, 55)]}, read_annotated(table)).found == 1
    table.write_text("file,x,y\na.png,50,here\n")
    with pytest.raises(UserError, match="line 2: x, y are not all numbers"):
        read_annotated(table)
    for box in ("nan,1,2,3", "5,1,2,3"):
        table.write_text(f"file,x0,y0,x1,y1\na.png,{box}\n")
        with pytest.raises(UserError, match=r"line 2: .* low before high"):
            read_annotated(table)
    table.write_text("file,x,y\na.png,50,60\na.png,50,61\na.png,50,60\n")
    with pytest.raises(UserError, match="line 4: repeats a row"):
        read_annotated(table)
    table.write_text("name,x,y\na.png,50,60\n")
    with pytest.raises(UserError, match="needs the columns"):
        read_annotated(table)
    with pytest.raises(UserError, match="cannot be read"):
        read_annotated(tmp_path / "nothing.csv")


def test_names_join_fields_by_path_or_by_a_name_that_only_one_field_has():
    paths = ["p0/field.png", "p1/field.png", "p1/other.png"]
    fields = {f"/smears/{path}": path for path in paths}
    one, two = annotated((0, 0, 9, 9)), annotated((20, 20, 29, 29))
    own = {"p1/other.png": one, "other.png": two, "unknown.png": two, "/smears/p0/field.png": one}
    assert join_fields(own, fields, Path("t.csv")) == (
        {"p1/other.png": [*one, *two], "p0/field.png": one},
        {"unknown.png": two},
    )
    with pytest.raises(UserError, match=r"field.png may be any of 2 fields \(p0/field.png, p1/f"):
        join_fields({"field.png": one}, fields, Path("t.csv"))
    with pytest.raises(UserError, match="names none of the fields"):
        join_fields({"unknown.png": one}, fields, Path("t.csv"))
    twice = {file: one for pair in fields.items() for file in pair}
    with pytest.raises(UserError, match=r"t.csv: has cells of .* twice, the second time as"):
        join_fields(twice, fields, Path("t.csv"))
