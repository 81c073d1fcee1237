"""Bundles signed with OpenSSH keys: who is believed, and what a signature covers."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from leuk_ray.bundles.bundle import derive_bundle, open_bundle, write_ensemble
from leuk_ray.bundles.registry import Registry
from leuk_ray.bundles.signature import SIGNATURE, signer
from leuk_ray.cli.main import cli
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.serving.sources import open_source
from leuk_ray.utils.errors import UserError
from tests.support.serving_bundles import models_from, write_small_bundle

pytestmark = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed"
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """Keys `ours` and `theirs`, and the file `trusted`, which names ours."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name]
        subprocess.run(command, check=True)
    (folder / "trusted").write_text(f"lab@example.org {(folder / 'ours.pub').read_text()}")
    return folder


@pytest.fixture(scope="module")
def signed(keys: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_small_bundle(folder / "small")
    export_bundle(folder / "small", folder / "signed", onnx=False, key=keys / "ours")
    return folder / "signed"


def test_a_signed_bundle_names_its_signer_and_loads(signed: Path, keys: Path):
    assert signer(signed, keys / "trusted") == "lab@example.org"
    Classifier.load(signed, trusted=keys / "trusted")
    Classifier.load(signed)  # nobody asked


def unsigned(copy: Path, keys: Path) -> None:
    (copy / SIGNATURE).unlink()


def another_threshold(copy: Path, keys: Path) -> None:
    """What a hash cannot show: bundle.json itself is another."""
    manifest = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(manifest | {"threshold": 0.9}))


def signed_by_another(copy: Path, keys: Path) -> None:
    (copy / SIGNATURE).unlink()
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-f", keys / "theirs", "-n", "leuk_ray"]
    subprocess.run([*sign, copy / "bundle.json"], check=True)


def signed_for_something_else(copy: Path, keys: Path) -> None:
    (copy / SIGNATURE).unlink()
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-f", keys / "ours", "-n", "git"]
    subprocess.run([*sign, copy / "bundle.json"], check=True)


def no_signature(copy: Path, keys: Path) -> None:
    (copy / SIGNATURE).write_text("no signature")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unsigned, "is not signed"),
        (another_threshold, r"not of this bundle\.json"),
        (signed_by_another, "signed by nobody in"),
        (signed_for_something_else, r"not of this bundle\.json"),
        (no_signature, "signed by nobody in"),
    ],
)
def test_whom_nobody_vouches_for_is_refused_everywhere(
    change, message: str, signed: Path, keys: Path, tmp_path: Path
):
    copy, trusted = tmp_path / "copy", keys / "trusted"
    shutil.copytree(signed, copy)
    change(copy, keys)
    for refuse in (
        lambda: Classifier.load(copy, trusted=trusted),
        lambda: Registry(tmp_path / "models", check_answers).add(copy, "cells", trusted=trusted),
        lambda: open_source(copy, trusted),
        lambda: models_from(copy, trusted=str(trusted)),
    ):
        with pytest.raises(UserError, match=message):
            refuse()
    predicting = ["predict", str(copy), str(tmp_path), "--trusted", str(trusted)]
    assert re.search(message, str(CliRunner().invoke(cli, predicting).exception))


def test_a_registry_keeps_a_signature_or_makes_one(signed: Path, keys: Path, tmp_path: Path):
    registry = Registry(tmp_path / "models", check_answers)
    registry.add(signed, "cells", trusted=keys / "trusted")
    registry.add(signed.parent / "small", "cells", key=keys / "ours")
    for version in (1, 2):
        open_bundle(registry.resolve(f"cells@{version}"), keys / "trusted")


def test_what_is_made_from_a_signed_bundle_is_not_signed(signed: Path, keys: Path, tmp_path: Path):
    derive_bundle(open_bundle(signed), tmp_path / "changed", changes={"threshold": 0.9})
    shutil.copytree(signed, tmp_path / "twin")
    write_ensemble(tmp_path / "voted", [signed, tmp_path / "twin"], "soft")
    for made in ("changed", "voted"):
        with pytest.raises(UserError, match="is not signed"):
            open_bundle(tmp_path / made, keys / "trusted")


def test_keys_that_are_not_there_are_one_line_and_nothing_is_written(signed: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no such file; make a key: ssh-keygen"):
        export_bundle(signed, tmp_path / "copy", onnx=False, key=tmp_path / "none")
    (tmp_path / "bad").write_text("no key")
    (tmp_path / "bad").chmod(0o600)
    with pytest.raises(UserError, match="cannot be signed with"):
        export_bundle(signed, tmp_path / "copy", onnx=False, key=tmp_path / "bad")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(UserError, match="give lines of NAME and a public key"):
        open_bundle(signed, tmp_path / "none")
