"""An ensemble is judged and asked like any bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from leuk_ray.bundles.bundle import write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.cli.main import cli
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.engines import score_images
from leuk_ray.inference.predictions import Prediction
from leuk_ray.models.network import ImageClassifier
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.workflows.evaluate import evaluate
from leuk_ray.workflows.pool import Pool


@torch.no_grad()
def decide_both_ways(model: ImageClassifier, dataset: PreparedDataset) -> None:
    """Shift and scale the last layer so that log-odds have median 0 and SD 2."""
    pixels = torch.from_numpy(dataset.reader().read(np.arange(len(dataset.cells))))
    logits = score_images(model, pixels.permute(0, 3, 1, 2))[0]
    last = model.get_submodule("head.classifier")
    scale = (2 / logits.std()).item()
    last.weight.mul_(scale)  # pyright: ignore[reportCallIssue]
    last.bias.sub_(logits.median().item()).mul_(scale)  # pyright: ignore[reportCallIssue]


@pytest.fixture(scope="module")
def members(dataset: PreparedDataset, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("members")
    for seed, attention in enumerate(("se", "none", "none")):
        settings = ModelSettings(
            architecture="se_cnn", attention=attention, filters=(4, 6, 8), reduction=2,
            input_size=40, weights="scratch",
        )  # fmt: skip
        torch.manual_seed(seed)
        model = build(settings, load_weights=True).eval()
        decide_both_ways(model, dataset)
        manifest = ModelManifest(
            model=settings, storage=dataset.storage, temperature=1.0 + seed, synthetic=True,
            protocol="subject-disjoint", dataset_fingerprint=dataset.manifest["fingerprint"],
            recipe=f"m{seed}", seed=seed,
        )  # fmt: skip
        write_bundle(folder / f"m{seed}", manifest, model)
    return [folder / f"m{seed}" for seed in range(3)]


@pytest.mark.parametrize("rule", ["soft", "majority"])
def test_it_is_evaluated_and_predicts_as_its_members_vote(
    rule: str, members, dataset: PreparedDataset, cells_folder: Path, tmp_path: Path
):
    voted = tmp_path / "voted"
    done = CliRunner().invoke(
        cli, ["ensemble", str(voted), *map(str, members), "--rule", rule, "--json"]
    )
    assert done.exit_code == 0, done.output
    pixels = dataset.reader().read(np.arange(len(dataset.cells)))
    each = np.stack([Classifier.load(path).score(pixels).probability for path in members])
    votes = (each >= 0.5).astype(float) if rule == "majority" else each
    expected = votes.mean(axis=0)
    labels = np.asarray(dataset.cells["label"].to_pylist())
    assert 0 < (expected >= 0.5).sum() < len(labels), "both answers occur"

    report = evaluate(
        EvaluationTarget.at(voted), dataset, tmp_path / "report", pool=Pool(2), show_images=False
    )
    metrics = report.tested
    assert metrics is not None
    counts = metrics["confusion"]
    assert metrics["cells"] == len(labels)
    assert counts["tp"] + counts["tn"] == ((expected >= 0.5) == labels).sum()
    # Majority votes tie; their log-odds stay finite and keep the order.
    assert metrics["auc"]["value"] == pytest.approx(roc_auc_score(labels, expected), abs=1e-6)
    assert report.run.config["rule"] == rule

    uid, path = next((path.stem, path) for path in sorted(cells_folder.rglob("*.bmp")))
    (answer,) = Classifier.load(voted).predict([(uid, path.read_bytes())])
    assert isinstance(answer, Prediction)
    row = dataset.cells["uid"].to_pylist().index(uid)
    # One image or 121 at once: float32 sums in another order, times the scaled last layer.
    assert answer.probability == pytest.approx(expected[row], abs=1e-4)
