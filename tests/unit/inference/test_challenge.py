import zipfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from leuk_ray.inference.answers import part_of
from leuk_ray.inference.challenge import image_numbers, write_challenge
from leuk_ray.inference.predictions import Failure, Prediction
from leuk_ray.utils.errors import UserError


def table(answers: Sequence[Prediction | Failure]) -> pa.Table:
    return part_of(range(len(answers)), answers)


def answer(name: str, probability: float, label: str = "ALL") -> Prediction:
    return Prediction(name, label, probability, 0.4, (), "", "")


def test_line_n_answers_for_image_n(tmp_path: Path) -> None:
    """In numbers' order, not in that of names, where 10 comes before 2; abstaining is no answer."""
    names = sorted(f"{number}.bmp" for number in range(1, 12))
    assert names[:3] == ["1.bmp", "10.bmp", "11.bmp"]
    called = {2, 10}
    answers = [
        answer(f"cells/{name}", 0.4 if int(name[:-4]) in called else 0.39, "abstain")
        for name in names
    ]
    write_challenge(tmp_path / "out.zip", table(answers))
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["isbi_valid.predict"]
        lines = archive.read("isbi_valid.predict").decode().splitlines()
    assert lines == [str(int(number in called)) for number in range(1, 12)]


def test_the_same_answers_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_challenge(tmp_path / name, table([answer("1.bmp", 0.9)]))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.bmp", "3.bmp"], "2.bmp: is missing"),
        (["1.bmp", "x/1.bmp"], "2.bmp: is missing"),
        (["1.bmp", "UID_1.bmp"], "UID_1.bmp: the challenge numbers its images"),
    ],
)
def test_images_that_are_not_the_set_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_numbers(names)


def test_an_image_that_was_not_scored_is_told_and_nothing_written(tmp_path: Path) -> None:
    answers = [answer("1.bmp", 0.9), Failure("2.bmp", "truncated")]
    with pytest.raises(UserError, match=r"2.bmp: was not scored \(truncated\)"):
        write_challenge(tmp_path / "out.zip", table(answers))
    assert not list(tmp_path.iterdir())
