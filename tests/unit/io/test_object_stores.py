"""Folders in an object store, against a real server: marks, two writers of one place, names."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from leuk_ray.bundles.bundle import load_bundle
from leuk_ray.io import storage
from leuk_ray.io.storage import (
    directory_by_rename,
    exists,
    fetched,
    list_files,
    read_bytes,
    refuse_existing,
    upload,
    write_bytes,
)
from leuk_ray.utils.errors import UserError
from tests.support.serving_bundles import write_small_bundle

BUCKET = "s3://lab"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fs.FileSystem.from_uri(f"{BUCKET}?allow_bucket_creation=true")[0].create_dir("lab")
        yield address
    server.stop()


def test_what_fails_or_was_killed_leaves_nothing_and_can_be_run_again(tmp_path: Path):
    target = f"{BUCKET}/folder"

    def fill(words: str) -> None:
        with directory_by_rename(target) as folder:
            assert exists(f"{target}.partial")
            (folder / "deep").mkdir()
            (folder / "deep" / "text").write_text(words)
            (folder / "marker.json").write_text("{}")
            if words == "fail":
                upload(folder, target)
                raise RuntimeError(words)

    with pytest.raises(RuntimeError):
        fill("fail")
    assert not exists(target)
    assert not exists(f"{target}.partial")
    write_bytes(f"{target}.partial", b"")  # as a killed process leaves it
    write_bytes(f"{target}/left", b"half")
    refuse_existing(target, "folder")
    fill("good")
    assert list_files(target) == ["deep/text", "marker.json"]
    assert read_bytes(f"{target}/deep/text") == b"good"
    with pytest.raises(UserError, match="never overwritten"):
        refuse_existing(target, "folder")


@pytest.mark.parametrize("key", ["../out", "/tmp/leuk_ray/x/y", "a//b", "a/./b", "deep/../../out"])
def test_a_name_never_leads_out_of_the_folder(key: str, server: str, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    client = boto3.client("s3", endpoint_url=server)
    client.put_object(Bucket="lab", Key=f"bad/{key}", Body=b"x")
    try:
        with pytest.raises(UserError, match="leads out of it"), fetched(f"{BUCKET}/bad"):
            pass
    finally:
        client.delete_object(Bucket="lab", Key=f"bad/{key}")
    assert not Path("/tmp/leuk_ray").exists()


def test_of_two_writers_the_later_finishes_and_the_earlier_publishes_nothing():
    target = f"{BUCKET}/two"

    def write(words: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        with directory_by_rename(target) as folder:
            (folder / "bundle.json").write_text(words)
            (folder / "weights").write_text(words)
            meanwhile()

    with pytest.raises(UserError, match="another process writes it too; this one published"):
        write("early", lambda: write("late"))
    assert {read_bytes(f"{target}/{name}") for name in list_files(target)} == {b"late"}
    assert not exists(f"{target}.partial")


def test_bundles_of_two_writers_at_once_load_or_are_refused(tmp_path: Path):
    """Whatever the order of their uploads: never one's threshold with the other's weights."""
    target = f"{BUCKET}/at-once"
    sources = [write_small_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    ended: list[BaseException | None] = []
    refused: list[str] = []

    def write(source: Path) -> None:
        try:
            with directory_by_rename(target) as folder:
                for file in source.iterdir():
                    (folder / file.name).write_bytes(file.read_bytes())
            ended.append(None)
        except UserError as error:
            ended.append(error)

    for _ in range(8):
        writers = [threading.Thread(target=write, args=(source,)) for source in sources]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        try:
            load_bundle(target)
        except UserError as error:
            refused.append(str(error))
    assert len(ended) == 16
    assert all("no bundle" in text or "changed since" in text for text in refused)


def test_a_file_that_changed_on_its_way_is_not_published(tmp_path: Path):
    target = f"{BUCKET}/short"
    (tmp_path / "weights").write_text("all of it")
    (tmp_path / "bundle.json").write_text("{}")
    with pytest.raises(UserError, match="was changed while it was written"):
        upload(tmp_path, target, lambda: write_bytes(f"{target}/weights", b"half"))
    assert not exists(f"{target}/bundle.json")


def test_a_mark_that_a_finished_folder_kept_is_removed():
    write_bytes(f"{BUCKET}/run.partial", b"of a killed process")
    storage.finish(f"{BUCKET}/run")
    assert not exists(f"{BUCKET}/run.partial")
