from __future__ import annotations

import json

import numpy as np
import pytest

from pmtlib.convert.tfjs import read_tfjs_weights
from pmtlib.errors import NetworkError


def save(folder, groups):
    """Writes ``groups`` (lists of (entry, array)) as one shard each; gives topology and shards."""
    manifest, shards = [], []
    for number, group in enumerate(groups):
        shard = folder / f"shard{number}.bin"
        shard.write_bytes(b"".join(np.asarray(array).tobytes() for _, array in group))
        shards.append(shard)
        manifest.append({"paths": [shard.name], "weights": [entry for entry, _ in group]})
    topology = folder / "model.json"
    topology.write_text(json.dumps({"format": "graph-model", "weightsManifest": manifest}))
    return topology, shards


def entry(name, shape, kind="float32", **quantization):
    row = {"name": name, "shape": shape, "dtype": kind}
    return {**row, "quantization": quantization} if quantization else row


def test_every_stored_type_is_read(tmp_path):
    kernel = np.arange(6, dtype="<f4").reshape(1, 2, 3)
    topology, shards = save(
        tmp_path,
        [
            [(entry("kernel", [1, 2, 3]), kernel), (entry("axes", [2], "int32"), np.int32([1, 2]))],
            [
                (entry("scalar", []), np.float32(6)),
                (entry("half", [2], dtype="float16"), np.float16([0.5, -2])),
                (entry("byte", [3], dtype="uint8", scale=0.5, min=-1.0), np.uint8([0, 2, 255])),
                (entry("short", [1], dtype="uint16", scale=2.0, min=1.0), np.uint16([1000])),
            ],
        ],
    )
    weights = read_tfjs_weights(topology, shards)
    assert list(weights) == ["kernel", "axes", "scalar", "half", "byte", "short"]
    np.testing.assert_array_equal(weights["kernel"], kernel)
    assert weights["axes"].dtype == np.int32
    assert weights["scalar"].shape == ()
    assert float(weights["scalar"]) == 6
    assert weights["half"].tolist() == [0.5, -2.0]
    assert weights["byte"].tolist() == [-1.0, 0.0, 126.5]
    assert weights["short"].tolist() == [2001.0]
    assert all(weights[name].dtype == np.float32 for name in ("half", "byte", "short"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<html>",
        "[]",
        "3",
        "{}",
        '{"weightsManifest": 3}',
        '{"weightsManifest": [{}]}',
        '{"weightsManifest": [{"paths": ["a.bin"]}]}',
        '{"weightsManifest": [{"paths": ["a.bin"], "weights": 3}]}',
    ],
)
def test_malformed_topology_is_named_in_one_line(tmp_path, content):
    topology, shard = tmp_path / "broken.json", tmp_path / "a.bin"
    topology.write_text(content)
    shard.write_bytes(b"")
    with pytest.raises(NetworkError, match=r"^[^\n]*broken\.json[^\n]*$"):
        read_tfjs_weights(topology, [shard])


@pytest.mark.parametrize(
    ("row", "size", "reason"),
    [
        (entry("w", [3]), 8, "w ends at byte 12 of 8"),
        (entry("w", [2]), 12, "12 bytes, but model.json describes 8"),
        (entry("w", [-1]), 4, "shape"),
        (entry("w", [1], "string"), 4, "string"),
        (entry("w", ["many"]), 4, "many"),
        ({"shape": [1], "dtype": "float32"}, 4, "name"),
        (entry("w", [4], dtype="uint8"), 4, "scale"),
        ("w", 4, "does not hold"),
    ],
)
def test_shard_that_does_not_fit_is_named_in_one_line(tmp_path, row, size, reason):
    topology, shards = save(tmp_path, [[(row, np.zeros(size, np.uint8))]])
    with pytest.raises(NetworkError, match=rf"^[^\n]*shard0\.bin: [^\n]*{reason}[^\n]*$"):
        read_tfjs_weights(topology, shards)


def test_shards_missing(tmp_path):
    topology, shards = save(tmp_path, [[(entry("w", [1]), np.zeros(1, np.float32))]])
    with pytest.raises(NetworkError, match=r"^[^\n]*model\.json: lists 1 weight files, 0 given[^\n]*$"):
        read_tfjs_weights(topology, [])
    shards[0].unlink()
    with pytest.raises(NetworkError, match=r"^[^\n]*shard0\.bin: cannot be read[^\n]*$"):
        read_tfjs_weights(topology, shards)
