"""Every block of the documentation that is marked `bash` or `python`, run page by page in order.

On demand, about 10 minutes: `make test-docs`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.readme_blocks import FENCE, blocks

DOCS = Path(__file__).parents[2] / "docs"
BIN = Path(sys.executable).parent
RUN = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
WRITTEN = [page for page in sorted(DOCS.rglob("*.md")) if "/reference/" not in str(page)]
PAGES = [page for page in WRITTEN if blocks(page, "bash") or blocks(page, "python")]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path):
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    ran = 0
    for _, language, text in FENCE.findall(page.read_text()):
        if language not in RUN:
            continue
        done = subprocess.run(
            [*RUN[language], text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr[-3000:]}"
        ran += 1
    assert ran
