"""cluster/README.md names what is there. What can run on one machine, tests/newcomer runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

from tests.support.readme_blocks import FENCE, blocks, commands, parse_leuk_ray

ROOT = Path(__file__).parents[3]
README = ROOT / "cluster" / "README.md"
# bash: run by a test. console: needs a cluster, a cloud, a registry or Docker.
RUN_BY_A_TEST = {
    "leuk-ray",
    "ray",
    "serve",
    "curl",
    "echo",
    "cp",
    "mkdir",
    "until",
    "key=$(openssl rand -hex 32)",
}
ELSEWHERE = {"docker", "helm", "kubectl", "ray", "export", "umask"}


def lines(language: str) -> list[list[str]]:
    return [words for block in blocks(README, language) for words in commands(block)]


def test_every_block_says_who_runs_it_and_its_programs_are_those():
    assert {language for _, language, _ in FENCE.findall(README.read_text())} == {"bash", "console"}
    assert {words[0] for words in lines("bash")} <= RUN_BY_A_TEST
    assert {words[0] for words in lines("console")} <= ELSEWHERE
    for step in ("prepare", "train", "tune", "predict"):
        assert any(step in words for words in lines("bash") if words[:2] == ["leuk-ray", "submit"])


def test_commands_of_leuk_ray_parse():
    ours = [words[1:] for words in lines("bash") if words[0] == "leuk-ray"]
    ours += [
        words[words.index("leuk-ray") + 1 :] for words in lines("bash") if "leuk-ray" in words[1:]
    ]
    assert len(ours) >= 10
    for words in ours:
        parse_leuk_ray(words)
    with pytest.raises(click.UsageError, match="--registri"):
        parse_leuk_ray(["models", "list", "--registri", "r"])


def test_commands_of_ray_are_there():
    named = {words[1] for language in ("bash", "console") for words in lines(language)
             if words[0] == "ray"}  # fmt: skip
    assert named >= {"up", "job", "dashboard"}
    assert named <= set(ray_cli.commands)


def test_files_and_parts_that_are_named_are_there():
    named = [
        word
        for language in ("bash", "console")
        for words in lines(language)
        for word in words
        if word.startswith("cluster/")
    ]
    assert len(named) >= 6
    for path in named:
        assert (ROOT / path).exists(), path
    base = (ROOT / "cluster" / "kuberay" / "base").glob("*.yaml")
    objects = [item for file in base for item in yaml.safe_load_all(file.read_text())]
    labels = (item.get("metadata", {}).get("labels", {}) for item in objects)
    components = {label.get("app.kubernetes.io/component") for label in labels}
    applied = [words for words in lines("console") if words[:2] == ["kubectl", "apply"]]
    assert len(applied) == 5
    for words in applied:
        label, _, component = words[words.index("-l") + 1].partition("=")
        assert label == "app.kubernetes.io/component"
        assert component in components, shlex.join(words)
