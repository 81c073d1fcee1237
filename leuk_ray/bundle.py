"""A bundle: a trained classifier as a folder that any machine can load and nothing can run.

    model.safetensors   weights and buffers
    bundle.json         architecture by name, preprocessing, decision, origin, sha256 of files
    MODEL_CARD.md       for people

Loading checks every hash, builds the architecture from a closed list, and needs no network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from safetensors.torch import load_model, save_model
from torch import nn

from leuk_ray.errors import UserError
from leuk_ray.images import StorageSettings
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.settings import Settings
from leuk_ray.storage import directory_by_rename, read_json, write_json

SCHEMA_VERSION = 1


class BundleFacts(Settings):
    """The content of bundle.json.

    temperature: divides the log-odds before the sigmoid.
    threshold: probability from which on a cell is called ALL.
    """

    schema_version: int = SCHEMA_VERSION
    model: ModelSettings
    storage: StorageSettings
    classes: tuple[str, str] = ("healthy", "ALL")
    temperature: float = Field(default=1.0, gt=0)
    threshold: float = Field(default=0.5, ge=0, le=1)
    synthetic: bool
    protocol: str
    dataset_fingerprint: str
    recipe: str
    seed: int
    metrics: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its facts and its network in eval mode on the CPU."""

    path: Path
    facts: BundleFacts
    model: nn.Module


def write_bundle(target: Path, facts: BundleFacts, model: nn.Module) -> None:
    """Write a bundle; an existing one is replaced in one step."""
    with directory_by_rename(target) as partial:
        save_model(model, str(partial / "model.safetensors"))
        (partial / "MODEL_CARD.md").write_text(_model_card(facts))
        names = ("model.safetensors", "MODEL_CARD.md")
        files = {name: _sha256(partial / name) for name in names}
        complete = facts.model_copy(update={"files": files})
        write_json(partial / "bundle.json", complete.model_dump(mode="json"))


def load_bundle(path: Path) -> Bundle:
    """Verify and load a bundle.

    Raises:
        UserError: no bundle there, a file missing or changed, or an unknown architecture.
    """
    facts = read_facts(path)
    for name in ("model.safetensors", "MODEL_CARD.md"):
        file = path / name
        if name not in facts.files or not file.is_file() or _sha256(file) != facts.files[name]:
            raise UserError(f"{file}: missing or changed since it was written; get the bundle anew")
    model = build(facts.model, load_weights=False)
    load_model(model, path / "model.safetensors")
    return Bundle(path, facts, model.eval())


def read_facts(path: Path) -> BundleFacts:
    """Read bundle.json without loading the network."""
    try:
        return BundleFacts(**read_json(str(path / "bundle.json")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: is no bundle (no bundle.json); give a run's bundle/") from error
    except (ValidationError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path}/bundle.json: not understood ({first}); make it anew") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _model_card(facts: BundleFacts) -> str:
    data = "SYNTHETIC, rendered cells" if facts.synthetic else "microscope images"
    return f"""# Model card

Classifies one stained cell as leukemic blast (ALL) or healthy.
**For research. Not a medical device, not a diagnosis.**

- Network: {facts.model.backbone}, attention {facts.model.attention}
- Input: {facts.model.input_size} px
- Trained on: {data}; dataset fingerprint `{facts.dataset_fingerprint}`
- Protocol: {facts.protocol}; recipe {facts.recipe}, seed {facts.seed}
- Expects: one cell in {facts.storage.crop} crop, stored at {facts.storage.size} px
- Decision: ALL from probability {facts.threshold:g} on, temperature {facts.temperature:g}

Counts and intervals are in the report of the run that made it.
"""
