"""An untrained `lite` at 224 px with its ONNX graph: as fast as a trained one.

python benchmarks/bundle.py OUT
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from leuk_ray.bundles.bundle import write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import load_recipe


def main() -> None:
    recipe = load_recipe("lite", ["input_size=224"])
    manifest = ModelManifest(
        model=recipe.model,
        storage=StorageSettings(size=224),
        synthetic=True,
        protocol=recipe.split.protocol,
        dataset_fingerprint="0" * 64,
        recipe=recipe.name,
        seed=recipe.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        write_bundle(plain, manifest, build(recipe.model, load_weights=True).eval())
        export_bundle(plain, Path(sys.argv[1]), onnx=True)


if __name__ == "__main__":
    main()
