"""Settings of the augmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leuk_ray.utils.settings import Settings

Fill = Literal["black", "reflect"]
Policy = Literal["none", "saeed2022", "bukhari2022", "bukhari2022-pixel", "modern"]


class AugmentSettings(Settings):
    """How training cells are augmented."""

    policy: Policy = "saeed2022"
    """Random transforms. `saeed2022`: rotation by 0, 20 or 30 degrees, brightness 0.2 to 1.2,
    flips. `bukhari2022`: rotation by 0, 60 or 90 degrees, shifts of up to 10% of the side;
    `bukhari2022-pixel`: shifts of one pixel, as Keras reads the paper's text. `modern`: any
    rotation, flips, scale within 10%, stain within 15%, brightness within 10%. `none`: no
    augmentation."""

    fill: Fill = "black"
    """Value of pixels from outside the image. `black` for cells segmented on black, `reflect` for
    full fields, where black corners would become a cue."""

    mixup: float = Field(default=0.0, ge=0)
    """Alpha of Mixup (Zhang et al. 2018): a training cell and its label are blended with another
    of its batch by a share from Beta(alpha, alpha). 0: no Mixup. Each cell is read and augmented
    twice."""

    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of CutMix (Yun et al. 2019): a square of another cell of the batch is pasted in, its
    area from Beta(alpha, alpha), and the label shared accordingly. 0: no CutMix; beside `mixup`, a
    cell takes either."""

    @property
    def mixes(self) -> bool:
        """Whether training cells are mixed with others."""
        return bool(self.mixup or self.cutmix)
