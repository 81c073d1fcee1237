"""Run the parts of a benchmark in processes of their own, within a time limit.

A part writes its file after each result, so a part that fails, hangs or is interrupted keeps the
results it had, and the parts after it still run. This module imports no PyTorch.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from processes import stop
from results import Result, table

_LOG_LINES = 5


@dataclass(frozen=True)
class Part:
    """A command that writes its findings to a file, and the seconds it may take.

    alone: it times something, so nothing else may run meanwhile.
    """

    name: str
    command: Sequence[str]
    limit: float
    alone: bool = True


@dataclass
class Outcome:
    """What became of a part.

    state: `done`, `failed`, `stopped` at its limit, or `not run` for lack of time.
    detail: the reason, unless done.
    results: as `Result.as_dict` gives them. notes: sentences.
    """

    part: str
    state: str = "not run"
    detail: str = ""
    seconds: float = 0.0
    results: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Findings:
    """The results of a part, written to its file after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: list[dict] = []
        self.notes: list[str] = []

    def add(self, *results: Result) -> None:
        """Keep results."""
        self.extend([result.as_dict() for result in results])

    def extend(self, results: list[dict]) -> None:
        """Keep results of another benchmark, as `Result.as_dict` gives them."""
        self.results += results
        self._write()

    def note(self, text: str) -> None:
        """Keep a sentence."""
        self.notes.append(text)
        self._write()

    def _write(self) -> None:
        _replace(self.path, {"results": self.results, "notes": self.notes})


def findings_file(out: Path, part: str) -> Path:
    """The file of a part's findings."""
    return out / f"{part}.json"


def run_parts(parts: Sequence[Part], out: Path, seconds: float, facts: dict) -> list[Outcome]:
    """Run parts and write `summary.json` and `table.md` to `out` after each.

    Those that may share the machine run first, all at once, and share its cores; the others follow
    one after another.

    Args:
        parts: most valuable first.
        out: folder of the findings, and of a log for each part.
        seconds: for all parts. A part starts while half of its own limit is left, and is stopped
            at its limit or at the end of this time.
        facts: of the machine, for the summary.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    outcomes = [Outcome(part.name) for part in parts]
    for part in parts:
        findings_file(out, part.name).unlink(missing_ok=True)  # of an earlier run
    pairs = list(zip(parts, outcomes, strict=True))
    together = [pair for pair in pairs if not pair[0].alone]
    threads = max(1, (os.cpu_count() or 1) // max(1, len(together)))
    for group in [together, *([pair] for pair in pairs if pair[0].alone)]:
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if len(group) > 1 else {})
        with ThreadPoolExecutor(max(1, len(group))) as pool:
            running = [pool.submit(_run, *pair, out, end, environment) for pair in group]
            for done in as_completed(running):
                done.result()
                _write_summary(out, facts, outcomes)
    return outcomes


def _run(part: Part, outcome: Outcome, out: Path, end: float, environment: dict[str, str]) -> None:
    left = end - time.monotonic()
    if left < part.limit / 2:
        outcome.detail = f"{max(left, 0):.0f} s left, its limit is {part.limit:.0f} s"
        return
    limit = min(part.limit, left)
    print(f"{part.name}: at most {limit:.0f} s", flush=True)
    log, started = out / f"{part.name}.log", time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            part.command, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code = process.wait(limit)
            outcome.state = "failed" if code else "done"
            if code:
                last = log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
                outcome.detail = f"exit code {code}: {' / '.join(last)}"
        except subprocess.TimeoutExpired:
            outcome.state, outcome.detail = "stopped", f"at {limit:.0f} s"
        finally:
            if process.poll() is None:
                stop(process, patience=5)
    outcome.seconds = time.monotonic() - started
    file = findings_file(out, part.name)
    if file.exists():
        found = json.loads(file.read_text())
        outcome.results, outcome.notes = found["results"], found["notes"]
    print(f"{part.name}: {outcome.state} after {outcome.seconds:.0f} s", flush=True)


def summary_table(facts: dict, outcomes: Sequence[Outcome]) -> str:
    """Machine, state of each part, results and notes, as Markdown."""
    lines = [facts["device"], "", "| part | state | seconds |", "|---|---|---|"]
    for outcome in outcomes:
        state = f"{outcome.state}: {outcome.detail}" if outcome.detail else outcome.state
        lines.append(f"| {outcome.part} | {state.replace('|', '/')} | {outcome.seconds:.0f} |")
    results = [result for outcome in outcomes for result in outcome.results]
    notes = [f"- {outcome.part}: {note}" for outcome in outcomes for note in outcome.notes]
    return "\n".join([*lines, "", table(results), "", *notes]) + "\n"


def _write_summary(out: Path, facts: dict, outcomes: Sequence[Outcome]) -> None:
    _replace(out / "summary.json", facts | {"parts": [asdict(outcome) for outcome in outcomes]})
    (out / "table.md").write_text(summary_table(facts, outcomes))


def _replace(path: Path, values: dict) -> None:
    """Write a file that is never half written, whenever the process ends."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    partial.replace(path)
