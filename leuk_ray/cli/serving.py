"""Commands that carry a bundle to where it answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leuk_ray.cli.base import ADDRESS, LOCATION, PATH, SIGN, TRUSTED, command
from leuk_ray.utils.extras import require

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location


@click.command(epilog="Example: leuk-ray export runs/lite lite.bundle --onnx")
@click.argument("source", metavar="RUN_OR_BUNDLE", type=LOCATION)
@click.argument("bundle", type=LOCATION)
@click.option("--onnx", is_flag=True, help="Add a graph for ONNX Runtime, faster on CPUs.")
@SIGN
@command
def export(
    source: Location, bundle: Location, onnx: bool, key: Path | None
) -> tuple[dict[str, Any], str]:
    """Copy a verified bundle out of its run: to a folder, s3://, gs://, or hf://OWNER/NAME."""
    from leuk_ray.bundles.bundle import find_bundle
    from leuk_ray.bundles.hub import is_on_hub
    from leuk_ray.cli.messages import export_text
    from leuk_ray.io.storage import refuse_existing

    found = find_bundle(source)
    if not is_on_hub(bundle):  # where a bundle is a commit, and earlier ones stay
        refuse_existing(bundle, "bundle")

    from leuk_ray.inference.onnx_export import export_bundle

    values = export_bundle(found, bundle, onnx=onnx, key=key)
    return values, export_text(values)


@click.command(epilog="Example: leuk-ray calibrate runs/lite --data my.dataset --out lite.bundle")
@click.argument("target", metavar="RUN_OR_BUNDLE", type=LOCATION)
@click.option(
    "--data",
    required=True,
    type=LOCATION,
    help="The run's dataset; for a bundle, any prepared one.",
)
@click.option("--out", "bundle", type=LOCATION, required=True, help="Folder of the new bundle.")
@click.option(
    "--abstain",
    type=click.FloatRange(0, 0.9),
    help="Share of cells to abstain on (default: 0.05): those closest to the threshold; of more "
    "than two classes those whose most likely class is least likely. It guarantees nothing.",
)
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Answer with prediction sets instead: for each class, the set of a new patient's cell "
    "holds its class with at least this probability; cells whose set is not one class get no "
    "answer. Needs coverage / (1 - coverage) patients of every class.",
)
@click.option(
    "--misses",
    type=PATH,
    metavar="DETECT_JSON",
    help="What `leuk-ray detect --boxes` measured with cells labelled by class: intervals of the "
    "blast percentage then carry the cells that the detector misses.",
)
@command
def calibrate(
    target: Location,
    data: Location,
    bundle: Location,
    abstain: float | None,
    coverage: float | None,
    misses: Path | None,
) -> tuple[dict[str, Any], str]:
    """Write a copy of a bundle with calibrated probabilities, a rule when to abstain, and scope."""
    from leuk_ray.api.runs import calibrate as run
    from leuk_ray.cli.messages import calibrate_text

    done = run(target, data, bundle, abstain=abstain, coverage=coverage, misses=misses)
    return done.summary, calibrate_text(done.summary)


@click.command(epilog="Example: leuk-ray serve runs/lite")
@click.argument("source", metavar="BUNDLE_OR_REGISTRY", type=LOCATION)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; other than loopback requires --api-keys.",
)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--api-keys", type=PATH, metavar="FILE", help="File with a line NAME SHA256_OF_KEY per client."
)
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1))
@click.option("--gpus", is_flag=True, help="Use one GPU per replica.")
@click.option(
    "--canary",
    "canaries",
    multiple=True,
    metavar="NAME@VERSION=SHARE",
    help="Let this version answer a share of the requests for NAME (registry only).",
)
@click.option(
    "--shadow",
    "shadows",
    multiple=True,
    metavar="NAME@VERSION",
    help="Score requests for NAME with this version too, and log differences (registry only).",
)
@click.option(
    "--trace",
    type=PATH,
    metavar="DIR",
    help="Record every answer in DIR, in hash-chained lines; check them with `trace verify`.",
)
@click.option("--trace-subjects", is_flag=True, help="Record subject IDs too.")
@TRUSTED
@ADDRESS
@command
def serve(
    source: Location,
    host: str,
    port: int,
    api_keys: Path | None,
    replicas: int,
    gpus: bool,
    canaries: tuple[str, ...],
    shadows: tuple[str, ...],
    trace: Path | None,
    trace_subjects: bool,
    trusted: Path | None,
    address: str | None,
) -> tuple[dict[str, Any], str]:
    """Serve predictions over HTTP until stopped: a page, /v1/predict, and /docs."""
    require("serve", "serve")

    from leuk_ray.serving.local import serve_until_stopped
    from leuk_ray.serving.routing import parse_canary

    values = serve_until_stopped(
        source,
        host,
        port,
        api_keys=api_keys,
        replicas=replicas,
        gpus=gpus,
        canaries=dict(map(parse_canary, canaries)),
        shadows=shadows,
        trusted=trusted,
        trace=trace,
        trace_subjects=trace_subjects,
        address=address,
    )
    return values, f"{values['url']}: stopped"


@click.command(
    "imaging-server",
    epilog="Example: LEUK_RAY_API_KEY=... leuk-ray imaging-server https://cells.example.org",
)
@click.argument("service", metavar="URL")
@click.option("--port", default=8010, show_default=True, type=click.IntRange(1, 65535))
@command
def imaging_server(service: str, port: int) -> tuple[dict[str, Any], str]:
    """Let napari and QuPath on this machine ask a service, by the Imaging Server Kit's protocol.

    The service's key, if it has one, is read from LEUK_RAY_API_KEY.
    """
    require("imaging", "imaging-server")

    import requests

    from leuk_ray.utils.errors import UserError

    try:
        from leuk_ray.serving.imaging_server import imaging_app
        from leuk_ray.serving.imaging_server import serve as run
    except requests.RequestException as error:  # of a demo's picture, which it keeps
        raise UserError(
            "imaging-server: the Imaging Server Kit fetches a picture when it is imported for the "
            "first time, and could not; connect to the internet once"
        ) from error
    from leuk_ray.utils.progress import note

    app = imaging_app(service, os.environ.get("LEUK_RAY_API_KEY"), port)
    url = f"http://127.0.0.1:{port}"
    note(f"imaging-server: {url} for napari and QuPath, answered by {service}")
    run(app, port)
    return {"url": url, "service": service}, f"{url}: stopped"
