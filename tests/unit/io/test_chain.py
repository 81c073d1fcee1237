"""Hash chains of JSON lines: what is done to the files is found and named."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leuk_ray.io.chain import ChainWriter
from leuk_ray.io.chain_check import Chain, read_lines, verify
from leuk_ray.utils.errors import DataError, StorageError


def written(folder: Path, lines: int = 12, *, close: bool = True) -> list[Path]:
    """A chain of three files; close: as its writer ends it."""
    writer = ChainWriter(folder, file_bytes=1200)
    for number in range(lines):
        writer.append("answer", value=number)
    if close:
        writer.close()
    return sorted(folder.glob("*.jsonl"))


def only(folder: Path, before: Path | None = None) -> Chain:
    (chain,) = verify(folder, before)
    return chain


def test_a_closed_chain_is_whole_and_goes_over_its_files(tmp_path: Path):
    files = written(tmp_path / "trace")
    assert len(files) == 3
    chain = only(tmp_path / "trace")
    assert (chain.problems, chain.state, chain.lines) == ([], "closed", 3 + 12 + 1)
    values = [line["value"] for line in read_lines(tmp_path / "trace") if line["kind"] == "answer"]
    assert values == list(range(12))
    assert files[0].stat().st_mode & 0o777 == 0o600
    with pytest.raises(DataError, match="holds no trace"):
        verify(tmp_path)


def edit(files: list[Path]) -> None:
    files[1].write_bytes(files[1].read_bytes().replace(b'"value":7', b'"value":8'))


def edit_with_its_hash(files: list[Path]) -> None:
    """What someone does who knows the format, to one line."""
    import hashlib

    lines = files[0].read_bytes().splitlines(keepends=True)
    body = lines[2].rpartition(b',"sha256"')[0].replace(b'"value":1', b'"value":9') + b"}"
    digest = hashlib.sha256(body).hexdigest().encode()
    lines[2] = body[:-1] + b',"sha256":"' + digest + b'"}\n'
    files[0].write_bytes(b"".join(lines))


def without(at: int, number: int) -> Callable[[list[Path]], None]:
    def change(files: list[Path]) -> None:
        lines = files[at].read_bytes().splitlines(keepends=True)
        del lines[number - 1]
        files[at].write_bytes(b"".join(lines))

    return change


def cut(files: list[Path]) -> None:
    files[-1].write_bytes(files[-1].read_bytes()[:-700])


def swapped(files: list[Path]) -> None:
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)


def head_of(files: list[Path]) -> Path:
    (head,) = files[0].parent.glob("*.head")
    return head


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (edit, "000002.jsonl, line 5: was changed"),
        (edit_with_its_hash, "000001.jsonl, line 4: does not follow the line before it"),
        (without(0, 3), "000001.jsonl, line 3: is number 4 of the chain, 3 is due"),
        (without(-1, 6), "000003.jsonl: ends with line 15 of the chain, 16 were written"),
        (cut, "of the chain, 16 were written"),
        (lambda files: files[0].unlink(), "000001.jsonl: is missing"),
        (lambda files: files[1].unlink(), "000002.jsonl: is missing"),
        (lambda files: files[2].unlink(), "of the chain, 16 were written"),
        (lambda files: [file.unlink() for file in files], "all of its files are missing"),
        (swapped, "000001.jsonl, line 1: is number 6 of the chain, 1 is due"),
        (lambda files: next(files[0].parent.glob("*.head")).unlink(), ".head: is missing"),
        (lambda files: next(files[0].parent.glob("*.head")).write_text("x"), ".head: is damaged"),
        (lambda files: head_of(files).write_text(f"{15:012} {64 * '0'}\n"), ".head: names line 15"),
    ],
    ids=["edit", "edit and hash", "line", "last line", "cut", "first file", "file", "last file",
         "all files", "swapped files", "head", "damaged head", "head behind"],
)  # fmt: skip
def test_what_is_done_to_it_is_named(tmp_path: Path, change: Callable, named: str):
    files = written(tmp_path)
    change(files)
    problems = only(tmp_path).problems
    assert any(named in problem for problem in problems), problems


def test_a_whole_chain_that_is_gone_or_anew_is_told_by_an_earlier_verification(tmp_path: Path):
    folder, noted = tmp_path / "trace", tmp_path / "noted.json"
    writer = ChainWriter(folder)
    writer.append("answer", value=1)
    open_ = only(folder)
    assert (open_.state, open_.problems) == ("open", [])
    noted.write_text(json.dumps({"chains": [vars(open_)]}))
    writer.append("answer", value=2)
    writer.close()
    assert only(folder, noted).problems == []
    for path in folder.iterdir():
        path.unlink()
    written(folder, 3)
    gone, other = sorted(verify(folder, noted), key=lambda chain: chain.name == open_.name)[::-1]
    assert other.problems == []
    assert any("all of its files are missing" in problem for problem in gone.problems)
    with pytest.raises(DataError, match="no output of an earlier verify"):
        verify(folder, tmp_path / "other.json")


def test_a_killed_writer_leaves_all_that_it_returned_and_a_torn_line_is_none(tmp_path: Path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom leuk_ray.io.chain import ChainWriter\n"
        "writer = ChainWriter(Path(sys.argv[1]), 2000)\n"
        "while True:\n"
        "    print(writer.append('answer', value=1), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(50)][-1]
        writer.send_signal(signal.SIGKILL)
    chain = only(tmp_path)
    assert (chain.state, chain.problems) == ("ended", [])
    assert chain.lines >= told
    with sorted(tmp_path.glob("*.jsonl"))[-1].open("ab") as file:
        file.write(b'{"number":')
    torn = only(tmp_path)
    assert (torn.torn, torn.lines, torn.problems) == (10, chain.lines, [])


def test_a_full_disk_leaves_the_chain_as_it_was_and_it_goes_on(tmp_path: Path):
    writer = ChainWriter(tmp_path, file_bytes=1000)
    writer.append("answer", value="a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
        with pytest.raises(StorageError, match="cannot be written"):
            writer.append("answer", value="b" * 400)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert writer.append("answer", value="c") == 3
        writer.append("answer", value="d" * 900)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(StorageError):  # of the next file
            writer.append("answer", value="e")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    writer.append("answer", value="f")
    writer.close()
    assert only(tmp_path).problems == []
    values = [line["value"][0] for line in read_lines(tmp_path) if line["kind"] == "answer"]
    assert values == ["a", "c", "d", "f"]
