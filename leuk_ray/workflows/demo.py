"""The whole path on rendered cells, from image files to a report, a bundle and an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.audit import audit_cells
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.io.storage import refuse_existing
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.utils.progress import bar
from leuk_ray.workflows.train import train_and_evaluate

WORKERS = 2


def run_demo(out: Path) -> dict[str, Any]:
    """Synth, prepare, audit, train, evaluate, answer; every result lies under `out`.

    Returns:
        What the summary says, as plain values.

    Raises:
        UserError: `out` exists.
    """
    refuse_existing(out, "demo")
    recipe = load_recipe("lite")
    ray_cluster.connect(num_workers=WORKERS)
    with bar("synth: rendering cells", "cell") as progress:
        made = write_c_nmc(out / "images", SyntheticSpec(), progress)
    with bar("prepare: decoding", "cell") as progress:
        # Stored at the size the network takes, so nothing is resized twice.
        storage = StorageSettings(size=recipe.model.input_size)
        prepare(out / "images", out / "dataset", "c-nmc", storage, progress)
    dataset = PreparedDataset.open(str(out / "dataset"))
    audit = audit_cells(dataset.cells, dataset.classes)
    report = train_and_evaluate(recipe, dataset, out / "run", workers=WORKERS)
    bundle = out / "run" / "bundle"
    image = next((out / "images").rglob("*.bmp"))
    (answer,) = Classifier.load(bundle).predict([(image.name, image.read_bytes())])
    assert isinstance(answer, Prediction)
    return {
        "synthetic": True,
        "best_auc": made["best_auc"],
        "audit": audit,
        "report": report.model_dump(mode="json"),
        "paths": {
            "report": str(out / "run" / "report" / "report.html"),
            "bundle": str(bundle),
            "dataset": str(out / "dataset"),
            "image": str(image),
        },
        "answer": answer.as_dict(),
    }
