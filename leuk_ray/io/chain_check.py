"""Reading chains of JSON lines (`io.chain`), and finding what was done to them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from leuk_ray.io.chain import NOTHING
from leuk_ray.io.storage import read_json
from leuk_ray.utils.errors import DataError, StorageError

_FILE = re.compile(r"(\d{8}T\d{6}Z-[0-9a-f]{8})(?:\.(\d{6})\.jsonl|\.head)")
_END = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n')
_END_BYTES = len(b',"sha256":""}\n') + 64
_HEAD = re.compile(rb"(\d{12}) ([0-9a-f]{64})\n")


class Mark(BaseModel):
    """Where a chain stood: number and hash of a line."""

    name: str
    lines: int
    sha256: str


class _Verified(BaseModel):
    """What `verify` gave before, as its JSON."""

    chains: list[Mark]


@dataclass
class Chain:
    """A chain as it was found.

    lines: that are whole. sha256: of the last one. state: `closed` by its writer; `open`, being
    written; `ended` without being closed, as when the process was killed. torn: bytes of a last
    line that was not finished, of an answer that was not given. problems: what was done to it.
    """

    name: str
    files: int = 0
    lines: int = 0
    sha256: str = NOTHING
    state: Literal["closed", "open", "ended"] = "ended"
    torn: int = 0
    problems: list[str] = field(default_factory=list)


def read_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Lines of all chains of a folder that can be read, file by file; none is verified.

    Raises:
        UserError: there is no such folder, or no chain in it.
    """
    for files in _found(folder).values():
        for path in files:
            yield from filter(None, (_parsed(line) for _, line in _numbered(path)))


def verify(folder: Path, before: Path | None = None) -> list[Chain]:
    """Check all chains of a folder, and name what is missing or changed.

    A chain proves nothing against who can write all of it anew, but for what was noted elsewhere.

    Args:
        folder: of chains.
        before: the JSON of an earlier verification: its chains must go on from where they stood.

    Raises:
        UserError: there is no such folder, no chain in it, or `before` cannot be read.
    """
    marks: dict[str, Mark] = {}
    if before is not None:
        try:
            noted = _Verified.model_validate(read_json(before))
        except (OSError, ValidationError) as error:
            raise DataError(f"{before}: is no output of an earlier verify --json") from error
        marks = {mark.name: mark for mark in noted.chains}
    found = _found(folder, marks)
    return [_verify(folder, name, files, marks.get(name)) for name, files in found.items()]


def _found(folder: Path, known: Mapping[str, Mark] | None = None) -> dict[str, list[Path]]:
    """Files of each chain, in order; chains of which only a head or a mark is left have none."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise StorageError(f"{folder}: cannot be read ({error.strerror})") from error
    found: dict[str, list[Path]] = {name: [] for name in known or ()}
    for path in paths:
        if match := _FILE.fullmatch(path.name):
            files = found.setdefault(match[1], [])
            if match[2]:
                files.append(path)
    if not found:
        raise DataError(f"{folder}: holds no trace; `serve --trace` writes one")
    return found


def _verify(folder: Path, name: str, files: list[Path], mark: Mark | None) -> Chain:
    chain = Chain(name, files=len(files))
    head = folder / f"{name}.head"
    last, writing = _read_head(head, chain)  # before the lines, of which more may come
    _check_files(name, files, chain)
    marked, kind = mark is None, ""
    for path in files:
        for at, line in _numbered(path):
            if not line.endswith(b"\n"):
                chain.torn = len(line)
                if path != files[-1]:
                    chain.problems.append(f"{path.name}, line {at}: is cut off")
                continue
            kind = _follow(chain, line, f"{path.name}, line {at}")
            marked = marked or Mark(name=name, lines=chain.lines, sha256=chain.sha256) == mark
    chain.state = "open" if writing else "closed" if kind == "closed" else "ended"
    if last is not None and files:
        number, digest = last
        if number > chain.lines:
            what = f"ends with line {chain.lines} of the chain, {number} were written"
            chain.problems.append(f"{files[-1].name}: {what}")
        elif number == chain.lines and chain.sha256 and digest != chain.sha256:
            chain.problems.append(f"{files[-1].name}: its last line was replaced")
        elif number < chain.lines - (chain.state != "closed") and not writing:
            chain.problems.append(f"{head.name}: names line {number}, but there are {chain.lines}")
    if not marked and mark is not None:
        chain.problems.append(f"{name}: line {mark.lines} is not that of the earlier verification")
    return chain


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        yield from enumerate(stream, 1)


def _read_head(path: Path, chain: Chain) -> tuple[tuple[int, str] | None, bool]:
    """Return number and hash of the last line, and whether it is being written."""
    try:
        with path.open("rb") as stream:
            match = _HEAD.fullmatch(stream.read())
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                writing = False
            except BlockingIOError:
                writing = True
    except OSError:
        chain.problems.append(f"{path.name}: is missing or cannot be read")
        return None, False
    if match is None:
        chain.problems.append(f"{path.name}: is damaged")
        return None, writing
    return (int(match[1]), match[2].decode()), writing


def _check_files(name: str, files: list[Path], chain: Chain) -> None:
    numbers = [int(path.name.split(".")[1]) for path in files]
    if not numbers:
        chain.problems.append(f"{name}: all of its files are missing")
        return
    for before, after in pairwise([0, *numbers]):
        chain.problems += [f"{name}.{n:06d}.jsonl: is missing" for n in range(before + 1, after)]


def _follow(chain: Chain, line: bytes, where: str) -> str:
    """Take the next line; returns its kind."""
    match = _END.fullmatch(line[-_END_BYTES:])
    body = line[:-_END_BYTES] + b"}"
    value = _parsed(line)
    if match is None or value is None or hashlib.sha256(body).hexdigest() != match[1].decode():
        chain.problems.append(f"{where}: was changed")
        chain.lines += 1
        chain.sha256 = ""
        return ""
    number, previous = value.get("number"), value.get("previous")
    if number != chain.lines + 1:
        chain.problems.append(f"{where}: is number {number} of the chain, {chain.lines + 1} is due")
    elif previous != chain.sha256 and chain.sha256:
        chain.problems.append(f"{where}: does not follow the line before it, which was replaced")
    chain.lines = number if isinstance(number, int) else chain.lines + 1
    chain.sha256 = match[1].decode()
    return str(value.get("kind"))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
