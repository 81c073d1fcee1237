"""What commands on a registry's versions and on a service's record print."""

from __future__ import annotations

from typing import Any

from leuk_ray.utils.wording import counted


def trace_text(values: dict[str, Any]) -> str:
    """Format the result of `trace verify`."""
    chains = values["chains"]
    lines = [f"{counted(len(chains), 'chain')} intact: {counted(values['lines'], 'line')}"]
    if ended := [chain for chain in chains if chain["state"] == "ended"]:
        lines.append(
            f"  {len(ended)} ended without being closed, as when a replica is killed: "
            f"{ended[0]['name']}{', ...' if len(ended) > 1 else ''}"
        )
    lines += [
        f"  {chain['name']}: its last line is torn ({chain['torn']} bytes); its answer was not sent"
        for chain in chains
        if chain["torn"] and chain["state"] != "open"
    ]
    return "\n".join(lines)


def replay_text(values: dict[str, Any]) -> str:
    """Format the result of `trace replay`."""
    lines = [
        f"{counted(values['answers'], 'traced answer')} repeated; probabilities differ by "
        f"{values['largest_difference']:.1e} at most"
    ]
    if values["other_bundles"]:
        lines.append(f"  {values['other_bundles']} more are of other bundles")
    if missing := values["not_traced"]:
        lines.append(f"  not in the trace: {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}")
    return "\n".join(lines)


def gc_text(values: dict[str, Any]) -> str:
    """Format the result of `models gc`."""
    if not values["deleted"]:
        return f"{values['name']}: no version to delete"
    numbers = ", ".join(map(str, values["deleted"]))
    return f"{values['name']}: {'would delete' if values['dry_run'] else 'deleted'} {numbers}"
