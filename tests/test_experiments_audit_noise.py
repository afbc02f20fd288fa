"""Following uploads by their noise: correlations by hand, who is nearest, and what the words say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pmtlib.experiments import audit, audit_noise
from pmtlib.experiments.common import Outcome
from pmtlib.experiments.variants import Photographs
from pmtlib.transform import PMTConfig
from tests.test_experiments_audit import NOTHING, SETTINGS, outcome


def test_correlations_are_those_of_numpy() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.rand((count, 3, 4, 4), generator=draw) for count in (2, 3))
    found = audit_noise.correlations(first, second * 0.1 + 5)
    for row in range(2):
        for column in range(3):
            expected = np.corrcoef(first[row].flatten().numpy(), second[column].flatten().numpy())[0, 1]
            assert found[row, column] == pytest.approx(expected, abs=1e-5)


def test_an_upload_is_found_where_its_own_is_nearest_of_all() -> None:
    values = {
        audit_noise.SERVICE: {"own": [0.9, 0.8, 0.7, 0.8], "others": [0.1, 0.2, 0.75, 0.1]},
        audit_noise.SEED: {"own": [0.0, 0.1, 0.0, 0.0], "others": [0.1, 0.2, 0.1, 0.1]},
    }
    frame = audit_noise.table({("lfw", "pmt"): outcome("noise", values), ("cfp_ff", "pmt"): NOTHING})
    assert list(frame["accuracy"]) == [0.75, 0.0]
    line = frame.iloc[0]
    assert (line["n"], line["least"], line["others"]) == (4, 0.7, 0.75)
    assert line["own"] == pytest.approx(0.8)
    words = audit_noise.reading(frame)
    assert (
        "the upload for another service 75% [30, 95] (correlation 0.80, at least 0.70; with another's at most 0.75)"
        in words
    )
    found = audit_noise.summary(frame)
    assert found["pmt_noise_service"] == 75
    assert found["pmt_noise_seed"] == 0
    assert "Not run" in audit_noise.reading(frame.head(0))
    assert audit_noise.summary(frame.head(0)) == {}


def test_what_is_compared_is_made_with_the_seeds_that_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS.model_copy(update={"distractors": 1})
    bench = audit.Audit(settings, torch.device("cpu"))
    count = 5
    originals = torch.rand((count, 3, 112, 112), generator=torch.Generator().manual_seed(0))
    shown = Photographs(originals, np.arange(count), originals, np.ones(count, dtype=bool))
    made: list[tuple[str, int, int]] = []

    def protect(images: torch.Tensor, service: str, what: str, *, config: PMTConfig, cut: object) -> object:
        made.append((service, config.seed, config.steps))
        # Noise of the base seed and the photograph, and the less of it the more steps there are.
        noise = torch.stack(
            [
                torch.rand((3, 112, 112), generator=torch.Generator().manual_seed(100 * config.seed + n))
                for n in range(count)
            ]
        )
        return type("Made", (), {"images": noise if config.steps == 0 else 0.5 * noise + 0.5 * images})()

    def obtain(request: object, source: object, compute: object) -> Outcome:
        return outcome("noise", compute())  # type: ignore[operator]

    for name, instead in (
        ("protect", protect),
        ("obtain", obtain),
        ("photographs", lambda _: shown),
        ("source", lambda _: None),
    ):
        monkeypatch.setattr(bench, name, instead)
    frame = audit_noise.table({("lfw", "pmt"): audit_noise.measured(bench, "lfw", "pmt")})
    steps = settings.pmt.steps
    own = ("mobilefacenet", 0, steps)
    assert made == [own, ("mobilefacenet", 0, 0), ("sface", 0, steps), ("sface", 1, steps), ("mobilefacenet", 1, steps)]
    by_beside = frame.set_index("beside")
    assert (by_beside["accuracy"] == 1).all()
    assert by_beside.loc[audit_noise.SERVICE, "own"] > 0.99 > 0.6 > by_beside.loc[audit_noise.SERVICE_SEED, "own"]
    assert by_beside.loc[audit_noise.START, "own"] > 0.6
    # Where the profile looks at no strangers, at none of this.
    assert (
        audit_noise.measured(
            audit.Audit(SETTINGS.model_copy(update={"distractors": 0}), torch.device("cpu")), "lfw", "pmt"
        ).result
        is None
    )
