"""The base of all settings, and their reference."""

import re

from pydantic import BaseModel, ConfigDict, ValidationError

from leuk_ray.utils.errors import near


class Settings(BaseModel):
    """Typed, immutable, finite, and without room for a misspelt key."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def first_problem(error: ValidationError) -> str:
    """Return a validation error in one line: where, what, and what was given."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", problem.get("ctx", {})["expected"])
        return f"{where}: {problem['input']!r} is not known; {near(str(problem['input']), known)}"
    message = problem["msg"].removeprefix("Value error, ")
    own = problem["type"] in ("extra_forbidden", "value_error")  # these say what they need
    given = "" if own else f", given {problem['input']!r}"
    text = f"{message[0].lower()}{message[1:]}{given}{others}"
    return f"{where}: {text}" if where else text
