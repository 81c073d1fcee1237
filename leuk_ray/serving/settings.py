"""Settings of the service; also the arguments of `app.build` in a Serve config."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from leuk_ray.inference.engines import EngineName
from leuk_ray.utils.settings import Settings


class Limits(Settings):
    """Limits of requests. A replica above one of its own answers 503."""

    body_bytes: int = Field(default=64 * 2**20, ge=1)
    """Maximum size of a request, bytes. Images have further limits of their own."""

    files: int = Field(default=64, ge=1)
    """Maximum number of images in a request."""

    receive_seconds: float = Field(default=10.0, gt=0)
    """Seconds within which a request's body must arrive, plus one for each `receive_rate` bytes."""

    receive_rate: int = Field(default=2**15, ge=1)
    """Minimum rate at which a body must arrive, bytes per second."""

    receiving: int = Field(default=256, ge=1)
    """Maximum number of requests per replica whose bodies are still arriving; one key may take
    half."""

    in_flight: int = Field(default=64, ge=1)
    """Maximum number of requests per replica that are being processed."""

    memory_bytes: int = Field(default=256 * 2**20, ge=1)
    """Maximum size of all bodies in a replica's memory, bytes; one key may take half."""

    subject_length: int = Field(default=200, ge=1)
    """Maximum length of a subject ID, characters."""

    @model_validator(mode="after")
    def _holds_a_request(self) -> Self:
        if self.memory_bytes < 2 * self.body_bytes:
            raise ValueError(f"memory_bytes: is less than two requests, {2 * self.body_bytes}")
        return self


class ServeSettings(Settings):
    """What is served, how, and to whom."""

    bundle: str
    """Bundle, run with a bundle, or registry to serve; a path that every node sees, or, for the
    first two, s3:// or gs://."""

    api_keys: str | None = None
    """File of API keys, lines of `NAME SHA256_OF_KEY`. Changes take effect within 2 seconds;
    requests are answered 503 when the file has been unreadable for 30 seconds."""

    anonymous: bool = False
    """Answer requests without a key; for loopback addresses only."""

    trusted: str | None = None
    """File of trusted OpenSSH keys, lines of `NAME PUBLIC_KEY`, which every node sees: only bundles
    that one of them has signed are loaded."""

    trace: str | None = None
    """Folder, which every node can write to, for a record of every answer in hash-chained JSON
    lines, a chain per replica; requests are answered 503 while it cannot be written."""

    trace_subjects: bool = False
    """With `trace`, record subject IDs too; they are left out by default."""

    engine: EngineName = "auto"
    """Inference engine of each replica; with a GPU, always PyTorch."""

    num_cpus: float = Field(default=1.0, gt=0)
    """CPUs per replica."""

    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs per replica."""

    replicas: int = Field(default=1, ge=1)
    """Number of replicas; with `max_replicas`, the minimum."""

    max_replicas: int | None = Field(default=None, ge=1)
    """Maximum number of replicas for autoscaling; unset keeps `replicas`."""

    max_batch_size: int = Field(default=8, ge=1, le=256)
    """Maximum number of images in one forward pass."""

    batch_wait_seconds: float = Field(default=0.0, ge=0, le=1)
    """Seconds that the first image of a batch waits for others."""

    max_models: int = Field(default=4, ge=1)
    """Maximum number of models of a registry in a replica's memory, besides canaries and
    shadows."""

    canaries: dict[str, float] = Field(default_factory=dict)
    """Registry canaries: NAME@VERSION or NAME@ALIAS -> share, in 0..1, of the requests for NAME
    that it answers."""

    shadows: tuple[str, ...] = ()
    """Registry shadows: NAME@VERSION or NAME@ALIAS, which receive copies of the requests for NAME
    and whose predictions are compared, never returned."""

    split: bool = False
    """Run networks in a deployment of their own, to which `replicas`, `max_replicas`, `num_cpus`
    and `num_gpus` apply, apart from the replicas that parse and decode."""

    ingress_replicas: int = Field(default=1, ge=1)
    """With `split`, number of replicas, of one CPU each, that parse and decode."""

    limits: Limits = Limits()
    """Limits of requests."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.api_keys is None and not self.anonymous:
            raise ValueError("api_keys: name a file of keys, or set anonymous for loopback alone")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than replicas")
        if self.trace_subjects and self.trace is None:
            raise ValueError("trace_subjects: name the folder of the trace too, as trace")
        shares: dict[str, float] = {}
        for reference, share in self.canaries.items():
            name = reference.partition("@")[0]
            shares[name] = shares.get(name, 0) + share
            if not (0 < share <= 1 and shares[name] <= 1):
                raise ValueError(f"canaries {reference}: shares are above 0 and at most 1 together")
        return self

    @property
    def trusted_keys(self) -> Path | None:
        """The file of keys that sign, where one is asked for."""
        return None if self.trusted is None else Path(self.trusted)

    @property
    def device(self) -> str:
        """Where a replica runs its network."""
        return "cuda" if self.num_gpus else "cpu"
