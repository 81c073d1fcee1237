"""Bundles on the Hugging Face hub: hf://owner/name, or hf://owner/name@revision.

A bundle is fetched once for each commit and read from there; loading verifies every file by the
hashes of bundle.json as ever. The hub is that of HF_ENDPOINT, the token that of HF_TOKEN.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from leuk_ray.bundles.manifest import CARD, MANIFEST, read_manifest
from leuk_ray.bundles.signature import SIGNATURE
from leuk_ray.io.hashes import sha256
from leuk_ray.io.locations import HUB, Location, reason
from leuk_ray.utils.errors import ConfigError, DataError, StorageError

_WORD = r"[A-Za-z0-9][\w.-]*"
_ADDRESS = re.compile(rf"hf://(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>{_WORD}(?:/{_WORD})*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a bundle holds; a pickle beside it stays where it is.
_FILES = [MANIFEST, CARD, SIGNATURE, "*.safetensors", "*.onnx", "*.parquet", "*.json", "members/*"]
_NEVER = ["*.py", "*.pkl", "*.pickle", "*.pt", "*.pth", "*.bin", "*.ckpt"]
# Its bases are the errors of the HTTP library that this version of the client uses.
_FAILURES: Any = (*HfHubHTTPError.__bases__, OSError, ValueError)
_HEADER = "---\nlibrary_name: leuk_ray\ntags: [leukemia, blood-cells, microscopy]\n---\n\n"


def is_on_hub(location: Location) -> bool:
    """Say whether it is an address of the hub."""
    return isinstance(location, str) and location.startswith(f"{HUB}://")


def fetch(address: str) -> Path:
    """Fetch a bundle of the hub, unless that commit is here and whole; returns its folder.

    Raises:
        ConfigError: it is no such address.
        DataError: the hub has no such bundle.
        StorageError: the hub cannot be reached, or refuses.
    """
    repo, revision = _parts(address)
    hub = HfApi()
    try:
        commit = revision
        if revision is None or not _COMMIT.fullmatch(revision):
            commit = hub.model_info(repo, revision=revision).sha
        owner, _, name = repo.partition("/")
        folder = Path(constants.HF_HOME) / "leuk_ray" / owner / str(commit) / name
        if not _is_whole(folder):
            if folder.exists():
                shutil.rmtree(folder)
            # bundle.json last: where it is, the others are.
            hub.snapshot_download(
                repo,
                revision=commit,
                local_dir=folder,
                allow_patterns=_FILES,
                ignore_patterns=[*_NEVER, MANIFEST],
            )
            hub.snapshot_download(
                repo, revision=commit, local_dir=folder, allow_patterns=[MANIFEST]
            )
    except _FAILURES as error:
        raise _refusal(address, error) from error
    if not (folder / MANIFEST).exists():
        raise DataError(f"{address}: holds no bundle (no {MANIFEST})")
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the files that bundle.json names are there and have its hashes."""
    try:
        files = read_manifest(folder).files
        return all(sha256(folder / name) == expected for name, expected in files.items())
    except (DataError, OSError):
        return False


def upload(bundle: Path, address: str) -> str:
    """Put a verified bundle on the hub as a commit; earlier commits stay.

    Returns:
        The address with the commit, by which anybody reads exactly this bundle.

    Raises:
        ConfigError: it is no address of the hub, or names a revision.
        StorageError: the hub cannot be reached, or refuses.
    """
    repo, revision = _parts(address)
    if revision is not None:
        raise ConfigError(f"{address}: a bundle is put on the main branch; leave out @{revision}")
    card = bundle / "README.md"  # what the hub shows
    card.write_text(_HEADER + (bundle / CARD).read_text())
    try:
        hub = HfApi()
        hub.create_repo(repo, exist_ok=True)
        done = hub.upload_folder(repo_id=repo, folder_path=bundle, ignore_patterns=_NEVER)
    except _FAILURES as error:
        raise _refusal(address, error) from error
    finally:
        card.unlink()
    return f"{HUB}://{repo}@{done.oid}"


def _parts(address: str) -> tuple[str, str | None]:
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ConfigError(f"{address}: write hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    return found["repo"], found["revision"]


def _refusal(address: str, error: Exception) -> DataError | StorageError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return StorageError(f"{address}: the hub refuses it ({status}); set HF_TOKEN")
    if status == 404:
        return DataError(f"{address}: the hub has no such repository or revision")
    text = f"status {status}" if status else reason(error)
    return StorageError(
        f"{address}: the hub cannot be reached ({text[:160]}); offline, give the commit of one "
        "that was fetched before, or the folder of a bundle"
    )
