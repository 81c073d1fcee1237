"""White cells found in the 60 BCCD fields, counted against their boxes."""

from pathlib import Path

from leuk_ray.fields.annotated import read_annotated
from leuk_ray.fields.field import FieldSettings, read_field
from leuk_ray.fields.matching import match


def test_white_cells_are_found_in_both_halves(real_data: Path):
    """Parameters were chosen on the files with even positions; the others are measured alike."""
    annotated = read_annotated(real_data / "bccd/boxes.csv", ["WBC"])
    files = sorted((real_data / "bccd/images").iterdir())
    assert len(files) == 60
    for start, cells in ((0, 33), (1, 32)):
        found = {}
        for file in files[start::2]:
            field, _ = read_field(file.name, file.read_bytes(), FieldSettings())
            assert field.status == "ok", (file, field.reasons)
            found[file.name] = field.cells
        counts = match(found, {file: annotated[file] for file in found})
        assert counts.cells == cells
        assert counts.found >= 0.95 * cells, counts.missed
        assert counts.found >= 0.9 * counts.detections, counts.wrong


def test_crops_of_single_cells_are_no_fields(real_data: Path):
    """Segmented cells on black, and crops that show one white cell in their middle."""
    segmented = sorted((real_data / "cnmc2019").rglob("*.bmp"))[::20]
    for file in segmented:
        field, _ = read_field(file.name, file.read_bytes(), FieldSettings())
        assert field.reasons == ("underexposed",), file
    crops = sorted(real_data.glob("pbc/**/*.jpg"))[::8]
    fields = [read_field(file.name, file.read_bytes(), FieldSettings())[0] for file in crops]
    # Platelets hold no nucleus; a few cells whose nucleus lies beside the middle pass as fields.
    taken = [field.name for field in fields if field.status == "ok"]
    assert len(taken) <= len(fields) / 10, taken
