"""The settings of every file that a user writes: for `recipes --settings` and the docs."""

from __future__ import annotations

from importlib import import_module

from leuk_ray.utils.errors import ConfigError, near
from leuk_ray.utils.reference import Setting, settings_of

# Imported one by one: a recipe's settings need no PyTorch, those of the service do.
_FILES = {
    "recipe": "leuk_ray.recipes.recipe.Recipe",
    "sweep": "leuk_ray.tuning.settings.SweepSettings",
    "experiment": "leuk_ray.experiments.settings.ExperimentSettings",
    "serve": "leuk_ray.serving.settings.ServeSettings",
}
_PAGE = {
    "recipe": """\
# Settings

Made by `make docs` from the fields themselves; `leuk-ray recipes --settings` prints the same. A
path with `*` stands for any name of a mapping, or any item of a list.

## Recipes

`leuk-ray train RECIPE training.lr=1e-4` overrides one; the section may be left out where the name
is unique (`lr=1e-4`). The defaults hold for what a recipe does not set.""",
    "sweep": "## Sweeps\n\nThe YAML file of `leuk-ray tune`.",
    "experiment": "## Experiments\n\nThe YAML file of `leuk-ray experiment`.",
    "serve": """\
## Service

The arguments of `leuk_ray.serving.app:build` in a Serve config; `leuk-ray serve` has options for
most of them.""",
}


def settings_under(prefix: str = "") -> list[Setting]:
    """List the settings whose full path starts with `prefix`, or whose own name it is.

    Args:
        prefix: such as `training`, `training.loss` or `lr`; empty for all of a recipe; `sweep`,
            `experiment` or `serve`, alone or before a path, for those of another file.

    Raises:
        UserError: no such setting.
    """
    kind, _, rest = prefix.partition(".")
    if kind not in _FILES:
        kind, rest = "recipe", prefix
    settings = _settings(kind)
    chosen = [s for s in settings if not rest or f"{s.name}.".startswith(f"{rest}.")]
    chosen = chosen or [s for s in settings if s.name.endswith(f".{rest}")]
    if not chosen:
        known = [*(s.name for s in settings), *_FILES]
        raise ConfigError(f"--settings {prefix}: no such setting; {near(prefix, known)}")
    return chosen


def settings_page() -> str:
    """Write the reference as a page of Markdown."""
    lines = []
    for kind, heading in _PAGE.items():
        lines += [heading, "", "| setting | type | default | meaning |", "|---|---|---|---|"]
        for setting in _settings(kind):
            kinds = setting.type.replace("|", "\\|")
            default = f"`{setting.default}`" if setting.default else ""
            lines.append(f"| `{setting.name}` | {kinds} | {default} | {setting.meaning} |")
        lines.append("")
    return "\n".join(lines)


def _settings(kind: str) -> list[Setting]:
    module, _, name = _FILES[kind].rpartition(".")
    return list(settings_of(getattr(import_module(module), name)))
