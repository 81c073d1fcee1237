"""Signatures of bundles by OpenSSH keys: who vouches for what bundle.json names.

A hash says that nothing changed since bundle.json was written; a signature says who wrote it.
It lies beside bundle.json, which holds the hashes of all other files, so that it covers them.
Keys, passphrases and hardware tokens are those that `ssh-keygen -Y sign` knows (OpenSSH 8.1).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from leuk_ray.bundles.manifest import MANIFEST
from leuk_ray.utils.errors import ConfigError, DataError, UserError

SIGNATURE = f"{MANIFEST}.sig"
_NAMESPACE = "leuk_ray"  # a signature made for something else is none of a bundle


def sign(folder: Path, key: Path) -> None:
    """Sign the bundle in a folder.

    Args:
        folder: of a bundle that is complete.
        key: an OpenSSH private key, or the public one of a key that an agent holds.

    Raises:
        UserError: no such key, or it cannot be used.
    """
    if not key.is_file():
        raise ConfigError(f"--sign {key}: no such file; make a key: ssh-keygen -t ed25519 -f KEY")
    done = _ssh_keygen("sign", "-f", key, "-n", _NAMESPACE, "-q", folder / MANIFEST)
    if done.returncode != 0:
        raise ConfigError(f"--sign {key}: cannot be signed with ({_said(done)})")


def signer(folder: Path, trusted: Path) -> str:
    """Verify the signature of the bundle in a folder, and return whose it is.

    Args:
        folder: of the bundle.
        trusted: lines of NAME and a public key, as OpenSSH's ALLOWED SIGNERS files have them.

    Raises:
        UserError: no signature, another bundle's, or of nobody in `trusted`.
    """
    if not trusted.is_file():
        raise ConfigError(f"--trusted {trusted}: no such file; give lines of NAME and a public key")
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise DataError(f"{folder}: is not signed; sign it: leuk-ray export BUNDLE NEW --sign KEY")
    found = _ssh_keygen("find-principals", "-s", signature, "-f", trusted)
    names = found.stdout.decode(errors="replace").split("\n")
    name = names[0].strip()
    if found.returncode != 0 or not name:
        raise DataError(f"{folder}: is signed by nobody in {trusted}; do not use it")
    verified = _ssh_keygen(
        "verify", "-f", trusted, "-I", name, "-n", _NAMESPACE, "-s", signature,
        data=(folder / MANIFEST).read_bytes(),
    )  # fmt: skip
    if verified.returncode != 0:
        raise DataError(f"{folder}: its signature is not of this bundle.json; do not use it")
    return name


def _ssh_keygen(
    action: str, *arguments: object, data: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise UserError("ssh-keygen: is not installed; signatures need OpenSSH 8.1 or newer")
    command = [program, "-Y", action, *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=False)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[0][:200] if lines else f"ssh-keygen ended with {done.returncode}"
