"""How pages are made from templates: everything escaped, nothing left undefined."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
_PARTS = Path(__file__).parent / "page_parts"


def page_templates(folder: Path) -> Environment:
    """Return the templates of a room, and the parts that several rooms include."""
    return Environment(
        loader=FileSystemLoader([folder, _PARTS]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def save_figures(plots: Mapping[str, Figure], directory: Path) -> dict[str, str]:
    """Write figures as `directory/figures/NAME.png`; name -> path within the directory."""
    (directory / "figures").mkdir(exist_ok=True)
    for name, figure in plots.items():
        figure.savefig(directory / "figures" / f"{name}.png", dpi=DOTS_PER_INCH)
    return {name: f"figures/{name}.png" for name in plots}


def embedded(paths: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Pictures in base64, for a page that stands alone."""
    return {
        name: base64.b64encode((directory / path).read_bytes()).decode()
        for name, path in paths.items()
    }
