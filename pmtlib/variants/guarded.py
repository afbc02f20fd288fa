r"""Guarded PMT: deep PMT against an attacker whom the user trains first and holds the upload against.

What an upload matches is translated to embeddings of other networks (:mod:`pmtlib.attacks.adaptive.translate`). The
user can train such translators too, from other weights than any attacker's, and have them no longer see the person in
the upload. With translators :math:`t_1 \dots t_G` on the last shared map E, each for several networks n, the loss is

.. math::
    \sum_i w_i \| f_i(\tilde x) - f_i(x) \|^2
        + \mu \sum_i \operatorname*{mean}_{g, n} \max\bigl(0, \cos(t_{g,n}(E^{(i)}(T(\tilde x))), t_{g,n}(E^{(i)}(x)))
        \bigr)

where the first sum is that of deep PMT (:mod:`pmtlib.variants.deep`).

Experimental. What deceives a translator that is there need not deceive one that is trained afterwards, on uploads: the
book's audit tells what is left of it then.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pmtlib.errors import ConfigError
from pmtlib.transform import Run, Transform
from pmtlib.variants.deep import DeepConfig
from pmtlib.variants.embedding import known


class GuardedConfig(DeepConfig):
    """Choices of guarded PMT, beside those of :class:`~pmtlib.variants.deep.DeepConfig`.

    Attributes:
        variant: which variant this configuration is for.
        guards: names (:func:`pmtlib.variants.embedding.know`) of the translators
            (:class:`pmtlib.attacks.adaptive.translate.Translator`) on each authorised network's last shared map, in
            the networks' order.
        guard_weight: mu, how much they count beside the features; 0 is deep PMT.
    """

    variant: Literal["guarded"] = "guarded"  # type: ignore[assignment]
    guards: tuple[tuple[str, ...], ...] = Field(min_length=1)
    guard_weight: float = Field(0.3, ge=0, allow_inf_nan=False)

    @property
    def run(self) -> type[Run]:
        """The run with the guards' penalty."""
        return GuardedRun


class GuardedRun(Run):
    """A batch of guarded PMT.

    Raises:
        ConfigError: a guard that counts is not known in this process, is no translator or one for another map, or a
            network has none.
    """

    OF_IMAGES: ClassVar[tuple[str, ...]] = ("readings",)

    config: GuardedConfig

    @cached_property
    def maps(self) -> dict[int, Tensor]:
        """Each network's last map of what came by last: within a step, the step's candidates."""
        return {}

    @cached_property
    def guards(self) -> list[list[Any]]:
        """The guards of each network, on the device of the images."""
        return known(self.config.guards, len(self.models), self.original.device, "guard")

    @cached_property
    def readings(self) -> list[list[Tensor]]:
        """What the guards of each network say of the photographs: a list of (N, D)."""
        with torch.no_grad(), self._arithmetic():
            maps = [model.feature(self.original) for model in self.models]
        return [self._read(model, last) for model, last in enumerate(maps)]

    def _read(self, model: int, last: Tensor) -> list[Tensor]:
        last = last.to(self.original.dtype)
        try:
            return [said for guard in self.guards[model] for said in guard.of_features(last).values()]
        except RuntimeError as error:
            raise ConfigError(
                f"a guard of network {model + 1} does not fit its map {tuple(last.shape[1:])}; train it at this cut"
            ) from error
        except AttributeError as error:
            raise ConfigError(f"a guard of network {model + 1} is no translator; use train_translator") from error

    def _aggregate(self, outputs: list[Tensor], model: int) -> list[Tensor]:
        self.maps[model] = outputs[-1]
        return super()._aggregate(outputs, model)

    def _penalty(self, candidate: Tensor, transform: Transform, target: list[list[Tensor]]) -> Tensor | None:
        if not self.config.guard_weight:
            return None
        total = torch.zeros(len(candidate), dtype=candidate.dtype, device=candidate.device)
        for model, goals in enumerate(self.readings):
            said = self._read(model, self.maps[model])
            alike = [F.cosine_similarity(own, goal, dim=1) for own, goal in zip(said, goals, strict=True)]
            total = total + torch.stack(alike).clamp_min(0).mean(0)
        return self.config.guard_weight * total
