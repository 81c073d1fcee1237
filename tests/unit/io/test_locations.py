from pathlib import Path

import pytest

from leuk_ray.io.locations import filesystem, join, name_of, parent, parse
from leuk_ray.utils.errors import UserError

HERE = "s3://lab/runs/lite?scheme=http&endpoint_override=127.0.0.1:9000"


def test_parts_of_an_address_leave_its_server_alone():
    inner = join(HERE, "bundle", "bundle.json")
    assert inner == (
        "s3://lab/runs/lite/bundle/bundle.json?scheme=http&endpoint_override=127.0.0.1:9000"
    )
    assert name_of(inner) == "bundle.json"
    assert parent(parent(inner)) == HERE
    assert name_of("s3://lab/runs/lite/") == "lite"
    files, path = filesystem(inner)
    assert path == "lab/runs/lite/bundle/bundle.json"
    assert filesystem(HERE)[0] is files


def test_local_locations_are_paths(tmp_path: Path):
    assert parse("a/b") == Path("a/b")
    assert join(tmp_path, "a", "b") == tmp_path / "a" / "b"
    assert (name_of(tmp_path / "a"), parent(tmp_path / "a")) == ("a", tmp_path)
    assert filesystem(tmp_path)[1] == str(tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://lab/cells", "give a local path, s3:// or gs://"),
        ("s3://", "give a local path, s3:// or gs://"),
        ("s3:///cells", "give a local path, s3:// or gs://"),
        ("s3://AKIA:hidden@lab/cells", "put keys into the environment"),
        ("s3://lab/cells?secret_key=hidden", "put keys into the environment"),
    ],
)
def test_addresses_that_are_none_or_carry_a_key_are_refused(address: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        parse(address)
    assert "hidden" not in str(caught.value)
