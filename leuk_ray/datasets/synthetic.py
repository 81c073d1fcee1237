"""Rendered blood cells in the C-NMC 2019 layout, whose best possible AUC is known.

Every cell carries one hidden number, its latent s, drawn around a mean that depends on the label:

    s | blast ~ N(+d/2, 1)        s | healthy ~ N(-d/2, 1)

The log-likelihood ratio of the two classes given s is d * s. By Neyman and Pearson no score that is
computed from s ranks better than s itself. The AUC of s is the chance that a blast's latent exceeds
a healthy cell's; their difference is distributed as N(d, 2), hence

    best AUC = Phi(d / sqrt(2))        d = sqrt(2) * Phi^-1(best AUC)

The pixels inherit the bound: an image depends on the label only through s, because everything else
(stain, size, shape, position, noise) is drawn without looking at the label. label -> s -> image is
a Markov chain; a score of the image is then a randomised score of s, which the lemma covers too.

The bound is on the expected AUC of a scorer that sees one cell of a subject it does not know. A
finite test set scatters around it. Pooling the cells of a subject beats it, and so does a leak of
known cells or subjects into the test set, for each has its own stain and a subject has one class.

s shows in five redundant cues, all strictly monotone in s: the share of the cell that the nucleus
fills, the clumping of the chromatin, the waves and the cleft of the nuclear outline, the nucleoli.
Area and mean colour of a cell say nothing: nuisance alone sets them, whatever s is.

With the signal in the nucleoli alone, two pale spots of 3% of the cell, the other four cues follow
a decoy that is drawn like s and knows no label; the bound is the same.
"""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leuk_ray.io.storage import directory_by_rename
from leuk_ray.utils.errors import ConfigError, UserError

SIDE = 450
NUM_FOLDS = 3
MAX_CELLS = 100_000
CELLS_PER_SOURCE_IMAGE = 4
CLASSES = ("hem", "all")  # folder and file names, by label
PI = math.pi
NUM_ANGLES = 1024
ANGLES = np.linspace(-PI, PI, NUM_ANGLES, endpoint=False)
DERIVATION = (
    "latent s ~ N(+d/2, 1) for blasts and N(-d/2, 1) for healthy cells; the image depends on the "
    "label only through s; so no score of a single cell has an expected AUC above "
    "Phi(d / sqrt(2)) = best_auc"
)
# Typical Giemsa-stained cell under the dark C-NMC normalisation: mean RGB in 0..255, and how many
# times brighter than the nucleus the cytoplasm is in each channel.
MEAN_COLOR = np.array([76.0, 38.0, 90.0])
CYTOPLASM_TINT = np.array([1.80, 2.50, 1.55])
MEAN_DIAMETER = 200.0
# With 0.2 the classes of some twenty subjects can differ in stain by chance so much that a network
# learns stain, not the latent.
SUBJECT_SHARE = 0.1
MAX_SUBJECT_SHARE = 0.9

Floats = NDArray[np.floating]
Signal = Literal["everywhere", "nucleoli"]


def separation(best_auc: float) -> float:
    """Compute the distance between the class means of the latent, in standard deviations.

    Raises UserError unless 0.5 <= best_auc < 1.
    """
    if not 0.5 <= best_auc < 1:
        raise ConfigError(f"best_auc is {best_auc}; give at least 0.5 and less than 1")
    return math.sqrt(2) * NormalDist().inv_cdf(best_auc)


@dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """What to draw. Another seed gives other subjects, not more cells of the same ones.

    `subject_share` is how much of the variance of stain and size lies between subjects. As each
    subject has one class, a large share lets a network that has seen a subject know its cells by
    their stain: what a split that parts no subjects leaks.

    Raises UserError unless 2 <= subjects <= cells <= 100,000, seed >= 0, 0.5 <= best_auc < 1,
    signal is `everywhere` (all five cues) or `nucleoli`, and 0 <= subject_share <= 0.9.
    """

    cells: int = 600
    subjects: int = 24
    seed: int = 0
    best_auc: float = 0.90
    signal: Signal = "everywhere"
    subject_share: float = SUBJECT_SHARE

    def __post_init__(self) -> None:
        if self.subjects < 2:
            raise ConfigError(f"subjects is {self.subjects}; give at least 2, one for each class")
        if not self.subjects <= self.cells <= MAX_CELLS:
            limits = f"{self.subjects} (one a subject) to {MAX_CELLS}"
            raise ConfigError(f"cells is {self.cells}; give {limits}")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; give 0 or more")
        separation(self.best_auc)
        if self.signal not in get_args(Signal):
            raise ConfigError(f"signal is {self.signal!r}; give {' or '.join(get_args(Signal))}")
        if not 0 <= self.subject_share <= MAX_SUBJECT_SHARE:
            raise ConfigError(
                f"subject_share is {self.subject_share}; give 0 to {MAX_SUBJECT_SHARE}"
            )


@dataclass(frozen=True, slots=True)
class SyntheticCell:
    """One cell, before it is rendered. Of what the image shows, only `latent` knows the label."""

    uid: str  # file name without .bmp
    subject: str  # "1", "2", ... with ALL; "H1", "H2", ... healthy
    label: int  # 1 ALL, 0 healthy; of stages their number
    latent: float
    fold: int  # 0..2
    diameter: float  # pixels, of the circle with the cell's area
    mean_color: tuple[float, ...]  # RGB in 0..255 over the cell
    cytoplasm_tint: tuple[float, ...]  # cytoplasm / nucleus brightness, by channel
    seed: int
    key: tuple[int, int]  # (subject, cell) counted from 0; with the seed, the cell's own noise
    scale: float = 1.0  # divides the latent before it shows
    decoy: float | None = None  # what all cues but the nucleoli show instead of the latent

    @property
    def path(self) -> str:
        """Where the C-NMC layout keeps the cell, relative to the dataset's root."""
        return f"training_data/fold_{self.fold}/{CLASSES[self.label]}/{self.uid}.bmp"


def draw_cells(spec: SyntheticSpec) -> list[SyntheticCell]:
    """Draw a spec's cells, subject by subject; classes alternate, starting with ALL.

    A cell depends on the seed, its subject and its number alone: asking for more cells or subjects
    leaves those already drawn as they were.
    """
    each, extra = divmod(spec.cells, spec.subjects)
    subjects = (_draw_subject(spec, i, each + (i < extra)) for i in range(spec.subjects))
    return [cell for subject in subjects for cell in subject]


def render(cell: SyntheticCell) -> NDArray[np.uint8]:
    """Draw the image: (450, 450, 3) uint8 RGB, (0, 0, 0) outside the cell and nowhere inside."""
    # No draw below depends on the latent, so that the same cell can be drawn with another one.
    rng = _stream(cell.seed, *cell.key, 1)
    pale = _visible(cell.latent / cell.scale)
    visible = pale if cell.decoy is None else _visible(cell.decoy)
    radius = cell.diameter / 2
    outline = _outline(1 + _waves(rng, 2, 4, 0.06) + _waves(rng, 5, 11, 0.012))
    reach = math.ceil(radius * float(outline.max())) + 1
    side = 2 * reach + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    inside = _elevation(y, x, outline) <= radius
    y, x = y[inside], x[inside]
    nucleus, center_y, center_x = _nucleus(rng, y, x, outline, radius, visible)
    coarse = _noise(rng, side, pitch=rng.uniform(9, 12))[inside]
    fine = _noise(rng, side, pitch=3)[inside]
    nucleoli = _nucleoli(rng, y - center_y, x - center_x, radius)
    slope_y, slope_x = (rng.normal(0, 0.04, 2) / radius).tolist()
    top, left = SIDE // 2 - reach + rng.integers(-5, 6, 2)
    light = 1 + slope_y * y + slope_x * x
    chromatin = nucleus * light * np.exp((0.33 - 0.30 * visible) * coarse + 0.04 * fine)
    cytoplasm = (1 - nucleus) * light * np.exp(0.03 * coarse + 0.03 * fine)
    pixels = np.empty((len(y), 3), dtype=np.uint8)
    for channel, tint in enumerate(cell.cytoplasm_tint):
        color = chromatin * (1 + 0.8 * pale * (tint - 1) * nucleoli) + cytoplasm * tint
        # Else a large nucleus would darken the whole cell, and mean colour would tell the class.
        color *= cell.mean_color[channel] / float(color.mean())
        pixels[:, channel] = np.clip(np.rint(color), 1, 255)
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    image[top : top + side, left : left + side][inside] = pixels
    return image


def write_c_nmc(
    directory: Path, spec: SyntheticSpec, progress: Callable[[int, int], None] | None = None
) -> dict[str, object]:
    """Write a spec's cells to a new C-NMC 2019 directory and return what SYNTHETIC.json holds.

    Beside training_data/ lie SYNTHETIC.json, which marks the data as rendered and states the best
    AUC and the AUC of these very latents, and latents.csv. The directory appears whole or not at
    all. Calls `progress(done, total)` after each cell.

    Raises:
        UserError: the directory holds files.
        StorageError: it cannot be written.
    """
    directory = directory.resolve()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UserError(f"{directory} is not an empty directory; remove it or name another one")
    cells = draw_cells(spec)
    summary = _summary(spec, cells)
    with directory_by_rename(directory) as root:
        for done, cell in enumerate(cells, start=1):
            path = root / cell.path
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render(cell)).save(path)
            if progress is not None:
                progress(done, len(cells))
        (root / "SYNTHETIC.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        with (root / "latents.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["uid", "subject", "label", "latent"])
            writer.writerows([cell.uid, cell.subject, cell.label, cell.latent] for cell in cells)
    return summary


def _draw_subject(spec: SyntheticSpec, index: int, num_cells: int) -> list[SyntheticCell]:
    label, rank = 1 - index % 2, index // 2
    subject = f"{'' if label else 'H'}{rank + 1}"
    common = math.sqrt(spec.subject_share) * _stream(spec.seed, index).standard_normal(7)
    mean_latent = (label - 0.5) * separation(spec.best_auc)
    cells: list[SyntheticCell] = []
    for number in range(num_cells):
        image, position = divmod(number, CELLS_PER_SOURCE_IMAGE)
        rng = _stream(spec.seed, index, number)
        latent = rng.normal(mean_latent)
        nuisance = common + math.sqrt(1 - spec.subject_share) * rng.standard_normal(7)
        darkness, saturation, hue, size = nuisance[:4] * [0.09, 0.06, 0.03, 0.08]
        stain = [darkness + hue, darkness - saturation, darkness - hue]
        cells.append(
            SyntheticCell(
                uid=f"UID_{subject}_{image + 1}_{position + 1}_{CLASSES[label]}",
                subject=subject,
                label=label,
                latent=latent,
                fold=rank % NUM_FOLDS,
                diameter=MEAN_DIAMETER * float(np.clip(1 + size, 0.75, 1.3)),
                mean_color=tuple((MEAN_COLOR * np.exp(stain)).tolist()),
                cytoplasm_tint=tuple((CYTOPLASM_TINT * np.exp(0.03 * nuisance[4:])).tolist()),
                seed=spec.seed,
                key=(index, number),
                decoy=_decoy(spec, index, number),
            )
        )
    return cells


def _decoy(spec: SyntheticSpec, *key: int) -> float | None:
    """Drawn as the latent is, of a class that is drawn too."""
    if spec.signal == "everywhere":
        return None
    rng = _stream(spec.seed, *key, 2)
    return rng.normal((rng.integers(2) - 0.5) * separation(spec.best_auc))


def _visible(latent: float) -> float:
    """How much of a cue shows, 0..1, nearly linear in -2..2."""
    return NormalDist(sigma=1.35).cdf(latent)


def _summary(spec: SyntheticSpec, cells: list[SyntheticCell]) -> dict[str, object]:
    healthy = np.sort([cell.latent for cell in cells if cell.label == 0])
    blasts = [cell.latent for cell in cells if cell.label == 1]
    return {
        "synthetic": True,
        "spec": asdict(spec),
        "derivation": DERIVATION,
        "best_auc": spec.best_auc,
        "subject_share": spec.subject_share,
        "oracle_auc": float(np.searchsorted(healthy, blasts).mean() / len(healthy)),
        "counts": {
            "subjects": {"all": (spec.subjects + 1) // 2, "hem": spec.subjects // 2},
            "cells": {"all": len(blasts), "hem": len(healthy)},
        },
    }


def _nucleus(
    rng: np.random.Generator, y: Floats, x: Floats, cell: Floats, radius: float, visible: float
) -> tuple[Floats, float, float]:
    """How much of each pixel is nucleus, (N,) in 0..1, and its centre y, x."""
    share = 0.30 + 0.56 * visible
    irregular = _waves(rng, 3, 8, 1.0)
    direction, eccentricity, cleft_at = rng.uniform([-PI, 0.1, -PI], [PI, 0.7, PI]).tolist()
    cleft = np.exp((np.cos(ANGLES - cleft_at) - 1) / 0.04)
    waves = 1 + _waves(rng, 2, 3, 0.03) + 0.05 * visible * irregular
    outline = _outline(cell * waves * (1 - 0.45 * visible * cleft))
    offset = eccentricity * radius * (1 - math.sqrt(share))
    center_y, center_x = offset * math.sin(direction), offset * math.cos(direction)
    elevation = _elevation(y - center_y, x - center_x, outline)
    # A quantile, so that the share is exact also where the cell's outline cuts the nucleus off.
    num_inside = int(share * len(elevation))
    edge = np.partition(elevation, num_inside)[num_inside]
    return np.clip((edge - elevation) / 4 + 0.5, 0, 1), center_y, center_x


def _nucleoli(rng: np.random.Generator, y: Floats, x: Floats, radius: float) -> Floats:
    """Two pale spots, (N,) in 0..1, so near the centre that the smallest nucleus holds them."""
    first = rng.uniform(-PI, PI)
    spots = np.zeros_like(y)
    for angle in (first, first + rng.uniform(1.6, 3.2)):
        distance, size = (rng.uniform([0.18, 0.11], [0.30, 0.14]) * radius).tolist()
        squared = (y - distance * math.sin(angle)) ** 2 + (x - distance * math.cos(angle)) ** 2
        spots += np.exp(-((squared / size**2) ** 2))
    return spots


def _waves(rng: np.random.Generator, lowest: int, highest: int, scale: float) -> Floats:
    """Return a random closed wave over NUM_ANGLES angles, of the given standard deviation."""
    order = np.arange(lowest, highest + 1)[:, None]
    amplitude, phase = rng.uniform([0.4, 0], [1, 2 * PI], (len(order), 2)).T[:, :, None]
    wave = (amplitude / order * np.sin(order * ANGLES + phase)).sum(axis=0)
    return scale * wave / wave.std()


def _outline(shape: Floats) -> Floats:
    """Scale the shape to the unit circle's area: (NUM_ANGLES,) distances from the centre."""
    return (shape / np.sqrt(np.mean(shape**2))).astype(np.float32)


def _elevation(y: Floats, x: Floats, outline: Floats) -> Floats:
    """How large the outline must be scaled to pass through each point."""
    turn = ((np.arctan2(y, x) / (2 * PI) + 0.5) * NUM_ANGLES).astype(np.int32) % NUM_ANGLES
    return np.sqrt(y * y + x * x) / outline[turn]


def _noise(rng: np.random.Generator, side: int, pitch: float) -> Floats:
    """Smooth noise (side, side), mean 0, standard deviation 1, clumps of about `pitch` pixels."""
    num_nodes = math.ceil(side / pitch) + 1
    nodes = Image.fromarray(rng.standard_normal((num_nodes, num_nodes), dtype=np.float32))
    noise = np.asarray(nodes.resize((side, side), Image.Resampling.BICUBIC))
    return (noise - noise.mean()) / noise.std()


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
