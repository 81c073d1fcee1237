"""Standard output of a command is its result alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

from leuk_ray.cli import base
from leuk_ray.cli import main as cli_main
from leuk_ray.cli.main import cli
from leuk_ray.utils.errors import TrainingDiverged

_NOISY = """
import os, click
from leuk_ray.cli.base import command

@click.command()
@command
def noisy():
    print("a library prints")
    os.write(1, b"a raylet complains\\n")
    os.system("echo a process of it too")
    return {"cells": 3}, "3 cells"

noisy()
"""


def test_what_libraries_and_their_processes_print_goes_to_standard_error():
    for words, expected in (["--json"], '{"cells": 3}\n'), ([], "3 cells\n"):
        done = subprocess.run(
            [sys.executable, "-c", _NOISY, *words], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == expected, done.stderr
        for noise in ("a library prints", "a raylet complains", "a process of it too"):
            assert noise in done.stderr


def options(group: click.Group) -> Iterator[click.Parameter]:
    for command in group.commands.values():
        yield from options(command) if isinstance(command, click.Group) else command.params


def test_every_choice_suggests_the_near_one():
    choices = [option for option in options(cli) if isinstance(option.type, click.Choice)]
    assert len(choices) >= 7
    for option in choices:
        assert isinstance(option.type, click.Choice)
        for word in option.type.choices:
            assert option.type.convert(word, option, None) == word
            with pytest.raises(click.BadParameter, match=f"did you mean {word}[?]"):
                option.type.convert(f"{word}x", option, None)
        with pytest.raises(click.BadParameter, match="choose one of"):
            option.type.convert("?", option, None)


def test_a_misspelt_choice_is_one_line():
    done = CliRunner().invoke(
        cli, ["split", "x", "--protocol", "slide-group-disjont", "--out", "y"]
    )
    assert done.exit_code == 2
    assert "'slide-group-disjont' is not known; did you mean slide-group-disjoint?" in done.output


@pytest.mark.parametrize("twice", [("lr=1", "lr=2"), ("training.lr=1", "lr=2")])
def test_a_setting_given_twice_is_refused(twice: tuple[str, str]):
    done = CliRunner().invoke(cli, ["train", "lite", *twice, "--data", "x", "--out", "y"])
    assert done.exit_code == 2
    assert "lr is given twice" in done.output


@click.command()
@base.command
def diverging() -> NoReturn:
    raise TrainingDiverged("training.lr: the loss is\nnot a number; lower lr")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("user", ["recipes", "lite", "--settings=training"]),
        ("config", ["recipes", "light"]),
        ("data", ["audit", "."]),
        ("storage", ["synth", "/proc/none", "--cells", "20", "--subjects", "4"]),
        ("diverged", ["diverging"]),
    ],
)
def test_an_error_is_one_line_and_has_a_kind(kind: str, words: list[str], monkeypatch, capfd):
    monkeypatch.setitem(cli.commands, "diverging", diverging)
    monkeypatch.setattr(sys, "argv", ["leuk-ray", *words, "--json"])
    with pytest.raises(SystemExit) as ended:
        cli_main.main()
    assert ended.value.code == 2
    shown = capfd.readouterr()
    document = json.loads(shown.out)
    assert document["kind"] == kind
    assert shown.err.splitlines()[-1] == f"leuk-ray: {document['error']}"
