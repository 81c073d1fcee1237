"""Settings of the augmentation."""

from __future__ import annotations

from typing import Literal

from leuk_ray.settings import Settings

Fill = Literal["black", "reflect"]


class AugmentSettings(Settings):
    """Augmentation of training cells.

    policy: `saeed2022` (A04) or `none`.
    fill: what a rotation brings in: `black` for cells segmented on black, `reflect` for
        full fields, where black corners would become a cue.
    """

    policy: Literal["none", "saeed2022"] = "saeed2022"
    fill: Fill = "black"
