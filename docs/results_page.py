"""The results page of the documentation, from benchmarks/results."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from results import table as figures_table
from results_file import Measurement, read_all


def results_page() -> str:
    """The measurements of benchmarks/results, by topic."""
    lines = [
        "# Results",
        "",
        "Each measurement names its command, machine, date and commit; ratios are taken within one",
        "run. How to measure, and what was learned, is in `benchmarks/NOTES.md`.",
        "",
    ]
    topic = ""
    for name, file in read_all().items():
        if file.topic != topic:
            topic = file.topic
            lines += [f"## {topic}", ""]
        lines += [f"### {file.title}", ""]
        for one in file.measurements:
            lines += [] if one.title == file.title else [f"#### {one.title}", ""]
            lines += _measurement(one)
        lines += [f"From `benchmarks/results/{name}.json`.", ""]
    return "\n".join(lines)


def _measurement(one: Measurement) -> list[str]:
    ran = one.command if one.command.startswith("by hand") else f"`{one.command}`"
    commit = {"measured": "commit", "recorded": "noted in commit"}[one.commit_is]
    lines = [f"{ran}; {one.machine}; {one.date}, {commit} {one.commit}.", ""]
    lines += [line for text in one.what for line in (text, "")]
    lines += [f"*Expected:* {one.expected}", ""] if one.expected else []
    if one.table:
        names = [column.name for column in one.table.columns]
        aligned = ["---" if column.decimals is None else "---:" for column in one.table.columns]
        lines += [_row(names), _row(aligned)]
        for row in one.table.rows:
            cells = zip(one.table.columns, row, strict=True)
            lines.append(_row([column.text(cell) for column, cell in cells]))
        lines.append("")
    lines += (
        [figures_table([found.model_dump() for found in one.results]), ""] if one.results else []
    )
    return lines + [line for text in one.findings for line in (text, "")]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
