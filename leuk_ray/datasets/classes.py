"""The classes of a dataset or bundle: names in the order of labels, and which are positive."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from leuk_ray.utils.errors import DataError
from leuk_ray.utils.wording import listed

MAX_CLASSES = 100
ABSTAIN = "abstain"  # an answer, so no class has this name
_MAX_NAME = 100


@dataclass(frozen=True)
class ClassSet:
    """Two classes or more; label k is the class `names[k]`.

    names: each once. Of two classes, the positive one is the second.
    positive: the classes of the binary view, such as blasts: their summed probability is what ROC
        curves, thresholds and blast fractions stand on. Empty: there is no binary view. Two
        classes always have one.
    ordered: neighbouring classes are alike, as stages of maturation: kappa is then quadratic.

    Raises:
        DataError: a name that is empty, too long, there twice, with a comma or not printable;
            fewer than 2 or more than MAX_CLASSES; a positive class that is none, or all of them.
    """

    names: tuple[str, ...]
    positive: tuple[str, ...] = ()
    ordered: bool = False

    def __post_init__(self) -> None:
        names = [name.casefold() for name in self.names]
        if not 2 <= len(names) <= MAX_CLASSES:
            raise DataError(f"{len(names)} classes: 2 to {MAX_CLASSES} are supported")
        for name in self.names:
            if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
                raise DataError(
                    f"class {name[:_MAX_NAME]!r}: names have 1 to {_MAX_NAME} printable characters"
                )
            if "," in name:
                raise DataError(f"class {name!r}: commas separate class names; rename it")
            if name.casefold() == ABSTAIN:
                raise DataError(f"class {name!r}: is what an unanswered cell is called; rename it")
            if names.count(name.casefold()) > 1:
                raise DataError(f"class {name!r}: is there twice; letters' case does not count")
        if strange := [name for name in self.positive if name not in self.names]:
            raise DataError(f"positive class {strange[0]!r}: is not among {listed(self.names)}")
        if len(set(self.positive)) == len(self.names):
            raise DataError("every class is positive: leave the negative ones out")
        if len(self.names) == 2 and self.positive != self.names[1:]:
            raise DataError("of two classes the second is the positive one")

    @classmethod
    def of_manifest(cls, values: Mapping[str, Any]) -> ClassSet:
        """Read them as dataset.json has them."""
        return cls(tuple(values["classes"]), tuple(values["positive"]), bool(values["ordered"]))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def is_positive(self) -> np.ndarray:
        """(K,) bool: which labels are positive."""
        return np.asarray([name in self.positive for name in self.names])

    @property
    def binary_names(self) -> tuple[str, str]:
        """What the two sides of the binary view are called, negative and positive."""
        if len(self.names) == 2:
            return self.names[0], self.names[1]
        return "other", " or ".join(self.positive) if len(self.positive) < 3 else "positive"

    def binary_labels(self, labels: np.ndarray) -> np.ndarray:
        """Labels of the binary view, (N,) int64: 1 positive, 0 negative, -1 unknown."""
        known = np.maximum(labels, 0)
        return np.where(labels < 0, -1, self.is_positive[known].astype(np.int64))

    def count(self, labels: Sequence[int | None]) -> dict[str, int]:
        """Count the `labels` of each class, 0 included."""
        return {name: labels.count(label) for label, name in enumerate(self.names)}

    @property
    def described(self) -> str:
        """The classes in words: `healthy, blast (positive)`."""
        marked = [name + " (positive)" * (name in self.positive) for name in self.names]
        return listed(marked) + ", ordered" * self.ordered

    @property
    def options(self) -> str:
        """Options of `prepare` that give a dataset these classes, in this order."""
        if self == BINARY:
            return "--binary --positive NAME[,NAME]"
        words = ["--classes", ",".join(self.names)]
        if self.positive:
            words += ["--positive", ",".join(self.positive)]
        return shlex.join(words) + " --ordered" * self.ordered


BINARY = ClassSet(("healthy", "ALL"), ("ALL",))


def require_two(classes: ClassSet, where: object) -> None:
    """Refuse a dataset of more than two classes where only two are supported.

    Raises:
        DataError: there are more.
    """
    if len(classes) > 2:
        raise DataError(
            f"{where}: has {len(classes)} classes, and only two are supported here; prepare "
            "the images with --binary --positive NAME[,NAME]"
        )
