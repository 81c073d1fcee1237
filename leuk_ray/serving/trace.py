"""The trace: a record of every answer, made before it is sent, in a hash chain for each replica."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request

from leuk_ray.fields.field import FieldSettings
from leuk_ray.io.chain import ChainWriter
from leuk_ray.serving.decoding import Named
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.served_model import ServedModel
from leuk_ray.utils.errors import StorageError
from leuk_ray.workflows.trace import (
    ANSWER,
    Rules,
    TracedAnswer,
    TracedField,
    traced_image,
)

logger = logging.getLogger(__name__)


class Trace:
    """Records the answers of a replica; without a folder, none.

    Where a line cannot be written the request is answered 503 and the replica is not ready: no
    answer leaves untraced. A line `resumed` says how many answers were withheld.
    """

    def __init__(self, folder: Path | None, *, subjects: bool = False) -> None:
        """Begin a chain; raises UserError where the folder cannot be written to.

        Args:
            folder: of chains.
            subjects: record subject IDs too.
        """
        self.subjects = subjects
        self.withheld = 0
        self._chain = None if folder is None else ChainWriter(folder)
        self._thread = ThreadPoolExecutor(1, "trace")

    async def answered(
        self,
        request: Request,
        served: ServedModel,
        files: Sequence[Named],
        items: Sequence[Mapping[str, Any]],
        *,
        subject: str | None = None,
        fields: FieldSettings | None = None,
    ) -> None:
        """Record the answer to a request; the response names the line as X-Trace-Line.

        Args:
            request: that is answered.
            served: the model that answers.
            files: of the request.
            items: of the answer, one a file.
            subject: whose the files are.
            fields: how the files were read, where they are fields of view.

        Raises:
            Problem: 503, it could not be recorded.
        """
        if self._chain is None:
            return
        manifest, guarantee = served.processor.manifest, served.guarantee
        decides = len(manifest.classes) == 2 and manifest.conformal is None
        answer = TracedAnswer(
            request_id=request.state.request_id,
            route=request.scope["route"].path,
            key=request.state.owner,
            model=served.info.name,
            version=served.info.version,
            bundle_sha256=served.info.fingerprint,
            engine=served.info.engine or "",
            rules=Rules(
                temperature=manifest.temperature,
                threshold=manifest.threshold if decides else None,
                abstain_band=manifest.abstain_band,
                min_confidence=manifest.min_confidence,
                coverage=guarantee and guarantee.coverage,
                guarantee=guarantee and guarantee.state,
            ),
            subject=subject if self.subjects else None,
            field_settings=fields,
        )
        request.state.trace_line = await self._run(partial(_completed, answer, files, items))

    async def check(self) -> None:
        """Try again where a line could not be written; raises Problem 503 where it still cannot."""
        if self._chain is not None and self.withheld:
            await self._run(None)

    def close(self) -> None:
        """Close the chain; that of a killed process stays open."""
        self._thread.shutdown()
        if self._chain is not None:
            self._chain.close()

    async def _run(self, make: partial[TracedAnswer] | None) -> str:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, make)
        except StorageError as error:
            logger.error("trace: %s; %d answers were withheld", error, self.withheld)
            detail = "answers cannot be recorded, so none is given; see the service's log"
            raise Problem(503, "trace", detail, headers={"Retry-After": "10"}) from error

    def _write(self, make: partial[TracedAnswer] | None) -> str:
        """Write a line, in the thread: one at a time."""
        assert self._chain is not None
        try:
            if self.withheld:
                self._chain.append("resumed", withheld=self.withheld)
                self.withheld = 0
            if make is not None:
                answer = make().model_dump(mode="json", exclude_defaults=True)
                self._chain.append(ANSWER, answer=answer)
        except StorageError:
            self.withheld += make is not None
            raise
        return f"{self._chain.name}:{self._chain.number}"


def _completed(
    answer: TracedAnswer, files: Sequence[Named], items: Sequence[Mapping[str, Any]]
) -> TracedAnswer:
    pairs = [
        (item, item.get("sha256") or hashlib.sha256(data).hexdigest())
        for item, (_, data) in zip(items, files, strict=True)
    ]
    if answer.field_settings is None:
        return answer.model_copy(update={"images": tuple(traced_image(*pair) for pair in pairs)})
    return answer.model_copy(update={"fields": tuple(_field(*pair) for pair in pairs)})


def _field(item: Mapping[str, Any], digest: str) -> TracedField:
    cells = tuple(traced_image(cell, cell.get("sha256")) for cell in item["cells"])
    reasons = tuple(item["reasons"])
    return TracedField(sha256=digest, status=item["status"], reasons=reasons, cells=cells)
