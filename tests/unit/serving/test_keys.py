"""The file of keys, and what becomes of requests while it changes or is gone."""

import asyncio
import hashlib
import logging
import time
from pathlib import Path

import pytest

from leuk_ray.serving import keys as keys_module
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.keys import ApiKeys, read_keys
from leuk_ray.utils.errors import UserError


def line(name: str, key: str) -> str:
    return f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    path = tmp_path / "keys"
    path.write_text("# who may ask\n" + line("lab", "secret") + line("clinic", "other"))
    return ApiKeys(path)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(keys_module, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(keys_module, "_SETTLE_SECONDS", 0.05)


def owner(keys: ApiKeys, key: str) -> str | None:
    return asyncio.run(keys.owner(key))


@pytest.mark.usefixtures("quick")
def test_keys_are_read_again_when_their_file_changes(keys: ApiKeys):
    assert owner(keys, "secret") == "lab"
    keys.path.write_text(line("lab", "rotated"))
    assert owner(keys, "secret") is None
    assert owner(keys, "rotated") == "lab"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("what", ["deleted", "emptied", "broken"])
def test_no_key_is_good_when_the_file_is_gone_for_longer_than_the_grace(
    keys: ApiKeys, what: str, monkeypatch, caplog
):
    if what == "deleted":
        keys.path.unlink()
    else:
        keys.path.write_text("" if what == "emptied" else "nonsense\n" + keys.path.read_text())
    assert owner(keys, "secret") == "lab", "for the grace, nobody notices"
    monkeypatch.setattr(keys_module, "_GRACE_SECONDS", 0.0)
    with pytest.raises(Problem) as refused:
        owner(keys, "secret")
    assert (refused.value.status, refused.value.reason) == (503, "no_keys")
    told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert str(keys.path) in told[0]
    assert "no key is good" in told[-1]
    monkeypatch.setattr(keys_module, "_GRACE_SECONDS", 30.0)
    keys.path.write_text(line("lab", "rotated"))
    assert owner(keys, "rotated") == "lab"


def test_a_file_written_in_place_refuses_no_good_key(keys: ApiKeys, monkeypatch):
    monkeypatch.setattr(keys_module, "_CHECK_SECONDS", 0.01)

    async def ask() -> list[str | None]:
        found, until = [], time.monotonic() + 1.5
        while time.monotonic() < until:
            found.append(await keys.owner("other"))
            await asyncio.sleep(0.01)
        return found

    async def write() -> None:
        with keys.path.open("w") as file:
            for part in (line("lab", "rotated"), line("clinic", "other")):
                file.write(part)
                file.flush()
                await asyncio.sleep(0.2)

    async def both() -> tuple[list[str | None], None]:
        return await asyncio.gather(ask(), write())

    found, _ = asyncio.run(both())
    assert set(found) == {"clinic"}
    assert owner(keys, "rotated") == "lab"


def test_a_file_that_takes_long_to_read_stops_no_other_request(keys: ApiKeys, monkeypatch):
    def slow(path: Path) -> dict[str, str]:
        time.sleep(0.5)
        return read_keys(path)

    monkeypatch.setattr(keys_module, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(keys_module, "read_keys", slow)

    async def ask() -> float:
        asking = asyncio.create_task(keys.owner("secret"))
        started = time.monotonic()
        await asyncio.sleep(0.01)
        longest = time.monotonic() - started
        assert await asking == "lab"
        return longest

    assert asyncio.run(ask()) < 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("lab secret", "line 1"),
        (line("lab", "a") + line("lab", "b"), "line 2"),
        (line("lab", "a").upper(), "line 1"),
    ],
)
def test_a_file_that_is_none_of_keys_is_refused(text: str, message: str, tmp_path: Path):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UserError, match=message):
        read_keys(tmp_path / "keys")
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path / "nowhere")
