"""Reading and writing datasets, runs and bundles, in a local folder or an object store.

Local results appear by rename, so nothing is ever half written. Object stores have no rename:
there an object NAME.partial, which names the writer, lies beside an unfinished folder, and the
marker file of a format (dataset.json, bundle.json) is written last: a folder without its marker is
not one.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from leuk_ray.io.folders import appearing, has_no_room, not_written
from leuk_ray.io.locations import Location, filesystem, join, name_of, reason
from leuk_ray.utils import scratch
from leuk_ray.utils.errors import DataError, StorageError, UserError, restated
from leuk_ray.utils.parsing import parse_json

_CHUNK = 2**22
_MARKS = (".json", ".yaml")  # what makes a folder a dataset, a bundle, a run; written last


def exists(location: Location) -> bool:
    """Say whether something lies there: a file, a folder, an object or what objects begin with."""
    files, path = filesystem(location)
    try:
        return files.get_file_info(path).type != fs.FileType.NotFound
    except OSError as error:
        raise StorageError(f"{location}: cannot be reached ({reason(error)})") from error


def is_file(location: Location) -> bool:
    """Say whether a file or an object lies there."""
    files, path = filesystem(location)
    try:
        return files.get_file_info(path).type == fs.FileType.File
    except OSError as error:
        raise StorageError(f"{location}: cannot be reached ({reason(error)})") from error


def read_bytes(location: Location, limit: int | None = None) -> bytes:
    """Return the content of a file, or its first `limit` bytes.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    files, path = filesystem(location)
    with files.open_input_stream(path) as stream:
        return stream.read(limit)


def write_bytes(location: Location, data: bytes | pa.Buffer) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if isinstance(location, Path):
            # A name of this writer's own: two never write one file.
            partial = location.with_name(f"{location.name}.{secrets.token_hex(4)}.partial")
            try:
                partial.write_bytes(data)
                partial.replace(location)
            finally:
                partial.unlink(missing_ok=True)
        else:
            files, path = filesystem(location)
            with files.open_output_stream(path) as stream:
                stream.write(data)
    except OSError as error:
        raise not_written(location, error) from error


def read_json(location: Location, max_bytes: int | None = None) -> Any:
    """Read one JSON file, of at most `max_bytes` where that is given.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read, is not JSON, or is larger or deeper than such a file is.
    """
    try:
        data = read_bytes(location, None if max_bytes is None else max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StorageError(f"{location}: cannot be read ({reason(error)})") from error
    if max_bytes is not None and len(data) > max_bytes:
        raise DataError(f"{location}: is larger than {max_bytes:,} bytes; get it anew")
    return parse_json(data, location)


def write_json(location: Location, value: Any) -> None:
    """Write one JSON file whole or not at all, with sorted keys and no NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_bytes(location, (text + "\n").encode())


def read_table(location: Location) -> pa.Table:
    """Read one Parquet file."""
    files, path = filesystem(location)
    return pq.read_table(path, filesystem=files)


def write_table(location: Location, table: pa.Table) -> None:
    """Write one small table as Parquet, whole or not at all."""
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream)
    write_bytes(location, stream.getvalue())


def refuse_existing(location: Location, what: str) -> None:
    """Raise a UserError when something already lies where `what` is to be written."""
    unfinished = not isinstance(location, Path) and exists(_beside(location))
    if exists(location) and not unfinished:
        article = "an" if what[0] in "aeiou" else "a"
        raise UserError(
            f"{location}: exists already, and {article} {what} is never overwritten; "
            "name another place or remove it"
        )


@contextmanager
def directory_by_rename(target: Location, new: str | None = None) -> Generator[Path]:
    """Return a local folder to fill, which lies complete at `target` when the block succeeds.

    Beside a local target, so that it only has to be renamed (see `folders`). For an object store,
    what lay at the target is removed first, and the folder uploaded at the end. Nothing is left of
    a block that fails, and what a killed process left is removed, so the work can simply be run
    again.

    Args:
        target: the folder to make.
        new: what it holds, where nothing may lie there; None replaces what does.

    Raises:
        UserError: it cannot be written, there is no room, another process is writing it, or it
            must be new and is there.
    """

    def check() -> None:
        if new is not None:
            refuse_existing(target, new)

    try:
        if isinstance(target, Path):
            with appearing(target, check) as folder:
                yield folder
        else:
            check()
            with _uploaded(target) as folder:
                yield folder
    except Exception as error:
        full = next((seen for seen in _causes(error) if has_no_room(seen)), None)
        if full is None:
            raise
        raise not_written(target, full) from error


@contextmanager
def _uploaded(target: str) -> Generator[Path]:
    """Name the writer in a marker beside the target: of two, the one that came last finishes."""
    unfinished, owner = _beside(target), secrets.token_hex(16).encode()
    write_bytes(unfinished, owner)

    def check() -> None:
        if not is_file(unfinished) or read_bytes(unfinished) != owner:
            raise StorageError(
                f"{target}: another process writes it too; this one published nothing. Wait for "
                "that one, or name another place"
            )

    try:
        remove(target)
        with scratch.temporary("upload") as folder:
            yield folder
            upload(folder, target, check)
        check()
    except BaseException:
        with suppress(UserError, OSError):
            check()  # what is another writer's stays
            remove(target)
            finish(target)
        raise
    finish(target)


def upload(folder: Path, target: Location, check: Callable[[], None] = lambda: None) -> None:
    """Copy the files of a local folder: deepest first, then what marks its format.

    Args:
        folder: what to copy.
        target: where to.
        check: called before each file, and before the marks: JSON and YAML in the folder itself.

    Raises:
        UserError: one cannot be written, or is not there when the marks are to follow.
    """
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    marks = [path for path in found if len(path.parts) == 1 and path.suffix in _MARKS]
    others = sorted({*found} - {*marks}, key=lambda path: (-len(path.parts), path))
    for path in others:
        check()
        _upload(folder, path, target)
    check()
    files, root = filesystem(target)
    infos = files.get_file_info([f"{root}/{path.as_posix()}" for path in others])
    for info, path in zip(infos, others, strict=True):
        if info.size != (folder / path).stat().st_size:
            place = join(target, path.as_posix())
            raise StorageError(f"{place}: was changed while it was written; run the command again")
    for path in sorted(marks, key=lambda path: (_MARKS.index(path.suffix), path)):
        _upload(folder, path, target)


def _upload(folder: Path, path: Path, target: Location) -> None:
    files, root = filesystem(target)
    try:
        with (
            (folder / path).open("rb") as source,
            files.open_output_stream(f"{root}/{path.as_posix()}") as stream,
        ):
            shutil.copyfileobj(source, stream, _CHUNK)
    except OSError as error:
        raise not_written(join(target, path.as_posix()), error) from error


def remove(location: Location) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    files, path = filesystem(location)
    kind = files.get_file_info(path).type
    with suppress(FileNotFoundError):  # another process removes it too
        if kind == fs.FileType.Directory:
            files.delete_dir(path)
        elif kind != fs.FileType.NotFound:
            files.delete_file(path)


def finish(location: Location) -> None:
    """Remove the mark of an unfinished folder in an object store from beside a finished one."""
    if not isinstance(location, Path):
        remove(_beside(location))


def make_folder(location: Location) -> None:
    """Make a folder and those above it, where they are missing; object stores need none.

    Raises:
        UserError: it cannot be made.
    """
    if isinstance(location, Path):
        try:
            location.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(location, error) from error


@contextmanager
def fetched(location: Location) -> Generator[Path]:
    """Return a file or folder itself where it is local, else a copy for as long as the block runs.

    Raises:
        UserError: it cannot be read, or an object's name leads out of the folder.
    """
    if isinstance(location, Path):
        yield location
        return
    with scratch.temporary("fetched") as folder:
        copy = folder / name_of(location)
        if is_file(location):
            copy.write_bytes(read_bytes(location))
        else:
            download(location, copy)
        try:
            yield copy
        except UserError as error:
            raise restated(error, str(error).replace(str(copy), location)) from error


def download(folder: str, target: Path) -> None:
    """Copy what lies in a folder of an object store into a local folder.

    Raises:
        UserError: it cannot be read, or an object's name leads out of the folder.
    """
    for name in list_files(folder):
        if name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise DataError(f"{folder}: holds {name!r}, whose name leads out of it; remove it")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        files, path = filesystem(join(folder, name))
        with files.open_input_stream(path) as source, (target / name).open("wb") as stream:
            shutil.copyfileobj(source, stream, _CHUNK)


def list_files(folder: Location) -> list[str]:
    """Names of all files in a folder and the folders in it, relative to it, sorted.

    Raises:
        UserError: it cannot be read.
    """
    return list(file_infos(folder))


def file_infos(folder: Location) -> dict[str, fs.FileInfo]:
    """List files as `list_files` does, with what is known of each.

    Raises:
        UserError: it cannot be read.
    """
    files, root = filesystem(folder)
    selector = fs.FileSelector(root, allow_not_found=True, recursive=True)
    try:
        found = files.get_file_info(selector)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be read ({reason(error)})") from error
    infos = {info.path[len(root) + 1 :]: info for info in found if info.type == fs.FileType.File}
    return dict(sorted(infos.items()))


def _beside(target: str) -> str:
    """Return the object that says that `target` is unfinished."""
    address, mark, query = target.partition("?")
    return f"{address.rstrip('/')}.partial{mark}{query}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return an error and what it came from, also where it crossed from a worker of Ray."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "cause", None) or seen.__cause__
