from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pmtlib.convert.state import first_line, fitted
from pmtlib.errors import NetworkError

SOURCE = Path("weights.bin")


def build():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def whole():
    state = {name: tensor.double() for name, tensor in build().state_dict().items()}
    del state["1.num_batches_tracked"]
    return state


def test_a_fitting_state_is_float32_and_loads():
    state = fitted(whole(), build, SOURCE)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in state.values())
    build().load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("0.bias"), r"no weights for 0\.bias \(1 missing\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"unknown extra \(1 too many\)"),
        (lambda s: s.update({"0.weight": torch.zeros(2, 3)}), r"0\.weight has shape \(2, 3\), not \(3, 2\)"),
        (
            lambda s: s.update({"0.bias": torch.tensor([0, float("nan"), 1])}),
            r"0\.bias holds values that are not",
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(change, reason):
    state = whole()
    change(state)
    with pytest.raises(NetworkError, match=rf"^weights\.bin: [^\n]*{reason}[^\n]*$"):
        fitted(state, build, SOURCE)


def test_first_line_of_an_error():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(EOFError()) == "EOFError"
