"""Deep PMT: match the last map that the service shares and nothing before it, and share deep.

PMT as published matches every shared layer of a shallow model whose map is 28x28: all of that goes through the filter,
and who learns from uploads gets the face back. A map behind more layers has less of the photograph in it, and where
only that map is compared the pixels are free to hold anything that leads there. The loss is Eq. 7, or Eq. 8 for
several networks, on

.. math::
    f_i(x) = E_c^{(i)}(x), \\quad c = \\text{the last unit with a map of 7x7}

without the layer aggregation of Algorithm 2. It hides much of a face from filters and from networks that restore
faces. It does not hide whose face it is from somebody who holds the shared model: what an upload matches there is
translated to embeddings of other networks (:mod:`pmtlib.attacks.adaptive.translate`). And the service gives away its
network up to that unit.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pmtlib.transform import Augmentation, PMTConfig, Rule

CUT = "7x7"
"""The cut that the variant is made for; :func:`pmtlib.shallow.resolve_cut` finds it in any network."""


class DeepConfig(PMTConfig):
    """Choices of deep PMT: those of :class:`~pmtlib.transform.PMTConfig`, with other defaults.

    Attributes:
        variant: which variant this configuration is for.
        steps: K of Algorithm 1, the number of updates.
        step_size: alpha; with the rule adam its learning rate, on the [0, 1] scale.
        augmentation: T of Algorithm 2; none, so that the photograph is looked at once.
        aggregate: compare the outputs of all shared units; off, only the last map counts.
    """

    variant: Literal["deep"] = "deep"
    steps: int = Field(40, ge=0, le=1_000_000)
    step_size: float = Field(0.06, gt=0, allow_inf_nan=False)
    rule: Rule = "adam"
    augmentation: Augmentation = "none"
    aggregate: bool = False
