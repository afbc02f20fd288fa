from __future__ import annotations

import struct

import numpy as np
import pytest

from pmtlib.convert.dlib import read_dlib_layers
from pmtlib.errors import NetworkError


def integer(value):
    """dlib's packed integer: a control byte (length, sign) and the magnitude, low byte first."""
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def string(text):
    return integer(len(text)) + text.encode()


def tensor(values, sizes):
    return b"".join(map(integer, (2, *sizes))) + struct.pack(f"<{len(values)}f", *values)


def network():
    # 1e-40 and friends: weights whose bytes look like the announcement of a layer must not be taken for one.
    sneaky = struct.unpack("<3f", b"\x01\x05con_4\x01\x02\x01\x01\x01")
    convolution = [*np.linspace(-1, 1, 301).tolist(), *sneaky]
    return (
        string("loss_metric_2")
        + string("con_4")
        + tensor(convolution, (304, 1, 1, 1))
        + b"".join(map(integer, (16, 3, 3, 2, 1, 0, 300)))
        + string("affine_")
        + tensor([2.0, 3.0], (2, 1, 1, 1))
        + string("relu_")
        + string("fc_2")
        + integer(2)
        + integer(3)
        + tensor([1, 2, 3, 4, 5, 6], (3, 2, 1, 1))
        + integer(-7)
    )


def test_layers_come_with_parameters_and_settings(tmp_path):
    path = tmp_path / "net.dat"
    path.write_bytes(network())
    convolution, affine, full = read_dlib_layers(path)
    assert (convolution.kind, convolution.settings, convolution.parameters.shape) == (
        "con",
        (16, 3, 3, 2, 1, 0, 300),
        (304,),
    )
    np.testing.assert_allclose(convolution.parameters[:301], np.linspace(-1, 1, 301, dtype=np.float32))
    assert (affine.kind, affine.settings, affine.parameters.tolist()) == ("affine", (), [2.0, 3.0])
    assert (full.kind, full.settings, full.parameters.tolist()) == ("fc", (2, 3), [1, 2, 3, 4, 5, 6])


def test_file_cut_short_anywhere_never_crashes(tmp_path):
    content, path = network(), tmp_path / "cut.dat"
    whole = 0
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        try:
            whole = len(read_dlib_layers(path))
        except NetworkError as error:
            message = str(error)
            assert "\n" not in message
            assert "cut.dat" in message
    assert whole in (1, 2, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a dlib network"),
        (b"PK\x03\x04 some archive", "not a dlib network"),
        (string("con_4") + integer(3) + bytes(40), "tensor version 3"),
        (string("con_4") + b"\x7f" + bytes(40), "no integer"),
        (string("affine_") + b"".join(map(integer, (2, -1, 1, 1, 1))), "tensor of"),
        (string("affine_") + b"".join(map(integer, (2, 10**9, 10**9, 1, 1))), "the file ends"),
    ],
)
def test_malformed_files_are_named_in_one_line(tmp_path, content, reason):
    path = tmp_path / "broken.dat"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match=rf"^[^\n]*broken\.dat: [^\n]*{reason}[^\n]*$"):
        read_dlib_layers(path)


def test_absent_file(tmp_path):
    with pytest.raises(NetworkError, match=r"^[^\n]*absent\.dat: [^\n]*$"):
        read_dlib_layers(tmp_path / "absent.dat")
