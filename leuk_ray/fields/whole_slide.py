"""Slides, too large for one image: read and examined tile by tile, each cell counted once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from leuk_ray.datasets.images import MAX_BYTES, MAX_PIXELS, BadImageError
from leuk_ray.datasets.images.colour import to_srgb
from leuk_ray.datasets.layouts.listing import IMAGE_SUFFIXES
from leuk_ray.fields.crops import crops_of
from leuk_ray.fields.detector import Detection, Scale
from leuk_ray.fields.field import Field, FieldSettings, examine
from leuk_ray.fields.overlay import LONGEST
from leuk_ray.fields.quality import SAME_SCALE, colour_reasons
from leuk_ray.fields.stain import optical_density, shrink
from leuk_ray.io.locations import Location
from leuk_ray.utils.extras import installed
from leuk_ray.utils.wording import counted

SUFFIXES = (*IMAGE_SUFFIXES, ".svs")  # of fields and slides
_SLIDES = (".svs", ".tif", ".tiff")
# Side of a tile without its margin: least in pixels and in micrometres, and most in pixels.
_SIDE = 1024, 160.0, 4096
_SEAM_UM = 3.0  # how far from a tile's border a cell may be in one tile and not in the other
_MARGIN_UM = 20.0  # more than the radius of a nucleus
_STAINED, _BACKGROUND_UM2 = 0.3, 10.0  # optical density; the smallest nucleus has 18 um2
_VIEW = 800  # pixels of the longer side that this is measured on
_STATED = 1.1  # factor between the given scale and the file's that is no rounding
_MPP = 0.01, 10.0  # micrometres per pixel; 72 dots per inch is no microscope's
_ICC_PROFILE = 34675  # tag


@dataclass(frozen=True)
class Tile:
    """Part of a slide, (x0, y0) to (x1, y1), with a margin around it in `pixels`.

    left, top: where `pixels`, (H, W, 3) uint8 sRGB, begin.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    left: int
    top: int
    pixels: np.ndarray

    def inside(self, point: tuple[int, int]) -> int:
        """Say how far a point of the slide lies inside the tile without its margin, pixels."""
        x, y = point
        return min(x - self.x0, self.x1 - 1 - x, y - self.y0, self.y1 - 1 - y)


class Slide:
    """An open SVS, OME-TIFF or other TIFF in tiles.

    width, height: pixels. pixels_per_um: as the file says; None where it does not.
    """

    def __init__(self, path: Path) -> None:
        """Open it; raises BadImageError."""
        import tiffslide  # pyright: ignore[reportMissingImports]

        try:
            self._file = tiffslide.TiffSlide(path)
            self.width, self.height = self._file.dimensions
            self.pixels_per_um = _pixels_per_um(self._file)
            tag = self._file.ts_tifffile.pages.first.tags.get(_ICC_PROFILE)
            self._profile = None if tag is None else tag.value
        except Exception as error:  # of tiffslide, tifffile, zarr and the codecs
            raise BadImageError("unreadable", f"cannot be opened as a slide: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def parts(self, pixels_per_um: float) -> list[tuple[int, int, int, int]]:
        """x0, y0, x1, y1 of parts of about equal size that together are the slide, row by row."""
        least, um, most = _SIDE
        side = min(max(least, round(um * pixels_per_um)), most)
        rows, columns = _cut(self.height, side), _cut(self.width, side)
        return [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]

    def tile(self, part: tuple[int, int, int, int], margin: int) -> Tile:
        """Read a part and a margin around it, pixels; raises BadImageError."""
        x0, y0, x1, y1 = part
        left, top = max(0, x0 - margin), max(0, y0 - margin)
        right, bottom = min(self.width, x1 + margin), min(self.height, y1 + margin)
        return Tile(x0, y0, x1, y1, left, top, self._read(left, top, right, bottom))

    def _read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        size = right - left, bottom - top
        try:
            pixels = np.asarray(self._file.read_region((left, top), 0, size, as_array=True))
        except Exception as error:
            detail = f"decoding stopped in the tile at {left}, {top}: {error}"
            raise BadImageError("truncated", detail) from error
        if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
            detail = f"has {pixels.dtype} samples, {pixels.shape[2]} a pixel; save it as 8-bit RGB"
            raise BadImageError("samples", detail)
        if self._profile is None:
            return np.ascontiguousarray(pixels)
        image = Image.fromarray(pixels)
        image.info["icc_profile"] = self._profile
        return np.asarray(to_srgb(image)[0])


def open_slide(place: Location) -> Slide | None:
    """Open a local TIFF in tiles that has several pages or is too large for one image.

    Returns:
        None for every other file, which is an image, or none, to the rest of the package.

    Raises:
        BadImageError: a large TIFF in strips, or one whose first page is not the largest;
            packages are missing, or it cannot be opened.
    """
    if not isinstance(place, Path) or place.suffix.lower() not in _SLIDES:
        return None
    import tifffile

    try:
        with tifffile.TiffFile(place) as file:
            first: Any = file.pages.first
            tiled, several = first.is_tiled, len(file.pages) > 1 or bool(first.subifds)
            pixels = first.imagewidth * first.imagelength
            pages: list[Any] = file.pages[1:] if len(file.pages) > 1 else []
            others = [page.imagewidth * page.imagelength for page in pages]
        large = pixels > MAX_PIXELS or place.stat().st_size > MAX_BYTES
    except Exception:  # a damaged header or no TIFF: decoding it as an image says what is wrong
        return None
    if tiled and any(size >= pixels for size in others):
        detail = "has pages that are not levels of its first; save the slide as a file of its own"
        raise BadImageError("several_frames", detail)
    if large and not tiled:
        detail = "is too large for one image, and a slide must be a TIFF in tiles; save it so"
        raise BadImageError("too_large", detail)
    if not tiled or not (large or several):
        return None
    if not installed("slides"):
        detail = "is a slide, which needs more packages: pip install 'leuk_ray[slides]'"
        raise BadImageError("packages", detail)
    return Slide(place)


class SlideExam:
    """Examine a slide as one field, tile by tile, in the memory of a tile.

    A tile is examined like a field. A cell counts in the tile that holds its centre; of cells near
    the border of tiles, which two of them may see, one is kept.
    overview: the slide, (H, W, 3) uint8, at most `overlay.LONGEST` pixels long.
    """

    def __init__(self, slide: Slide, settings: FieldSettings) -> None:
        given = settings.pixels_per_um
        per_um = given or slide.pixels_per_um
        self.slide = slide
        self.scale = None if per_um is None else Scale(per_um, source="given" if given else "file")
        self.settings = settings.model_copy(update={"pixels_per_um": per_um})
        self.cells: list[Detection] = []
        self._at_seams: list[Detection] = []
        self._examined = self._background = 0
        self._refused: Counter[str] = Counter()
        self._warnings: set[str] = set()
        stated = slide.pixels_per_um
        self._off = max(given / stated, stated / given) if given and stated else 1.0
        if self._off > _STATED:
            self._warnings.add("scale_doubtful")
        self._factor = min(1.0, LONGEST / max(slide.width, slide.height))
        self.overview = np.zeros((*self._at(slide.height, slide.width), 3), np.uint8)

    def tiles(self, progress: Callable[[int, int], None]) -> Iterator[list[bytes | None]]:
        """Examine tile by tile; yields the crops of the cells that each adds to `cells`.

        Of a slide without a scale, or with another than the given one, none.
        """
        if self.scale is None or self._off > SAME_SCALE:
            return
        per_um = self.scale.pixels_per_um
        margin = math.ceil(max(_MARGIN_UM, self.settings.crop_um / 2 + _SEAM_UM) * per_um)
        parts = self.slide.parts(per_um)
        for done, part in enumerate(parts, start=1):
            tile = self.slide.tile(part, min(margin, _SIDE[2]))
            self._draw(tile)
            if _is_background(tile.pixels, per_um):
                dark = "underexposed" in colour_reasons(tile.pixels)
                self._refused.update(["underexposed"] * dark)
                self._background += not dark
            else:
                field = examine("", tile.pixels, self.settings)
                self._refused.update(field.reasons[:1])
                self._examined += field.status != "refused"
                self._warnings.update(field.warnings)
                yield self._add(tile, field, _SEAM_UM * per_um)
            progress(done, len(parts))

    def field(self, name: str) -> Field:
        """Say what was found, after all tiles; refused where more tiles were than were examined."""
        size = self.slide.width, self.slide.height
        if self.scale is None:
            return Field(name, "refused", ("scale_missing",), None, *size)
        if self._off > SAME_SCALE:
            return Field(name, "refused", ("scale_differs",), self.scale, *size)
        refused = self._refused.total()
        tiles = self._examined + self._background + refused
        why = ", ".join(f"{number} {reason}" for reason, number in self._refused.most_common())
        detail = (
            f"{counted(tiles, 'tile')} = {self._examined} examined + "
            f"{self._background} background + {refused} refused" + (f" ({why})" if why else "")
        )
        if refused > self._examined:
            reasons = tuple(reason for reason, _ in self._refused.most_common(1))
            return Field(name, "refused", reasons, self.scale, *size, detail=detail)
        status = "ok" if self.cells else "empty"
        warnings = (*sorted(self._warnings), *(["tiles_refused"] if refused else []))
        cells = tuple(self.cells)
        return Field(name, status, (), self.scale, *size, cells, detail, warnings)

    def _add(self, tile: Tile, field: Field, seam: float) -> list[bytes | None]:
        """Take the cells of a tile; those nearer to its border than `seam` may be another's too."""
        kept, moved = [], []
        for cell in field.cells:
            there = self._moved(tile, cell)
            inside = tile.inside(there.center)
            if inside < -seam:
                continue
            if inside < seam:
                if any(_same(there, other) for other in self._at_seams):
                    continue
                self._at_seams.append(there)
            kept.append(cell)
            moved.append(there)
        self.cells += moved
        return crops_of(replace(field, cells=tuple(kept)), tile.pixels, self.settings.crop_um)

    def _moved(self, tile: Tile, cell: Detection) -> Detection:
        """Return a cell of a tile in pixels of the slide."""
        x0, x1 = cell.x0 + tile.left, cell.x1 + tile.left
        y0, y1 = cell.y0 + tile.top, cell.y1 + tile.top
        outer = x0 == 0 or y0 == 0 or x1 == self.slide.width or y1 == self.slide.height
        touches = cell.touches_border and outer
        return replace(cell, x0=x0, y0=y0, x1=x1, y1=y1, touches_border=touches)

    def _at(self, *numbers: int) -> tuple[int, ...]:
        """Pixels of the slide as pixels of the overview."""
        return tuple(round(number * self._factor) for number in numbers)

    def _draw(self, tile: Tile) -> None:
        x0, y0, x1, y1 = self._at(tile.x0, tile.y0, tile.x1, tile.y1)
        if x1 > x0 and y1 > y0:
            core = tile.pixels[tile.y0 - tile.top :, tile.x0 - tile.left :]
            core = core[: tile.y1 - tile.y0, : tile.x1 - tile.x0]
            small = Image.fromarray(core).resize((x1 - x0, y1 - y0), Image.Resampling.BOX)
            self.overview[y0:y1, x0:x1] = np.asarray(small)


def _cut(length: int, side: int) -> list[tuple[int, int]]:
    """Parts of about equal length, none longer than `side`."""
    number = math.ceil(length / side)
    edges = [round(at * length / number) for at in range(number + 1)]
    return list(pairwise(edges))


def _same(one: Detection, other: Detection) -> bool:
    """Whether the middle of each lies in the other."""
    return _holds(one, other.center) and _holds(other, one.center)


def _holds(cell: Detection, point: tuple[int, int]) -> bool:
    return cell.x0 <= point[0] < cell.x1 and cell.y0 <= point[1] < cell.y1


def _is_background(pixels: np.ndarray, per_um: float) -> bool:
    """Whether less is stained than a nucleus has."""
    factor = min(1.0, _VIEW / max(pixels.shape[:2]))
    stained = optical_density(shrink(pixels, factor)).sum(axis=2) > _STAINED
    return stained.sum() / (per_um * factor) ** 2 < _BACKGROUND_UM2


def _pixels_per_um(file: Any) -> float | None:
    """As vendor, OME-XML or resolution tags say; None where they do not."""
    sizes = [file.properties.get(f"tiffslide.mpp-{axis}") for axis in "xy"]
    if file.ts_tifffile.is_ome:
        sizes = _ome_sizes(file.ts_tifffile.ome_metadata) or sizes
    try:
        x, y = (float(size) for size in sizes)
    except (TypeError, ValueError):
        return None
    if not (_MPP[0] <= x <= _MPP[1] and 0.9 < x / y < 1.1):
        return None
    return 2 / (x + y)


def _ome_sizes(text: str) -> list[str] | None:
    """PhysicalSizeX and Y of the first image where they are in micrometres."""
    for item in ElementTree.fromstring(text).iter():
        if item.tag.endswith("}Pixels"):
            units = {item.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY"}
            sizes = [item.get(f"PhysicalSize{axis}") for axis in "XY"]
            return None if units != {"µm"} or None in sizes else [size or "" for size in sizes]
    return None
