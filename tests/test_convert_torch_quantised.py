from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from pmtlib.convert.torch_quantised import read_quantised_state
from pmtlib.errors import NetworkError


def quantised(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.skipif(not torch.backends.quantized.supported_engines, reason="this torch cannot quantise")
def test_quantised_layers_become_plain_ones(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"conv": nn.Conv2d(2, 3, 1), "linear": nn.Linear(5, 4), "flat": nn.Linear(5, 2, bias=False)})
    path = tmp_path / "net.pt"
    torch.save(quantised(model).state_dict(), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = read_quantised_state(path)
    assert set(state) == {"conv.weight", "conv.bias", "linear.weight", "linear.bias", "flat.weight"}
    torch.testing.assert_close(state["conv.weight"], model["conv"].weight.data)
    torch.testing.assert_close(state["linear.bias"], model["linear"].bias.data)
    for name in ("linear", "flat"):
        weight = model[name].weight.data
        # Symmetric int8: a step is at most the largest magnitude over 127, and rounding errs by half a step.
        step = float(weight.abs().max()) / 127
        assert not state[f"{name}.weight"].is_quantized
        assert float((state[f"{name}.weight"] - weight).abs().max()) <= step * 1.01


def test_a_plain_state_dict_passes_unchanged(tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"a.weight": torch.ones(2), "a.scale": torch.zeros(1)}, path)
    state = read_quantised_state(path)
    assert set(state) == {"a.weight", "a.scale"}


def test_malformed_files_are_named_in_one_line(tmp_path):
    whole = tmp_path / "whole.pt"
    torch.save({"a": torch.ones(1000)}, whole)
    content, path = whole.read_bytes(), tmp_path / "broken.pt"
    for broken in (b"", b"\x00" * 50, b"<html>not found</html>", content[: len(content) // 2], content[:100]):
        path.write_bytes(broken)
        with pytest.raises(NetworkError, match=r"^[^\n]*broken\.pt[^\n]*$"):
            read_quantised_state(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds a list"),
        ({"a.weight": 3}, "a.weight is a int"),
        ({"a._packed_params._packed_params": (torch.ones(2),)}, "a is malformed"),
        ({"a._packed_params._packed_params": ("x", None)}, "a is malformed"),
        ({"a._packed_params._packed_params": 5}, "a is malformed"),
    ],
)
def test_other_contents_are_named_in_one_line(tmp_path, content, reason):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(NetworkError, match=rf"^[^\n]*other\.pt: {reason}[^\n]*$"):
        read_quantised_state(path)


def test_code_in_a_pickle_is_not_run(tmp_path):
    path = tmp_path / "code.pt"
    torch.save({"a": nn.Linear(1, 1)}, path)
    with pytest.raises(NetworkError, match=r"^[^\n]*code\.pt[^\n]*$"):
        read_quantised_state(path)
