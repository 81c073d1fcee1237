"""Settings of the augmentation."""

from __future__ import annotations

from typing import Literal

from leuk_ray.utils.settings import Settings

Fill = Literal["black", "reflect"]
Policy = Literal["none", "saeed2022", "bukhari2022", "bukhari2022-pixel", "modern"]


class AugmentSettings(Settings):
    """Augmentation of training cells.

    policy: `saeed2022` (A04), `bukhari2022` (B03; `-pixel` shifts by one pixel, as its words
        are in Keras), `modern` (any turn, flips, scale, stain) or `none`.
    fill: what a warp brings in: `black` for cells segmented on black, `reflect` for full
        fields, where black corners would become a cue.
    """

    policy: Policy = "saeed2022"
    fill: Fill = "black"
