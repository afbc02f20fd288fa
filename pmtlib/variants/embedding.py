r"""Embedding PMT: of the last shared map only what small heads of one's own tell of people is matched.

A service needs of a map what says who somebody is, and nothing else. The user does not have the layers that tell it,
and trains others on public faces (:func:`pmtlib.attacks.adaptive.stitch.train_head`) to stand in for them. With heads
:math:`h_1 \dots h_H` on the last shared map E of a network, the loss is Eq. 7, or Eq. 8 for several networks, on

.. math::
    f_i(x) = \left(\frac{h_1(E_c^{(i)}(x))}{\|h_1(E_c^{(i)}(x))\|}, \dots,
                   \frac{h_H(E_c^{(i)}(x))}{\|h_H(E_c^{(i)}(x))\|}\right)

so that whatever the heads do not look at is free. The service's own hidden layers stay unseen, and the heads that
protect are no heads of an attacker: what a service recognises of the result is what the heads have in common with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pmtlib.errors import ConfigError
from pmtlib.transform import Run
from pmtlib.variants.deep import DeepConfig

_KNOWN: dict[str, nn.Module] = {}


def know(head: nn.Module) -> str:
    """Have a head, or a translator, at hand for configurations that name it.

    Args:
        head: from features (N, C, h, w) to embeddings (N, D); or a
            :class:`~pmtlib.attacks.adaptive.translate.Translator`. A copy of its present state is not taken.

    Returns:
        The sha256 of its weights, and of a translator's ``sizes``: its name in :attr:`EmbeddingConfig.heads`, or among
        the guards of :class:`pmtlib.variants.guarded.GuardedConfig`. Results depend on nothing else of it.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    sizes = getattr(head, "sizes", None)
    about = None if sizes is None else {"sizes": json.dumps(sizes)}
    digest = hashlib.sha256(safetensors.torch.save(state, about)).hexdigest()
    _KNOWN[digest] = head.requires_grad_(False).eval()
    return digest


def known(
    names: Sequence[Sequence[str]], networks: int, device: torch.device, what: str = "head"
) -> list[list[nn.Module]]:
    """The heads of each network by their names, on a device.

    Raises:
        ConfigError: one was not given to :func:`know` in this process, or not every network has one; ``what`` they are
            is said.
    """
    if len(names) != networks or not all(names):
        raise ConfigError(f"{what}s for {len(names)} of {networks} network(s); give one or more for each")
    missing = [name for several in names for name in several if name not in _KNOWN]
    if missing:
        raise ConfigError(f"{what} {missing[0][:12]} is not known here; train it and call embedding.know({what})")
    return [[_KNOWN[name].to(device) for name in several] for several in names]


class EmbeddingConfig(DeepConfig):
    """Choices of embedding PMT, beside those of :class:`~pmtlib.variants.deep.DeepConfig`.

    Attributes:
        variant: which variant this configuration is for.
        heads: names (:func:`know`) of the heads on each authorised network's last shared map, in the networks' order.
    """

    variant: Literal["embedding"] = "embedding"  # type: ignore[assignment]
    heads: tuple[tuple[str, ...], ...] = Field(min_length=1)

    @property
    def run(self) -> type[Run]:
        """The run that compares embeddings."""
        return EmbeddingRun


class EmbeddingRun(Run):
    """A batch of embedding PMT.

    Raises:
        ConfigError: a head is not known in this process, or a network has none.
    """

    config: EmbeddingConfig

    @cached_property
    def heads(self) -> list[list[Any]]:
        """The heads of each network, on the device of the images."""
        return known(self.config.heads, len(self.models), self.original.device)

    def _aggregate(self, outputs: list[Tensor], model: int) -> list[Tensor]:
        last = outputs[-1]
        try:
            said = [F.normalize(head(last), dim=1) for head in self.heads[model]]
        except RuntimeError as error:
            raise ConfigError(
                f"a head of network {model + 1} does not fit its map {tuple(last.shape[1:])}; train it at this cut"
            ) from error
        return [torch.cat(said, dim=1).to(self.original.dtype)]
