"""The documentation: `make docs` builds it strictly into site/."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

from leuk_ray import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "leuk_ray"
copyright = "the authors of leuk_ray"
release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["reference/*.md.in"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"leuk_ray {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
nitpicky = True


def setup(app: Sphinx) -> None:
    """Make the pages that come from the code before Sphinx reads any."""
    from made_pages import write_made_pages

    app.connect("builder-inited", lambda app: write_made_pages(HERE))
