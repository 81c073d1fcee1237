"""Where something lies: a Path, or the address of an object store, s3:// or gs://, as text.

Credentials come from the environment (AWS_ACCESS_KEY_ID and so on, or the machine's role),
as does the server (AWS_ENDPOINT_URL), unless the address says
`s3://bucket/folder?endpoint_override=host:port&scheme=http`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from pyarrow import fs

from leuk_ray.utils.errors import ConfigError, StorageError

Location = Path | str

HUB = "hf"  # of bundles alone; see `bundles.hub`
_SCHEMES = ("s3", "gs", HUB)


def parse(text: str) -> Location:
    """Parse what a user typed: a local path, or an s3:// or gs:// address, which stays text.

    Raises:
        UserError: for an address of another kind, or one that carries a secret.
    """
    if "://" not in text:
        return Path(text)
    scheme, _, rest = text.partition("://")
    key = rest.partition("/")[0].rpartition("@")[0]
    if key not in ("", "anonymous") or "secret_key=" in rest:
        raise ConfigError(
            f"{scheme}:// address with a key in it: addresses are shown and saved; put keys into "
            "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if scheme not in _SCHEMES or not rest.partition("/")[0]:
        raise ConfigError(f"{text}: cannot be opened; give a local path, s3:// or gs://")
    return text


def join(folder: Location, *names: str) -> Location:
    """Return the location of something in a folder."""
    if isinstance(folder, Path):
        return folder.joinpath(*names)
    address, mark, query = folder.partition("?")
    return "/".join([address.rstrip("/"), *names]) + mark + query


def parent(location: Location) -> Location:
    """Return the folder that something lies in."""
    if isinstance(location, Path):
        return location.parent
    address, mark, query = location.partition("?")
    return address.rstrip("/").rpartition("/")[0] + mark + query


def name_of(location: Location) -> str:
    """Return the last part of a location."""
    if isinstance(location, Path):
        return location.name
    return location.partition("?")[0].rstrip("/").rpartition("/")[2]


def filesystem(location: Location) -> tuple[fs.FileSystem, str]:
    """Return the pyarrow filesystem of a location, and the path in it.

    Raises:
        UserError: the address cannot be opened.
    """
    location = parse(str(location))
    if isinstance(location, Path):
        return fs.LocalFileSystem(), str(location.absolute())
    address, mark, query = location.partition("?")
    scheme, _, path = address.partition("://")
    if scheme == HUB:
        raise ConfigError(f"{location}: the hub has bundles alone; give a path, s3:// or gs://")
    bucket = path.partition("/")[0]
    try:
        return _object_store(f"{scheme}://{bucket}{mark}{query}"), path.rstrip("/")
    except (OSError, ValueError) as error:
        raise StorageError(f"{location}: cannot be opened ({reason(error)})") from error


@lru_cache(maxsize=16)
def _object_store(bucket: str) -> fs.FileSystem:
    return fs.FileSystem.from_uri(bucket)[0]


def reason(error: BaseException) -> str:
    """Say what went wrong, in one line and without the number of a request."""
    number = getattr(error, "errno", None)
    text = os.strerror(number) if number else str(error)
    return " ".join(str(text).split()).partition(" (Request ID")[0]
