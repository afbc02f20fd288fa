"""Float weights from a PyTorch state dict whose linear layers were dynamically quantised to int8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pmtlib.assets import read_torch
from pmtlib.convert.state import REMEDY, first_line
from pmtlib.errors import AssetError, NetworkError

# torch.ao.nn.quantized.dynamic.Linear keeps (weight, bias) under this name, beside its output scale and zero point.
_PACKED = "._packed_params._packed_params"


def read_quantised_state(path: Path) -> dict[str, Tensor]:
    """The state dict with each quantised linear layer as plain ``weight`` (dequantised) and ``bias``.

    Raises:
        NetworkError: the file is not such a state dict.
    """
    try:
        stored = read_torch(path)
    except AssetError as error:
        raise NetworkError(str(error)) from error
    if not isinstance(stored, Mapping):
        raise NetworkError(f"{path}: holds a {type(stored).__name__}, not a state dict; {REMEDY}")
    packed = {name.removesuffix(_PACKED): value for name, value in stored.items() if str(name).endswith(_PACKED)}
    state: dict[str, Tensor] = {}
    for name, value in stored.items():
        layer = str(name).split("._packed_params", 1)[0].removesuffix(".scale").removesuffix(".zero_point")
        if layer in packed:
            continue
        if not isinstance(value, Tensor):
            raise NetworkError(f"{path}: {name} is a {type(value).__name__}, not a tensor; {REMEDY}")
        state[str(name)] = value
    for layer, value in packed.items():
        try:
            weight, bias = value
            state[f"{layer}.weight"] = weight.dequantize()
            if bias is not None:
                state[f"{layer}.bias"] = bias.detach()
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise NetworkError(f"{path}: {layer} is malformed ({first_line(error)}); {REMEDY}") from error
    return state
