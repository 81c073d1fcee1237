"""Answers in the format of the C-NMC 2019 challenge: a ZIP archive with one digit a line.

Line n is image n.bmp of the final test set: 1 for ALL, 0 for healthy, in isbi_valid.predict.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence

import pyarrow as pa

from leuk_ray.io.locations import Location
from leuk_ray.io.storage import write_bytes
from leuk_ray.utils.errors import DataError

MEMBER = "isbi_valid.predict"
_NUMBERED = re.compile(r"(?:.*/)?(\d+)\.bmp", re.IGNORECASE)
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the same answers make the same bytes


def image_numbers(names: Sequence[str]) -> list[int]:
    """Read the numbers of `1.bmp` to `N.bmp`, in the order given.

    Raises:
        UserError: another name, or numbers that are not 1 to N, each once.
    """
    numbers = []
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            raise DataError(f"{name}: the challenge numbers its images, as 1.bmp; give that folder")
        numbers.append(int(match.group(1)))
    missing = sorted(set(range(1, len(numbers) + 1)) - set(numbers))
    if missing:
        raise DataError(
            f"{missing[0]}.bmp: is missing or another stands twice, of {len(numbers)} images; "
            "give the whole folder and nothing else"
        )
    return numbers


def write_challenge(out: Location, answers: pa.Table) -> None:
    """Write the archive, whole or not at all.

    An image without an answer counts as its probability says: the format knows no abstaining.

    Args:
        out: the archive.
        answers: in `answers.answers_schema`.

    Raises:
        UserError: an image could not be scored.
    """
    called: dict[int, int] = {}
    numbers = image_numbers(answers["name"].to_pylist())
    for number, row in zip(numbers, answers.to_pylist(), strict=True):
        if row["error"] is not None:
            raise DataError(f"{row['name']}: was not scored ({row['error']}); mend it first")
        called[number] = int(row["probability"] >= row["threshold"])
    text = "".join(f"{called[number]}\n" for number in sorted(called))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER, _FIRST_DAY), text)
    write_bytes(out, stream.getvalue())
