"""Optional packages: the extras of pyproject.toml, checked before work starts that needs them."""

from __future__ import annotations

from importlib.util import find_spec

from leuk_ray.utils.errors import UserError

MODULES = {
    "serve": ("fastapi", "fastapi_swagger", "python_multipart", "uvicorn"),
    "tune": ("optuna",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "mlflow": ("mlflow",),
    "slides": ("tiffslide", "imagecodecs", "zarr"),
    "imaging": ("imaging_server_kit",),
}


def installed(extra: str) -> bool:
    """Say whether every package of an extra is installed; imports none of them."""
    return all(find_spec(module) is not None for module in MODULES[extra])


def require(extra: str, what: str) -> None:
    """Refuse `what`, a command or an option, where an extra is not installed.

    Raises:
        UserError: a package of the extra is missing.
    """
    if not installed(extra):
        raise UserError(
            f"{what}: needs packages that are not installed; pip install 'leuk_ray[{extra}]'"
        )
