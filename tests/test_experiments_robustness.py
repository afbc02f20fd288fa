"""Section 6.7: operations do what they say; the tables are what plain loops over the stored values give."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pmtlib import metrics, results
from pmtlib.experiments import robustness as experiments
from pmtlib.experiments.common import Outcome
from pmtlib.experiments.robustness import Operation, RobustnessBlock, RobustnessSettings, processed
from pmtlib.figures import robustness as figures
from pmtlib.images import quantise, to_uint8

SETTINGS = RobustnessSettings(
    datasets=("lfw",),
    networks=("mobilefacenet", "sface", "dlib-resnet29"),
    amplitudes=(0.0, 0.2),
    multiples=(1.0,),
    kappas=(0.0, 0.3, 0.6, 0.9),
)
PAIRS, PHOTOGRAPHS = 40, 36
OPERATIONS = ("none", "jpeg-50", "blur-1")


def outcome(name: str, values: dict, experiment: str = "robustness") -> Outcome:
    request = results.Request(experiment, name, 1, {"authorised": "mobilefacenet"})
    manifest = {"date": "2026-01-01", "seconds": 1, "hardware": {"device": "cpu"}, "packages": {"torch": "2"}}
    return Outcome(results.Result(request, {"name": "lfw", "fingerprint": "f", "n": PAIRS}, values, manifest))


def noise(draw: np.random.Generator) -> dict:
    return {
        str(bound): {
            "cosine": draw.uniform(-0.2, 1, PHOTOGRAPHS).round(5).tolist(),
            "lpips": draw.uniform(0, 1, PHOTOGRAPHS).round(5).tolist(),
        }
        for bound in (0.0, 0.1, 0.2)
    }


def made_up_block(seed: int = 0, *, privacy: bool = True) -> RobustnessBlock:
    """Random numbers in the stored form, to check arithmetic with; they measure nothing."""
    draw = np.random.default_rng(seed)
    same = np.tile([1, 0], PAIRS // 2).tolist()

    def by_amplitude() -> dict:
        return {
            images: {
                "absolute": {str(a): draw.uniform(0, 1, PHOTOGRAPHS).round(5).tolist() for a in (0.0, 0.2)},
                "relative": {"1.0": draw.uniform(0, 1, PHOTOGRAPHS).round(5).tolist()},
            }
            for images in ("originals", "uploads")
        }

    def recognised() -> dict:
        own, stranger = by_amplitude(), by_amplitude()
        return {
            images: {
                scale: {
                    a: {"cosine": cosines, "stranger": stranger[images][scale][a]} for a, cosines in entries.items()
                }
                for scale, entries in scales.items()
            }
            for images, scales in own.items()
        }

    def scores() -> list[float]:
        return draw.uniform(-0.2, 1, PAIRS).round(5).tolist()

    operations = {
        key: {
            images: {
                "networks": {name: {"own": scores(), "other": scores()} for name in SETTINGS.networks},
                "ssim": draw.uniform(0, 1, PHOTOGRAPHS).round(5).tolist(),
            }
            for images in ("uploads", "originals")
        }
        for key in OPERATIONS
    }
    limits = {"mobilefacenet": 0.37, "sface": 0.2, "dlib-resnet29": 0.6}
    clean = {"same": same, "networks": {name: {"threshold": limit} for name, limit in limits.items()}}
    photographs = draw.integers(0, PHOTOGRAPHS, PAIRS).tolist()
    return RobustnessBlock(
        "lfw",
        outcome("lfw", clean, "thresholds"),
        outcome("lfw--a", noise(draw), "noise"),
        outcome("lfw--b", noise(draw), "noise"),
        outcome("lfw--features", {"deviation": 7.5, **recognised()}),
        outcome("lfw--reconstructions", by_amplitude()) if privacy else Outcome(None, "not run: no RecFace"),
        outcome("lfw--processing", {"same": same, "photograph": photographs, "operations": operations}),
    )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Two smooth pictures with a fine pattern on them, 8 bits."""
    line = torch.linspace(0, 1, 112)
    smooth = torch.stack([line.expand(112, 112), line.flip(0).expand(112, 112), line[:, None].expand(112, 112)])
    pattern = 0.1 * ((torch.arange(112)[:, None] + torch.arange(112)) % 2 - 0.5)
    return quantise(torch.stack([smooth * 0.6 + 0.2 + pattern, 0.8 - smooth * 0.6 + pattern]))


def test_every_operation_gives_8_bit_images_of_the_same_size(images):
    for operation in RobustnessSettings(datasets=(), networks=("mobilefacenet",)).operations():
        made = processed(images, operation)
        assert made.shape == images.shape
        assert made.min() >= 0
        assert made.max() <= 1
        assert torch.equal(quantise(made), made)
        assert torch.equal(processed(images[1:], operation), made[1:])  # each image on its own
        assert (operation.kind == "none") == torch.equal(made, images)
        experiments.label(operation.key)
    with pytest.raises(ValueError, match="no operation 'melt'"):
        processed(images, Operation("melt", 1.0))


def test_recompression_is_pillows(images):
    for kind, name, quality in (("jpeg", "JPEG", 50), ("webp", "WEBP", 50)):
        buffer = io.BytesIO()
        Image.fromarray(to_uint8(images)[0]).save(buffer, format=name, quality=quality)
        expected = np.asarray(Image.open(buffer).convert("RGB"))
        assert np.array_equal(to_uint8(processed(images, Operation(kind, quality)))[0], expected)
    errors = [(processed(images, Operation("jpeg", quality)) - images).abs().mean() for quality in (95, 75, 50, 30)]
    assert errors == sorted(errors)


def test_rounding_to_bits_keeps_that_many_levels(images):
    for bits in (1, 3, 5):
        levels = set(to_uint8(processed(images, Operation("bits", bits))).ravel().tolist())
        assert levels <= {round(255 * k / (2**bits - 1)) for k in range(2**bits)}
    assert processed(images, Operation("bits", 3))[0, 0, 5, 7] == pytest.approx(
        round(round(float(images[0, 0, 5, 7]) * 7) / 7 * 255) / 255
    )


def test_blurring_and_resizing_remove_the_fine_pattern_and_keep_the_mean(images):
    def fine(x: torch.Tensor) -> float:
        return float((x[..., 20:90, 21:91] - x[..., 20:90, 20:90]).abs().mean())

    for operation in (Operation("blur", 1.0), Operation("resize", 0.5)):
        made = processed(images, operation)
        assert fine(made) < fine(images) / 4
        assert made.mean() == pytest.approx(float(images.mean()), abs=2e-3)
    # A Gaussian blur is the weighted sum of neighbours.
    centre, weights, total = (40, 40), 0.0, 0.0
    for i in range(-3, 4):
        for j in range(-3, 4):
            weight = math.exp(-(i * i + j * j) / 2)
            weights += weight
            total += weight * float(images[0, 1, centre[0] + i, centre[1] + j])
    blurred = float(processed(images, Operation("blur", 1.0))[0, 1, 40, 40])
    assert blurred == pytest.approx(total / weights, abs=0.51 / 255)


def test_cropping_enlarges_the_middle():
    image = torch.zeros(1, 3, 112, 112)
    image[..., 28:84, 28:84] = 1.0
    made = processed(image, Operation("crop", 0.5))
    assert (made > 0.99).all()
    half = processed(image, Operation("crop", 0.75))[0, 0, 56]
    assert pytest.approx(float((half > 0.5).sum()), abs=1) == 112 * 56 / 84


def test_the_grid_is_equation_9_in_a_loop():
    block = made_up_block()
    grid = experiments.grid([block], SETTINGS)
    assert len(grid) == 2 * 3 * 4
    for line in grid.to_dict("records"):
        stored = getattr(block, line["images"]).result.values[str(line["bound"])]
        total = sum((c > line["kappa"]) + d for c, d in zip(stored["cosine"], stored["lpips"], strict=True))
        assert line["total"] == pytest.approx(total / PHOTOGRAPHS)


def test_features_count_cosines_and_add_distances():
    for privacy in (True, False):
        block = made_up_block(1, privacy=privacy)
        lines = experiments.feature_lines([block], SETTINGS)
        assert len(lines) == 2 * 2 * 3
        for line in lines.to_dict("records"):
            where = line["images"], line["scale"], str(line["amplitude"])
            stored = block.features.result.values[where[0]][where[1]][where[2]]
            kappa = {"paper": 0.5, "calibrated": 0.37}[line["threshold"]]
            recognised = sum(c > kappa for c in stored["cosine"]) / PHOTOGRAPHS
            assert line["stranger"] == pytest.approx(sum(c > kappa for c in stored["stranger"]) / PHOTOGRAPHS)
            assert line["utility"] == pytest.approx(recognised)
            assert line["sigma"] == line["amplitude"] * (1 if line["scale"] == "absolute" else 7.5)
            if privacy:
                distances = block.reconstructions.result.values[where[0]][where[1]][where[2]]
                assert line["privacy"] == pytest.approx(sum(distances) / PHOTOGRAPHS)
                assert line["total"] == pytest.approx(recognised + sum(distances) / PHOTOGRAPHS)
            else:
                assert math.isnan(line["privacy"])
                assert math.isnan(line["total"])


def test_accuracy_after_an_operation_is_equation_10_in_a_loop():
    block = made_up_block(2)
    cells = experiments.processing_cells([block], SETTINGS)
    assert len(cells) == 3 * 2 * 2
    limits = block.clean.result.values["networks"]
    stored = block.processing.result.values
    for line in cells.to_dict("records"):
        entry = stored["operations"][line["operation"]][line["images"]]
        shares = []
        for network in SETTINGS.networks:
            if (network == "mobilefacenet") != (line["role"] == "authorised"):
                continue
            kappa, right = limits[network]["threshold"], 0
            for i, y in enumerate(stored["same"]):
                own, other = entry["networks"][network]["own"][i], entry["networks"][network]["other"][i]
                right += own > kappa and (other > kappa) == bool(y)
            shares.append(right / PAIRS)
        assert line["accuracy"] == pytest.approx(sum(shares) / len(shares))
        assert line["low"] <= line["accuracy"] <= line["high"]
        assert line["ssim"] == pytest.approx(sum(entry["ssim"]) / PHOTOGRAPHS)
        before = cells.query("operation == 'none' and images == @line['images'] and role == @line['role']").iloc[0]
        assert line["change"] == pytest.approx(line["accuracy"] - before["accuracy"])
        assert line["change_low"] <= line["change"] + 1e-12
        assert line["change"] <= line["change_high"] + 1e-12


def test_the_verdicts_follow_the_numbers():
    def flat(cosine: float, distance: float) -> Outcome:
        entry = {"cosine": [cosine] * PHOTOGRAPHS, "lpips": [distance] * PHOTOGRAPHS}
        return outcome("x", {str(bound): entry for bound in (0.0, 0.1, 0.2)})

    def said(originals: Outcome, uploads: Outcome) -> tuple[str, list[str]]:
        absent = Outcome(None)
        block = RobustnessBlock("lfw", absent, originals, uploads, absent, absent, absent)
        lines = experiments.feature_lines([block], SETTINGS)
        cells = experiments.processing_cells([block], SETTINGS)
        grid = experiments.grid([block], SETTINGS)
        return experiments.reading(grid, lines, cells), [one.verdict for one in experiments.claims(grid, lines)]

    good, verdicts = said(flat(0.5, 0.1), flat(0.95, 0.8))
    # Both of cosine 0.5 and 0.95 are recognised at κ = 0 and 0.3: one comparison a bound, and 6 cells of the others.
    assert "overall:* holds: where both have a Utility of 100%" in good
    assert "it is higher at 3 of 3 noise bounds and lower at 0; in the other cells it is higher in 6 of 6" in good
    assert "stable up to κ = 0.6:* holds" in good
    assert "a peak over δ:* does not hold: at 0 of 4" in good
    # Originals of cosine 0.5 lose their Utility at a lower κ than uploads of 0.95.
    assert "keeps falling as κ rises:* the contrast holds" in good
    assert verdicts == ["holds", "holds", "holds", "does not hold"]
    bad, verdicts = said(flat(0.95, 0.8), flat(0.5, 0.1))
    assert "overall:* does not hold: where both" in bad
    assert (
        "higher at 0 of 3 noise bounds and lower at 3; in the other cells it is higher in 0 of 6 and lower in 6" in bad
    )
    assert "the contrast does not exist" in bad
    assert "stable up to κ = 0.6:* does not hold" in bad
    assert verdicts == ["does not hold"] * 4
    # A higher LPIPS where all are recognised at any κ does not outweigh the cells that have something to tell.
    mixed, verdicts = said(flat(0.95, 0.1), flat(0.5, 0.3))
    assert "overall:* holds in part: where both" in mixed
    assert (
        "higher at 3 of 3 noise bounds and lower at 0; in the other cells it is higher in 0 of 6 and lower in 6"
        in mixed
    )
    assert verdicts[0] == "holds in part"
    block = made_up_block(3)
    grid, lines = experiments.grid([block], SETTINGS), experiments.feature_lines([block], SETTINGS)
    cells = experiments.processing_cells([block], SETTINGS)
    text = experiments.reading(grid, lines, cells)
    own = cells.query("images == 'uploads' and role == 'authorised' and operation == 'none'").iloc[0]
    assert f"The authorised service has {100 * own['accuracy']:.0f}% [" in text
    summary = experiments.summary(grid, lines, cells)
    assert summary["lfw_uploads_none_authorised"] == pytest.approx(100 * own["accuracy"], abs=1e-3)
    assert "Privacy was not run" not in text
    alone = made_up_block(3, privacy=False)
    assert "Privacy was not run" in experiments.reading(grid, experiments.feature_lines([alone], SETTINGS), cells)


def test_tables_and_figures_show_the_numbers():
    for privacy in (True, False):
        block = made_up_block(4, privacy=privacy)
        grid, lines = experiments.grid([block], SETTINGS), experiments.feature_lines([block], SETTINGS)
        cells = experiments.processing_cells([block], SETTINGS)
        heat = figures.grid_figure(grid)
        written = {text.get_text() for axis in heat.axes for text in axis.texts}
        assert written == {f"{value:.2f}" for value in grid["total"]}
        html = figures.feature_table(lines, "lfw").to_html()
        for line in lines.to_dict("records"):
            assert f"{100 * line['utility']:.0f}<br>" in html
        assert ("Privacy" in html) == privacy
        html = figures.processing_table(cells, "lfw").to_html()
        for line in cells.to_dict("records"):
            assert f"{100 * line['accuracy']:.1f}<br>" in html
        assert len(figures.feature_figure(lines).axes) == 4
        assert len(figures.processing_figure(cells).axes) == 1
        assert figures.provenance_table([block]).to_html().count("2026-01-01") == 5 + privacy


def test_nothing_measured_is_said_and_drawn():
    block = RobustnessBlock("lfw", *(Outcome(None, "not run: data not present") for _ in range(6)))
    assert experiments.not_run([block]) == ["LFW: not run: data not present"]
    grid, lines = experiments.grid([block], SETTINGS), experiments.feature_lines([block], SETTINGS)
    cells = experiments.processing_cells([block], SETTINGS)
    assert experiments.summary(grid, lines, cells) == {}
    assert experiments.reading(grid, lines, cells) == "Nothing was measured."
    figures.grid_figure(grid)
    figures.feature_figure(lines)
    figures.processing_figure(cells)


@pytest.mark.parametrize(
    ("alike", "told", "verdict"),
    [
        (4, 4, "holds"),
        (4, 3, "holds in most cells"),
        (3, 4, "holds in most cells"),
        (4, 2, "holds in part"),
        (0, 3, "holds in part"),
        (2, 2, "does not hold"),
        (None, 4, "holds"),
        (4, None, "holds"),
        (None, 2, "does not hold"),
    ],
)
def test_what_the_paper_says_overall_needs_most_cells_of_each_part(
    alike: int | None, told: int | None, verdict: str
) -> None:
    parts = [experiments._Count(0, 0, 0) if one is None else experiments._Count(one, 0, 4) for one in (alike, told)]
    assert experiments._overall(*parts) == verdict


def test_the_change_of_one_networks_rate_has_newcombes_interval():
    block = made_up_block(5)
    cells = experiments.processing_cells([block], SETTINGS)
    stored, kappa = block.processing.result.values, block.clean.result.values["networks"]["mobilefacenet"]["threshold"]

    def right(operation: str) -> list[bool]:
        scores = stored["operations"][operation]["uploads"]["networks"]["mobilefacenet"]
        return [
            own > kappa and (other > kappa) == bool(y)
            for own, other, y in zip(scores["own"], scores["other"], stored["same"], strict=True)
        ]

    found = list(zip(right("blur-1"), right("none"), strict=True))
    counts = [found.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
    line = cells.query("operation == 'blur-1' and images == 'uploads' and role == 'authorised'").iloc[0]
    assert (line["change_low"], line["change_high"]) == metrics.newcombe(*counts)


@pytest.mark.parametrize(
    ("falls", "words"),
    [
        ([0.5, 0.7], "κ = 0.5 to 0.7"),
        ([0.5, 0.5], "κ = 0.5"),
        ([0.9, math.inf], "κ = 0.9 at the earliest and, at some noise bounds, at no κ that was looked at"),
        ([math.inf], "no κ that was looked at"),
    ],
)
def test_where_a_curve_falls_is_said_whole(falls: list[float], words: str) -> None:
    assert experiments._range(dict(enumerate(falls))) == words
