"""An ONNX graph from a file that somebody else may have written.

A graph can name files of its own and hold loops, so what is loaded is a list of bytes whose hash
is known, without external data, control flow or foreign operators. What it still can do is need
more memory than there is: `trial` runs it in a process of its own, with limits.
"""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np

from leuk_ray.utils.errors import DataError

LOAD_SECONDS = 60.0
TRIAL_SECONDS = 180.0
_MEMORY = 4 * 2**30  # beside eight times the graph
_ADVICE = "export it anew: leuk-ray export BUNDLE NEW --onnx"


def check_graph(data: bytes, place: Path) -> bytes:
    """Check that a graph holds all that it runs, and return it.

    Raises:
        UserError: it is no ONNX graph, names other files, or has control flow or operators that
            no exported network has.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise DataError(f"{place}: is no ONNX graph; {_ADVICE}") from error
    if model.functions or model.training_info or len(model.graph.node) == 0:
        raise DataError(f"{place}: is no graph of one network; {_ADVICE}")
    for tensor in _tensors(model.graph):
        if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT:
            raise DataError(
                f"{place}: keeps weights in another file, which no hash of the bundle covers; "
                f"{_ADVICE}"
            )
    for node in model.graph.node:
        inner = [each for each in node.attribute if each.HasField("g") or each.graphs]
        if inner or node.domain not in ("", "ai.onnx"):
            raise DataError(
                f"{place}: holds the operator {node.op_type[:40]!r}, which no exported network "
                f"has; {_ADVICE}"
            )
    return data


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def open_session(data: bytes, place: Path, threads: int) -> Any:
    """Open an ONNX Runtime session on the CPU, of a graph that lay at `place`.

    Raises:
        UserError: ONNX Runtime cannot load it, or not in time.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is raised
    # Threads that wait in a busy loop take the cores from decoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    watch = Timer(LOAD_SECONDS, options.set_load_cancellation_flag, (True,))
    watch.start()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's have no base of their own
        raise DataError(
            f"{place}: ONNX Runtime does not load it within {LOAD_SECONDS:g} s "
            f"({_first_line(error)}); {_ADVICE}"
        ) from error
    finally:
        watch.cancel()


def run_session(session: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score storage pixels (N, S, S, 3) uint8: logits (N, 1 or 2) and embedding (N, D)."""
    logits, embedding = session.run(["logits", "embedding"], {"pixels": pixels})
    return logits, embedding


def trial(graph: Path, batches: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Compute logits and embedding of each batch, in another process within limits.

    Raises:
        UserError: it does not load or run there, or takes too much time or memory.
    """
    sent = io.BytesIO()
    np.savez(sent, *batches)
    command = [sys.executable, "-m", __name__, str(graph)]
    try:
        done = subprocess.run(
            command, input=sent.getvalue(), capture_output=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{graph}: takes more than {TRIAL_SECONDS:g} s for a few images; {_ADVICE}"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        said = lines[-1][:300] if lines else f"its process ended with {done.returncode}"
        raise DataError(f"{graph}: does not run ({said}); {_ADVICE}")
    received = np.load(io.BytesIO(done.stdout), allow_pickle=False)
    return [(received[f"logits{n}"], received[f"embedding{n}"]) for n in range(len(batches))]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _main(graph: Path) -> None:
    """Load and run a graph, with limits on this process's memory; pixels in, answers out."""
    data = graph.read_bytes()
    most = _MEMORY + 8 * len(data)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    batches = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    session = open_session(check_graph(data, graph), graph, 1)
    answers: dict[str, np.ndarray] = {}
    for n, name in enumerate(batches.files):
        answers[f"logits{n}"], answers[f"embedding{n}"] = run_session(session, batches[name])
    out = io.BytesIO()
    np.savez(out, **answers)  # pyright: ignore[reportArgumentType]
    sys.stdout.buffer.write(out.getvalue())


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]))
    except Exception as failure:
        sys.exit(_first_line(failure))
