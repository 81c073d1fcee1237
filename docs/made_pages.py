"""Pages of the documentation made from the code: commands, Python, HTTP, files."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
from results_page import results_page

import leuk_ray
from leuk_ray.api.results import (
    CalibratedBundle,
    Detections,
    EvaluationResult,
    SweepResult,
    TrainedRun,
)
from leuk_ray.bundles.manifest import EnsembleManifest, ModelManifest
from leuk_ray.cli.main import cli
from leuk_ray.evaluation.report_model import Report
from leuk_ray.inference.predictions import Predictions
from leuk_ray.serving.api import create_api
from leuk_ray.serving.middleware import Limits
from leuk_ray.serving.models import Models
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.settings import ServeSettings

ROOT = Path(__file__).parents[1]
# Of the classes that have more than users need.
_METHODS = {
    "Classifier": ("load", "predict"),
    "PreparedDataset": ("open", "to_pandas"),
    "EvaluationResult": ("to_pandas",),
    "TrainedRun": ("classifier",),
    "CalibratedBundle": ("classifier",),
    "SweepResult": ("to_pandas",),
    "Detections": ("to_pandas",),
    "Predictions": ("to_pandas",),
}
_SECTIONS = ("Args", "Returns", "Raises", "Yields")


def write_made_pages(docs: Path) -> None:
    """Write the made pages beside those that are written; git ignores them."""
    pages = {
        "reference/cli.md": cli_page(),
        "reference/python.md": python_page(),
        "reference/http.md": http_page(),
        "reference/files.md": files_page(),
        "results.md": results_page(),
    }
    for notebook in (docs / "tutorials").glob("*.ipynb"):
        pages[f"tutorials/{notebook.stem}.md"] = tutorial_page(notebook)
    for path, text in pages.items():
        place = docs / path
        if not place.exists() or place.read_text() != text:  # else Sphinx builds it anew
            place.write_text(text)


def cli_page() -> str:
    """Every command with its help, as the terminal shows it."""
    intro = (ROOT / "docs/reference/cli.md.in").read_text()
    lines = [intro, f"```text\n{_help(cli, 'leuk-ray')}\n```", ""]
    for name, command in _commands(cli, "leuk-ray"):
        lines += [f"## {name}", "", f"```text\n{_help(command, name)}\n```", ""]
    return "\n".join(lines)


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        yield full, command
        if isinstance(command, click.Group):
            yield from _commands(command, full)


def _help(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, max_content_width=88, terminal_width=88)
    return command.get_help(context)


def python_page() -> str:
    """What `import leuk_ray` offers, and what it returns."""
    lines = ["# Python", "", "```python\nimport leuk_ray as lr\n```", ""]
    for name in leuk_ray.__all__:
        lines += _described(f"lr.{name}", getattr(leuk_ray, name))
    lines += ["## Results", ""]
    for one in (
        EvaluationResult,
        TrainedRun,
        CalibratedBundle,
        SweepResult,
        Detections,
        Predictions,
    ):
        lines += _described(one.__name__, one, "###")
    return "\n".join(lines)


def _described(name: str, value: Any, level: str = "##") -> list[str]:
    if not inspect.isclass(value):
        return [f"{level} {name}", "", *_callable(name, value)]
    lines = [f"{level} {name}", "", _prose(inspect.getdoc(value) or ""), ""]
    for method in _METHODS.get(value.__name__, ()):
        lines += _callable(f"{name}.{method}", getattr(value, method))
    return lines


def _callable(name: str, function: Any) -> list[str]:
    signature = str(inspect.signature(function)).replace("'", "")
    text = f"{name}{signature}"
    if len(text) > 90:
        parts = re.split(r", (?=\*?\w+(?::|,|\)|$))", signature[1 : signature.rindex(")")])
        after = signature[signature.rindex(")") :]
        text = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + after
    return [f"```python\n{text}\n```", "", _prose(inspect.getdoc(function) or ""), ""]


def _prose(doc: str) -> str:
    """A docstring with its sections as lists."""
    lines, section = [], ""
    for line in doc.splitlines():
        if line.rstrip(":") in _SECTIONS and line.endswith(":"):
            section = line.rstrip(":")
            lines += ["", f"**{section}**", ""]
        elif section and re.match(r"    \w+: ", line):
            name, _, text = line.strip().partition(": ")
            lines.append(f"- `{name}`: {text}")
        elif section:
            lines.append(f"  {line.strip()}" if line.strip() else "")
        else:
            lines.append(line)
    return "\n".join(lines)


def http_page() -> str:
    """Paths, parameters and answers, from the service's own OpenAPI document."""
    chosen = ServeSettings(bundle=str(ROOT / "tests/data/bundle-version-1"), anonymous=True)
    models = Models(chosen, Metrics(), make=cast(Any, None))  # of which none is asked for
    document = create_api(models, Limits(), None, Metrics()).openapi()
    lines = ["# HTTP", "", "A running service shows it at `/docs`, and as `/openapi.json`.", ""]
    responses = [what["responses"] for one in document["paths"].values() for what in one.values()]
    common = _errors(responses)
    lines += ["Errors are `application/problem+json`. Of any path:", "", *_answers(common)]
    for path, methods in document["paths"].items():
        for method, what in methods.items():
            lines += [f"## {method.upper()} {path}", ""]
            lines += [what["description"], ""] if what.get("description") else []
            if parameters := what.get("parameters"):
                lines += ["| parameter | in | meaning |", "|---|---|---|"]
                for one in parameters:
                    meaning = one.get("description") or one["schema"].get("description", "")
                    lines.append(f"| `{one['name']}` | {one['in']} | {_cell(meaning)} |")
                lines.append("")
            own = {code: one for code, one in what["responses"].items() if code not in common}
            lines += _answers(own)
    lines += ["## Objects", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += [f"### {name}", "", _cell(schema.get("description", "")), "", *_fields(schema)]
    return "\n".join(lines)


def _errors(responses: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers that mean the same wherever they are given."""
    codes = sorted({code for one in responses for code in one if code >= "400"})
    given = {code: [one[code] for one in responses if code in one] for code in codes}
    return {
        code: each[0] for code, each in given.items() if len({_answer(one) for one in each}) == 1
    }


def _answers(responses: dict[str, Any]) -> list[str]:
    rows = [f"| {status} | {_cell(_answer(one))} |" for status, one in responses.items()]
    return ["| status | answer |", "|---|---|", *rows, ""]


def _answer(response: dict[str, Any]) -> str:
    for content in response.get("content", {}).values():
        if "$ref" in content.get("schema", {}):
            name = content["schema"]["$ref"].rpartition("/")[2]
            return f"{response['description']}: [{name}](#{name.lower()})"
    return response["description"]


def _fields(schema: dict[str, Any]) -> list[str]:
    if "properties" not in schema:
        return []
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        meaning = _cell(field.get("description", ""))
        lines.append(f"| `{name}` | {_cell(_type(field))} | {meaning} |")
    return [*lines, ""]


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    return str(field.get("type", "any"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def files_page() -> str:
    """What commands write, and the schemas of bundle.json and report.json."""
    text = (ROOT / "docs/reference/files.md.in").read_text()
    schemas = {
        "bundle.json of one network": ModelManifest,
        "bundle.json of an ensemble": EnsembleManifest,
        "report.json": Report,
    }
    for title, model in schemas.items():
        schema = model.model_json_schema()
        text += f"\n## {title}\n\n" + "\n".join(_fields(schema))
        full = json.dumps(schema, indent=1)
        text += f"\n<details><summary>JSON schema</summary>\n\n```json\n{full}\n```\n\n</details>\n"
    return text


def tutorial_page(notebook: Path) -> str:
    """A notebook with the results of its last run."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        parts += [_shown(output) for output in cell["outputs"]]
    parts.append(f"This page is the notebook `docs/tutorials/{notebook.name}`.")
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div class="output">\n{_joined(data["text/html"])}\n</div>'
    return f"```text\n{_joined(output.get('text') or data['text/plain']).rstrip()}\n```"


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
