from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pmtlib.errors import ConfigError
from pmtlib.settings import as_yaml, configure
from pmtlib.transform import PMTConfig
from pmtlib.variants import VARIANTS
from pmtlib.variants.decoy import DecoyConfig


def test_what_is_printed_is_the_default_and_reads_back(tmp_path: Path) -> None:
    text = as_yaml()
    (tmp_path / "c.yaml").write_text(text)
    assert configure(tmp_path / "c.yaml") == PMTConfig()
    assert list(yaml.safe_load(text)) == list(PMTConfig.model_fields)
    comments = [line for line in text.splitlines()[1:] if line.startswith("#")]
    assert len(comments) >= len(PMTConfig.model_fields)


def test_any_configuration_reads_back(tmp_path: Path) -> None:
    config = PMTConfig(steps=7, rule="sign", weights=(1.0, 0.5), stop_cosine=0.9, step_size=1e-5, aggregate=False)
    (tmp_path / "c.yaml").write_text(as_yaml(config))
    assert configure(tmp_path / "c.yaml") == config


def test_options_lie_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("steps: 7\nseed: 3\n")
    config = configure(tmp_path / "c.yaml", {"steps": 9, "rule": None})
    assert (config.steps, config.seed, config.rule) == (9, 3, "mean-abs")
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert configure(tmp_path / "c.yaml") == PMTConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"stepz: 3\n", "c.yaml: there is no field 'stepz'"),
        (b"steps: many\n", "c.yaml: steps: .*integer.*'many'"),
        (b"steps: -1\n", "c.yaml: steps: .*greater than or equal to 0"),
        (b"step_size: .nan\n", "c.yaml: step_size: "),
        (b"steps: 3\nsteps: 4\n", "c.yaml, line 1: not YAML .*'steps' occurs twice"),
        (b"steps: [\n", "c.yaml, line 2: not YAML"),
        (b"- steps\n", "c.yaml: expected lines of `field: value`"),
        (b"!!python/object/apply:os.getcwd []\n", "c.yaml, line 1: not YAML"),
        (b"\xff\xfe\x00", "c.yaml cannot be read|not YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_with_file_and_field(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        configure(tmp_path / "c.yaml")
    assert "\n" not in str(raised.value)


def test_a_wrong_option_does_not_blame_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("steps: 7\n")
    with pytest.raises(ConfigError, match=r"^rule: "):
        configure(tmp_path / "c.yaml", {"rule": "newton"})
    with pytest.raises(ConfigError, match="cannot be read"):
        configure(tmp_path / "missing.yaml")


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_prints_its_fields_with_their_meanings_and_reads_back(tmp_path: Path, name: str) -> None:
    default = configure(variant=name)
    assert type(default) is VARIANTS[name].config
    (tmp_path / "c.yaml").write_text(as_yaml(default))
    assert configure(tmp_path / "c.yaml") == configure(tmp_path / "c.yaml", variant=name) == default
    written = yaml.safe_load((tmp_path / "c.yaml").read_text())
    assert sorted(written) == sorted(VARIANTS[name].config.model_fields)
    comments = [line for line in as_yaml(default).splitlines()[1:] if line.startswith("#")]
    assert len(comments) >= len(written)


def test_a_variant_comes_from_the_file_or_the_option(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("anchor_weight: 2\n")
    assert configure(file, {"steps": 3}, "decoy") == DecoyConfig(anchor_weight=2, steps=3)
    with pytest.raises(ConfigError, match="there is no field 'anchor_weight'"):
        configure(file)
    file.write_text("variant: decoy\nanchor_weight: 2\n")
    assert configure(file) == configure(file, variant="decoy") == DecoyConfig(anchor_weight=2)
    file.write_text("variant: pmt\nsteps: 3\n")
    assert configure(file) == PMTConfig(steps=3)


@pytest.mark.parametrize(
    ("content", "variant", "message"),
    [
        ("steps: 3\n", "decoi", r"^no variant 'decoi'; there are pmt, decoy, deep$"),
        ("variant: decoi\n", None, r"c.yaml: no variant 'decoi'; there are pmt, decoy, deep$"),
        ("variant: [1]\n", None, "c.yaml: no variant"),
        ("variant: decoy\n", "pmt", "c.yaml: it is for the variant decoy, not pmt"),
        ("variant: decoy\nanchor_sigmas: [0]\n", None, "c.yaml: anchor_sigmas.0: .*greater than 0"),
    ],
)
def test_a_wrong_variant_is_one_line(tmp_path: Path, content: str, variant: str | None, message: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message) as raised:
        configure(tmp_path / "c.yaml", variant=variant)
    assert "\n" not in str(raised.value)
