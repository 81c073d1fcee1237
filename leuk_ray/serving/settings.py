"""Settings of the service; also the arguments of `app.build` in a Serve config."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from leuk_ray.inference.engines import EngineName
from leuk_ray.utils.settings import Settings


class Limits(Settings):
    """What a request may ask for.

    body_bytes: of a whole request; an image has its own limits, in `images`. files: in one.
    receive_seconds, receive_rate: for its body, and a second more for each `receive_rate` bytes.
    receiving: requests whose bodies a replica waits for. in_flight: requests that it works on.
    memory_bytes: of all bodies that a replica holds. Above each of these three, and of `receiving`
        and `memory_bytes` above half of it for one key, it answers 503.
    subject_length: characters.
    """

    body_bytes: int = Field(default=64 * 2**20, ge=1)
    files: int = Field(default=64, ge=1)
    receive_seconds: float = Field(default=10.0, gt=0)
    receive_rate: int = Field(default=2**15, ge=1)
    receiving: int = Field(default=256, ge=1)
    in_flight: int = Field(default=64, ge=1)
    memory_bytes: int = Field(default=256 * 2**20, ge=1)
    subject_length: int = Field(default=200, ge=1)

    @model_validator(mode="after")
    def _holds_a_request(self) -> Self:
        if self.memory_bytes < 2 * self.body_bytes:
            raise ValueError(f"memory_bytes: is less than two requests, {2 * self.body_bytes}")
        return self


class ServeSettings(Settings):
    """What is served, how, and to whom.

    bundle: a bundle, a run with one, or a registry; a path that every node sees, or s3://, gs://
        for the first two.
    api_keys: file of `NAME SHA256_OF_KEY` lines, read again within 2 seconds of a change;
        requests are answered 503 from 30 seconds after it could last be read.
    anonymous: answer without keys; meant for a loopback address only.
    engine, num_cpus, num_gpus: of each replica; with a GPU it runs PyTorch.
    replicas, max_replicas: autoscaled between them where they differ.
    max_batch_size, batch_wait_seconds: images in one forward pass, and how long the first waits.
    max_models: of a registry, held in memory by each replica, beside canaries and shadows.
    canaries: of a registry, the share of the requests for NAME alone that NAME@VERSION (or
        NAME@ALIAS) answers, in 0..1.
    shadows: NAME@VERSION or NAME@ALIAS, compared with what NAME alone is answered; see
        `serving.shadow`.
    split: networks run in a deployment of their own, to which `replicas`, `max_replicas`,
        `num_cpus` and `num_gpus` apply; `ingress_replicas` of one CPU each parse and decode.
    """

    bundle: str
    api_keys: str | None = None
    anonymous: bool = False
    engine: EngineName = "auto"
    num_cpus: float = Field(default=1.0, gt=0)
    num_gpus: float = Field(default=0.0, ge=0)
    replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    max_batch_size: int = Field(default=8, ge=1, le=256)
    batch_wait_seconds: float = Field(default=0.0, ge=0, le=1)
    max_models: int = Field(default=4, ge=1)
    canaries: dict[str, float] = Field(default_factory=dict)
    shadows: tuple[str, ...] = ()
    split: bool = False
    ingress_replicas: int = Field(default=1, ge=1)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.api_keys is None and not self.anonymous:
            raise ValueError("api_keys: name a file of keys, or set anonymous for loopback alone")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than replicas")
        shares: dict[str, float] = {}
        for reference, share in self.canaries.items():
            name = reference.partition("@")[0]
            shares[name] = shares.get(name, 0) + share
            if not (0 < share <= 1 and shares[name] <= 1):
                raise ValueError(f"canaries {reference}: shares are above 0 and at most 1 together")
        return self

    @property
    def device(self) -> str:
        """Where a replica runs its network."""
        return "cuda" if self.num_gpus else "cpu"
