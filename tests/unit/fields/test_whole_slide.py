"""Slides: every cell once wherever tiles meet, and one line for what is no slide."""

from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from leuk_ray.cli.data_messages import detect_text, fields_table_text
from leuk_ray.datasets.images import BadImageError
from leuk_ray.fields import whole_slide
from leuk_ray.fields.crops import crop_png
from leuk_ray.fields.detector import Detection, Scale
from leuk_ray.fields.field import FieldSettings, examine
from leuk_ray.fields.whole_slide import open_slide
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.extras import installed
from leuk_ray.workflows.detect import detect
from leuk_ray.workflows.predict_fields import predict_fields, predict_fields_to_table
from tests.support.serving_bundles import client_of, write_small_bundle
from tests.support.small_fields import PIXELS_PER_UM
from tests.support.small_slides import SEAM, smear, write_slide

if not installed("slides"):
    pytest.skip("the extra slides is not installed", allow_module_level=True)

SETTINGS = FieldSettings()


def test_every_cell_is_found_once_as_in_one_large_field(tmp_path: Path):
    """Three of 15 cells lie where two tiles meet."""
    pixels, centers = smear()
    slide = write_slide(tmp_path / "slide.svs", pixels)
    found = tmp_path / "found"
    values = detect([slide], found, SETTINGS)
    assert values["counts"] == {
        "fields": 1, "ok": 1, "empty": 0, "refused": 0, "cells": 15, "clumps": 0,
    }  # fmt: skip
    assert "slide.svs: 2 tiles = 2 examined + 0 background + 0 refused" in detect_text(values)
    assert "estimated from red cells" not in detect_text(values)
    rows = pacsv.read_csv(found / "detections.csv").to_pylist()
    middles = [((row["x0"] + row["x1"]) / 2, (row["y0"] + row["y1"]) / 2) for row in rows]
    apart = cdist(centers, middles)
    assert ((apart < 60).sum(axis=1) == 1).all()
    assert ((apart < 60).sum(axis=0) == 1).all()
    (field,) = pacsv.read_csv(found / "fields.csv").to_pylist()
    assert (field["width"], field["height"], field["scale_source"]) == (2592, 972, "file")
    assert field["pixels_per_um"] == pytest.approx(PIXELS_PER_UM)
    # Boxes and crops are those of one field within a pixel or two.
    opened = open_slide(slide)
    assert opened is not None
    whole = opened.tile((0, 0, 2592, 972), 0).pixels
    expected = examine("", whole, FieldSettings(pixels_per_um=PIXELS_PER_UM)).cells
    assert cdist(middles, [cell.center for cell in expected]).min(axis=0).max() < 4
    for row in rows:
        cell = Detection(row["x0"], row["y0"], row["x1"], row["y1"], 0.5, 50, False)
        crop = crop_png(whole, cell, Scale(opened.pixels_per_um or 0), SETTINGS.crop_um)
        assert (found / row["crop"]).read_bytes() == crop
    with Image.open(found / "overlays" / "slide.svs.jpg") as overlay:
        assert overlay.size == (1600, 600)


def test_predict_answers_for_slides_in_tables_and_http_takes_fields_only(tmp_path: Path):
    """OME-XML has the scale; one tile of three has cells, and two are background."""
    pixels = np.full((972, 3 * SEAM, 3), 235, np.uint8)
    pixels[:, : SEAM - 200] = smear()[0][:, : SEAM - 200]
    slide = write_slide(tmp_path / "slide.ome.tif", pixels)
    bundle = write_small_bundle(tmp_path / "small")
    values = predict_fields_to_table(bundle, [slide], tmp_path / "cells.csv", SETTINGS)
    tiles = "slide.ome.tif: 3 tiles = 1 examined + 2 background + 0 refused"
    assert tiles in fields_table_text(values)
    (field,) = pacsv.read_csv(tmp_path / "cells-fields.csv").to_pylist()
    assert field["pixels_per_um"] == pytest.approx(PIXELS_PER_UM)
    rows = pacsv.read_csv(tmp_path / "cells.csv").to_pylist()
    assert values["summary"]["cells"] == len(rows) == field["cells"] >= 3
    assert all(0 < row["probability"] < 1 for row in rows)
    with pytest.raises(UserError, match=r"slide.ome.tif: is a slide; add --out cells.csv"):
        predict_fields(bundle, [slide], SETTINGS)
    pages = write_slide(tmp_path / "slide.svs", pixels)
    with client_of(bundle) as client:
        refused = client.post("/v1/fields", content=pages.read_bytes())
    assert refused.status_code == 422
    assert refused.json()["detail"] == (
        "several_frames: an animation or several pages; give one image"
    )


def test_what_is_no_slide_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pixels = smear()[0]
    small = pixels[:600, :800]
    damaged = write_slide(tmp_path / "damaged.svs", pixels)
    data = damaged.read_bytes()
    middle = len(data) // 3
    damaged.write_bytes(data[:middle] + bytes(5000) + data[middle + 5000 :])
    grey = write_slide(tmp_path / "grey.tif", small[..., 0], photometric="minisblack")
    unknown = write_slide(tmp_path / "unknown.tif", small)
    dark = write_slide(tmp_path / "dark.svs", np.zeros_like(small))
    pages = tmp_path / "pages.tif"
    with tifffile.TiffWriter(pages) as file:
        for page in (small, pixels):
            file.write(page, photometric="rgb", tile=(256, 256))
    cases = {
        dark: r"\(1 underexposed: it is too dark",
        pages: "pages.tif: several_frames: has pages that are not levels of its first; save",
        damaged: "1 unreadable: .*; damaged.svs: truncated: decoding stopped in the tile at 1120",
        grey: "grey.tif: samples: has uint8 samples, 1 a pixel; save it as 8-bit RGB",
        unknown: r"\(1 scale_missing: the slide does not say how large its pixels are; give the",
    }
    for slide, why in cases.items():
        settings = SETTINGS if slide == unknown else FieldSettings(pixels_per_um=PIXELS_PER_UM)
        with pytest.raises(UserError, match=why) as error:
            detect([slide], tmp_path / "found", settings)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.glob("found*"))
    stated = write_slide(tmp_path / "stated.svs", small)
    with pytest.raises(UserError, match="1 scale_differs: its red cells, or what the slide states"):
        detect([stated], tmp_path / "found", FieldSettings(pixels_per_um=2 * PIXELS_PER_UM))
    monkeypatch.setattr(whole_slide, "MAX_PIXELS", 1000)
    Image.fromarray(small).save(tmp_path / "strips.tif")
    with pytest.raises(BadImageError, match="a slide must be a TIFF in tiles"):
        open_slide(tmp_path / "strips.tif")
    monkeypatch.setattr(whole_slide, "installed", lambda extra: False)
    with pytest.raises(BadImageError, match=r"pip install 'leuk_ray\[slides\]'"):
        open_slide(unknown)


def test_a_slide_most_of_which_is_refused_has_no_result(tmp_path: Path):
    blurred = gaussian_filter(smear()[0][:, :SEAM], (9, 9, 0))
    slide = write_slide(tmp_path / "blurred.svs", blurred)
    with pytest.raises(UserError, match=r"1 tile = 0 examined .* 1 refused \(1 out_of_focus\)"):
        detect([slide], tmp_path / "found", SETTINGS)
