"""Plain PMT as it was when the first variant was added: whatever hangs on the transform since must not move it.

``golden_transform.json`` holds the images (5 decimals) that the transform gave then. It is written by hand only, by
running this file, where the algorithm itself is meant to change; raise the version in ``pipeline`` then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig, protect
from tests.small_network import SmallNetwork, photographs

GOLDEN = Path(__file__).parent / "golden_transform.json"
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "algorithm 1": {"rule": "raw", "augmentation": "none", "aggregate": False, "kernel": "none", "relative": False},
    "adam": {"rule": "adam", "step_size": 0.02, "augmentation": "mix", "initialisation": "blur"},
    "sign": {"rule": "sign", "initialisation": "substitution", "augmentation": "affine", "kernel": "linear"},
    "two models": {"rule": "l1", "step_size": 2.0, "weights": (1.0, 0.25), "distance": "norm", "seed": 5},
    "stopping": {"stop_cosine": 0.8, "augmentation": "none"},
}


def outcome(changes: dict[str, Any]) -> dict[str, Any]:
    models = [ShallowModel(SmallNetwork(0), 2), ShallowModel(SmallNetwork(3), 1)][: len(changes.get("weights", "1"))]
    result = protect(photographs(2, size=8), models, PMTConfig(steps=6, batch_size=2, **changes))
    return {
        "images": [round(value, 5) for value in result.images.double().flatten().tolist()],
        "cosine": [round(value, 5) for value in result.cosine.double().flatten().tolist()],
        "steps": result.steps.tolist(),
    }


@pytest.mark.parametrize("case", CASES)
def test_plain_pmt_gives_what_it_always_gave(case: str) -> None:
    expected = json.loads(GOLDEN.read_text())[case]
    found = outcome(CASES[case])
    # Half a unit of the fifth decimal by rounding; the rest is for another processor's arithmetic over six steps.
    np.testing.assert_allclose(found["images"], expected["images"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(found["cosine"], expected["cosine"], rtol=0, atol=5e-5)
    assert found["steps"] == expected["steps"]


def test_the_stored_cases_are_the_cases_and_differ() -> None:
    stored = json.loads(GOLDEN.read_text())
    assert list(stored) == list(CASES)
    assert len({tuple(case["images"]) for case in stored.values()}) == len(CASES)


if __name__ == "__main__":
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(outcome(changes))}" for case, changes in CASES.items())
    GOLDEN.write_text(f"{{\n{lines}\n}}\n")
