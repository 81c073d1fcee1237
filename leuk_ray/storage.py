"""Where datasets, runs and bundles lie: a local folder, s3:// or gs://.

Local results appear by rename, so nothing is ever half written. Object stores have no
rename: there the marker file of a format (dataset.json, bundle.json) is written last, and
a folder without its marker is not one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

from leuk_ray.errors import UserError


def filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow filesystem of a local path or an s3:// or gs:// address, and the path in it.

    Raises:
        UserError: for an address of another kind.
    """
    if "://" not in location:
        return fs.LocalFileSystem(), str(Path(location).absolute())
    try:
        return fs.FileSystem.from_uri(location)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{location}: cannot be opened ({error}); give a local path, s3:// or gs://"
        ) from error


def read_json(location: str) -> Any:
    """Read one JSON file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is not JSON.
    """
    files, path = filesystem(location)
    with files.open_input_stream(path) as stream:
        data = stream.read()
    try:
        return json.loads(data)
    except ValueError as error:
        raise UserError(f"{location}: is not valid JSON ({error}); make it anew") from error


def write_json(path: Path, value: Any) -> None:
    """Write one JSON file by rename, with sorted keys and no NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n")
    partial.replace(path)


def refuse_existing(location: Path, what: str) -> None:
    """Raise a UserError when something already lies where `what` is to be written."""
    if location.exists():
        raise UserError(
            f"{location}: exists already, and a {what} is never overwritten; "
            "name another place or remove it"
        )


@contextmanager
def directory_by_rename(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block succeeds.

    A folder left by a killed process is removed first, so the work can simply be run again.
    """
    partial = target.with_name(target.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror}); name a folder you may write to"
        ) from error
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(target)
    partial.replace(target)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_files(folder: Path, hashes: dict[str, str], names: Iterable[str]) -> None:
    """Raise a UserError unless each named file of a folder has the SHA-256 it is said to have."""
    for name in names:
        file = folder / name
        if name not in hashes or not file.is_file() or sha256(file) != hashes[name]:
            raise UserError(f"{file}: missing or changed since it was written; get the bundle anew")
