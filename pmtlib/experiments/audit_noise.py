"""What the start of an upload tells: who has the seed needs no network to follow a photograph.

A seed follows from the photograph's pixels and a base seed (:func:`pmtlib.transform.image_seed`), so that a laptop and
a cluster make the same images. Of one base seed the noise that the optimisation starts from is the same for every
service, variant and number of steps, and much of it is left in the upload; ``pmt protect`` has another base seed for
each service since this was measured (:func:`pmtlib.transform.service_seed`). Plain correlation of pixels is asked here
what it tells: no network, no shallow model, no photograph. (Torch's generator on processors takes 32 bits of a seed, so
that all starts there are can be listed.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from pmtlib import metrics
from pmtlib.experiments.common import TITLES, Floats, Outcome, rounded
from pmtlib.images import quantise

if TYPE_CHECKING:
    from pmtlib.experiments.audit import Audit

VERSION = 1
OTHER_SERVICE, OTHER_SEED = "sface", 1
START, SERVICE, SERVICE_SEED, SEED = (
    "its start",
    "the upload for another service",
    "the upload for another service, another base seed",
    "the upload for the same service, another base seed",
)


def measured(audit: Audit, dataset: str, variant: str) -> Outcome:
    """How alike each upload is to what else came of its photograph, and to what came of the others."""
    settings = audit.settings
    if not settings.distractors or OTHER_SERVICE not in settings.networks:
        return Outcome(None, "not run: this profile does not follow the noise of uploads")
    config, cut = audit.config(variant), audit.cut(variant)
    parameters = {**audit.common(variant), "service": OTHER_SERVICE, "seed": OTHER_SEED}
    request = audit.request("audit", f"{dataset}--{variant}--noise", VERSION, parameters, (settings.authorised,))

    def compute() -> dict[str, Any]:
        originals = audit.photographs(dataset).originals

        def made(service: str, changes: Mapping[str, Any]) -> Tensor:
            what = f"{dataset}, {variant} for {service}"
            one = config.model_copy(update=dict(changes))
            return quantise(audit.protect(originals, service, what, config=one, cut=cut).images)

        upload, seed = made(settings.authorised, {}), {"seed": config.seed + OTHER_SEED}
        beside = {
            START: made(settings.authorised, {"steps": 0}),
            SERVICE: made(OTHER_SERVICE, {}),
            SERVICE_SEED: made(OTHER_SERVICE, seed),
            SEED: made(settings.authorised, seed),
        }
        return {name: _alike(upload, images) for name, images in beside.items()}

    return audit.obtain(request, audit.source(dataset), compute)


def correlations(first: Tensor, second: Tensor) -> Floats:
    """Pearson's correlation of the pixels of each of the images (N, ...) with each of others (M, ...): (N, M)."""
    one, other = (
        (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
        for flat in (images.flatten(1).double() for images in (first, second))
    )
    found: Floats = (one @ other.T / (one.shape[1] - 1)).numpy()
    return found


def _alike(upload: Tensor, beside: Tensor) -> dict[str, Any]:
    """For each upload its correlation with its own, and the highest with another photograph's."""
    found = correlations(upload.cpu(), beside.cpu())
    own = np.diag(found).copy()
    np.fill_diagonal(found, -1.0)
    return {"own": rounded(own), "others": rounded(found.max(1))}


def table(outcomes: Mapping[tuple[str, str], Outcome]) -> pd.DataFrame:
    """One line for each kind of image that uploads are compared with.

    Args:
        outcomes: of :func:`measured`, by data set and variant.

    Returns:
        DataFrame with columns dataset, variant, beside (what), n (uploads); accuracy, low, high: how many are more like
        what came of their own photograph than of any other of the n, with 95% Wilson interval; own: the mean
        correlation with it, least: the lowest; others: the highest with another's.
    """
    lines = []
    for (dataset, variant), outcome in outcomes.items():
        if outcome.result is None:
            continue
        for beside, entry in outcome.result.values.items():
            own, others = np.array(entry["own"]), np.array(entry["others"])
            first = own > others
            low, high = metrics.wilson(int(first.sum()), len(first))
            line = {"dataset": dataset, "variant": variant, "beside": beside, "n": len(first)}
            line |= {"accuracy": float(first.mean()), "low": low, "high": high}
            lines.append({**line, "own": own.mean(), "least": own.min(), "others": others.max()})
    return pd.DataFrame(lines)


def reading(frame: pd.DataFrame) -> str:
    """What correlation finds, in words (Markdown).

    Args:
        frame: of :func:`table`.
    """
    lines = []
    for (dataset, variant), part in frame.groupby(["dataset", "variant"], sort=False) if len(frame) else ():
        told = "; ".join(
            f"{line['beside']} {100 * line['accuracy']:.0f}% [{100 * line['low']:.0f}, {100 * line['high']:.0f}] "
            f"(correlation {line['own']:.2f}, at least {line['least']:.2f}; with another's at most "
            f"{line['others']:.2f})"
            for line in part.to_dict("records")
        )
        lines.append(f"- {TITLES.get(str(dataset), dataset)}, *{variant}*, n = {int(part['n'].iloc[0])}: {told}.")
    if not lines:
        return "*Not run: nobody followed the noise of uploads here.*"
    return (
        "**Without any network.** The start of an upload is noise whose seed follows from the photograph and a base "
        "seed, and much of it stays in the upload. With one base seed for all, it is the same for every service; "
        "`pmt protect` therefore mixes the services' names into it, as *another base seed* here does. How many "
        "uploads are by plain correlation of pixels nearest to what came of the same photograph "
        f"({OTHER_SERVICE} the other service):\n\n" + "\n".join(lines)
    )


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Headline numbers, means over the data sets: ``V_noise_KIND`` in percent, of which uploads are found so.

    The kinds are start, service, service_seed and seed; of ``start`` and ``service`` also the correlation, ``_own``.
    """
    names = {START: "start", SERVICE: "service", SERVICE_SEED: "service_seed", SEED: "seed"}
    found: dict[str, float] = {}
    for (variant, beside), part in frame.groupby(["variant", "beside"], sort=False) if len(frame) else ():
        key = f"{str(variant).replace('-', '_')}_noise_{names[str(beside)]}"
        found |= {key: 100 * float(part["accuracy"].mean()), f"{key}_own": float(part["own"].mean())}
    return found
