"""Sections on ablation, parameters and scalability: their tables are Eq. 9 and 10 in plain loops."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from pmtlib import metrics, results
from pmtlib.experiments import ablation, common, parameters, scalability, variants
from pmtlib.experiments.common import Outcome
from pmtlib.experiments.variants import VariantSettings, variant_name
from pmtlib.figures import ablation as ablation_tables
from pmtlib.figures import parameters as parameter_tables
from pmtlib.figures import scalability as scalability_tables
from pmtlib.figures import variants as figures
from pmtlib.figures.variants import role_curves, up_curves
from pmtlib.transform import PMTConfig

NETWORKS = ("mobilefacenet", "sface", "dlib-resnet29")
SETTINGS = VariantSettings(datasets=("lfw",), networks=NETWORKS, pmt=PMTConfig(steps=1))
THRESHOLDS = {"mobilefacenet": 0.37, "sface": 0.3, "dlib-resnet29": 0.9}


def stored(experiment: str, name: str, values: dict[str, Any], authorised: list[str] | None = None) -> Outcome:
    """An outcome in the stored form; its random numbers measure nothing."""
    request = results.Request(experiment, name, 1, {"authorised": authorised or ["mobilefacenet"]})
    hardware = {"device": "cpu", "torch_threads": 1}
    manifest = {"date": "2026-01-01", "seconds": 1, "hardware": hardware, "packages": {"torch": "2"}}
    return Outcome(results.Result(request, {"name": "lfw", "fingerprint": "f", "n": 40}, values, manifest))


def recognised(seed: int, authorised: list[str] | None = None, n: int = 40) -> Outcome:
    draw = np.random.default_rng(seed)
    networks = {
        name: {kind: draw.uniform(-0.2, 1, n).round(5).tolist() for kind in ("own", "other")} for name in NETWORKS
    }
    same = np.random.default_rng(0).integers(0, 2, n).tolist()
    values = {"same": same, "networks": networks, "ssim": draw.uniform(0, 1, 12).round(5).tolist()}
    return stored("variants", f"lfw--x{seed}", values, authorised)


def noisy(seed: int, bounds: tuple[float, ...] = (0.0, 0.1, 0.3), n: int = 12) -> Outcome:
    draw = np.random.default_rng(seed)
    values = {
        str(bound): {key: draw.uniform(0, 1, n).tolist() for key in ("cosine", "lpips", "lpips_alex")}
        for bound in bounds
    }
    return stored("noise", f"lfw--y{seed}", values)


def thresholds() -> dict[str, Outcome]:
    networks = {name: {"threshold": value, "scores": []} for name, value in THRESHOLDS.items()}
    return {"lfw": stored("thresholds", "lfw", {"same": [], "networks": networks})}


def equation_10(scores: dict[str, list[float]], same: list[int], kappa: float) -> list[bool]:
    return [
        own > kappa and (other > kappa) == (y == 1)
        for own, other, y in zip(scores["own"], scores["other"], same, strict=True)
    ]


def test_cells_and_means_over_roles_are_equation_10_in_a_loop() -> None:
    outcome = recognised(1, ["mobilefacenet", "sface"])
    values = outcome.result.values
    cells = variants.recognition_cells([({"dataset": "lfw"}, outcome)], thresholds(), SETTINGS)
    assert len(cells) == 3 + 2  # dlib's network has no cell at the paper's threshold
    for line in cells.to_dict("records"):
        kappa = 0.2 if line["threshold"] == "paper" else THRESHOLDS[line["network"]]
        right = equation_10(values["networks"][line["network"]], values["same"], kappa)
        assert line["successes"] == sum(right)
        assert line["role"] == ("unauthorised" if line["network"] == "dlib-resnet29" else "authorised")
    means = variants.role_means([({"dataset": "lfw"}, outcome)], thresholds(), SETTINGS)
    for role, names in (("authorised", ("mobilefacenet", "sface")), ("unauthorised", ("dlib-resnet29",))):
        line = means[(means["role"] == role) & (means["threshold"] == "calibrated")].iloc[0]
        rates = [
            sum(equation_10(values["networks"][name], values["same"], THRESHOLDS[name])) / len(values["same"])
            for name in names
        ]
        assert line["accuracy"] == pytest.approx(sum(rates) / len(rates))
        assert line["low"] <= line["accuracy"] <= line["high"]
        assert line["ssim"] == pytest.approx(sum(values["ssim"]) / len(values["ssim"]))


def test_up_is_equation_9_in_a_loop() -> None:
    outcome = noisy(2)
    frame = variants.up_lines([({"dataset": "lfw"}, outcome)], 0.3)
    assert list(frame["bound"]) == [0.0, 0.1, 0.3]
    for line in frame.to_dict("records"):
        entry = outcome.result.values[str(line["bound"])]
        total = 0.0
        for cosine, distance in zip(entry["cosine"], entry["lpips"], strict=True):
            total += (1.0 if cosine > 0.3 else 0.0) + distance
        assert line["total"] == pytest.approx(total / len(entry["cosine"]))
        assert line["utility"] + line["privacy"] == pytest.approx(line["total"])
        assert line["total_low"] <= line["total"] <= line["total_high"]


def test_rates_of_one_network_have_wilsons_interval() -> None:
    outcome = recognised(1, ["mobilefacenet"])
    means = variants.role_means([({"dataset": "lfw"}, outcome)], thresholds(), SETTINGS)
    cells = variants.recognition_cells([({"dataset": "lfw"}, outcome)], thresholds(), SETTINGS)
    for kind in ("paper", "calibrated"):
        one, own = (
            frame[(frame["threshold"] == kind) & (frame["role"] == "authorised")].iloc[0] for frame in (means, cells)
        )
        assert (one["low"], one["high"]) == (own["low"], own["high"])
    several = means[(means["role"] == "unauthorised") & (means["threshold"] == "calibrated")].iloc[0]
    shares = variants.role_shares(outcome, thresholds()["lfw"], SETTINGS)["unauthorised"]
    assert (several["low"], several["high"]) == metrics.bootstrap(shares, seed=0)
    for line in variants.up_lines([({}, noisy(2))], 0.3).to_dict("records"):
        successes = round(line["utility"] * line["n"])
        assert (line["utility_low"], line["utility_high"]) == metrics.wilson(successes, line["n"])
    # Where all are recognised at any noise, not all of any other pairs need be.
    sure = variants.up_lines([({}, noisy(2))], -1.0)
    assert (sure["utility"] == 1).all()
    assert (sure["utility_low"] < 1).all()


def test_the_difference_of_one_network_has_newcombes_interval() -> None:
    before, after = np.ones(104), np.ones(104)
    after[:4] = 0
    gap = variants.Gap.of(before, after)
    assert gap[1:] == metrics.newcombe(100, 4, 0, 0)
    assert (gap.mean, gap.sign) == (4 / 104, 0)
    turned = variants.Gap.of(after, before)
    assert turned == pytest.approx((-gap.mean, -gap.high, -gap.low))
    after[4:6] = 0
    assert variants.Gap.of(before, after).sign == 1
    # Means over several networks, and UP, are resampled.
    half = after - 0.5 * (np.arange(104) == 50)
    assert variants.Gap.of(before, half)[1:] == metrics.bootstrap(before - half, seed=0)
    groups = np.arange(104) // 2
    assert variants.Gap.of(before, half, list(groups))[1:] == metrics.bootstrap(before - half, seed=0, groups=groups)


def test_results_of_other_data_are_not_joined() -> None:
    outcome = recognised(3)
    other = results.Result(
        outcome.result.request, {**outcome.result.data, "fingerprint": "g"}, outcome.result.values, {}
    )
    with pytest.raises(common.ResultError, match="different data"):
        variants.recognition_cells([({"dataset": "lfw"}, Outcome(other))], thresholds(), SETTINGS)


def test_a_name_says_what_differs_and_fits_a_file() -> None:
    assert variant_name({}, None) == "defaults"
    assert variant_name({"kernel": "none", "aggregate": False}, 7) == "aggregate-false+kernel-none+cut-7"
    results.Request("variants", f"lfw--a+b--{variant_name({'kernel_length': 3}, None)}", 1, {})


def test_each_set_without_results_has_one_line() -> None:
    missing = Outcome(None, "not run: data not present")
    lines = variants.not_run([("calfw", "a", missing), ("calfw", "b", missing)], common.TITLES)
    assert lines == ["CALFW: not run: data not present"]
    assert variants.not_run([("lfw", "a", missing), ("lfw", "b", recognised(4))], common.TITLES) == [
        "LFW, a: not run: data not present"
    ]
    parts = [("lfw", "a", missing), ("lfw", "b", recognised(4)), ("lfw", "c", missing)]
    assert variants.not_run(parts, common.TITLES) == ["LFW, a, c: not run: data not present"]


def test_a_recomputation_says_how_far_it_moved() -> None:
    before, after = recognised(5), recognised(5)
    assert variants.recomputed([after]) == ""
    moved = Outcome(after.result, previous=before.result)
    assert "0.00000" in variants.recomputed([moved])
    other = recognised(6)
    assert "0.00000" not in variants.recomputed([Outcome(other.result, previous=before.result)])


# ---------------------------------------------------------------------------------------------- ablation


def test_the_eight_rows_of_table_10_switch_off_what_they_say() -> None:
    rows = ablation.combinations()
    assert len(set(rows)) == 8
    assert ablation.changes_of((True, True, True)) == {}
    assert ablation.changes_of((False, True, False)) == {"augmentation": "none", "aggregate": False}
    configured = PMTConfig(**ablation.changes_of((False, False, False)))
    assert (configured.augmentation, configured.kernel, configured.aggregate) == ("none", "none", False)
    assert ablation.marks((True, False, True)) == "✓/✗/✓"


def ablation_rows() -> list[ablation.AblationRow]:
    return [
        ablation.AblationRow("lfw", components, recognised(10 + i), noisy(30 + i))
        for i, components in enumerate(ablation.combinations())
    ]


def test_the_ablation_page_says_what_is_in_its_table() -> None:
    settings = ablation.AblationSettings(**SETTINGS.model_dump())
    rows = ablation_rows()
    frame = ablation.table(thresholds(), rows, settings)
    assert len(frame) == 8
    full = frame[frame["combination"] == "✓/✓/✓"].iloc[0]
    terms = variants.up_lines([({}, rows[-1].noisy)], 0.3).set_index("bound").loc[0.1]
    assert full["total"] == pytest.approx(terms["total"])
    said = ablation.reading(frame, ablation.effects(thresholds(), rows, settings), settings)
    assert f"{100 * full['unauthorised']:.1f}%" in said
    whole = variants.role_shares(rows[-1].recognised, thresholds()["lfw"], settings)["unauthorised"]
    assert f"{100 * whole.mean():.1f}% [" in ablation.claims(thresholds(), rows, settings)[0].measured
    assert ablation.summary(frame)["all_unauthorised"] == pytest.approx(100 * full["unauthorised"], abs=1e-3)
    html = ablation_tables.ablation_table(frame, "lfw", settings).to_html()
    assert "1.848" in html
    assert f"{full['total']:.3f}" in html
    # Fig. 11 shows the two ends only.
    ends = ablation.curves([r for r in rows if r.components in ((True,) * 3, (False,) * 3)], settings)
    assert set(ends["enhancement"]) == {"all three", "none"}
    assert len(up_curves(ends, "enhancement").axes) == 1


def shifted(outcome: Outcome, network: str, by: float) -> Outcome:
    """The same result with every score of one network moved: it recognises everybody, or nobody."""
    values = json.loads(json.dumps(outcome.result.values))
    for key in ("own", "other"):
        values["networks"][network][key] = [score + by for score in values["networks"][network][key]]
    # Pairs of one person alone, so that "everybody" is right on all of them.
    values["same"] = [True] * len(values["same"])
    return Outcome(results.Result(outcome.result.request, outcome.result.data, values, {}))


def test_a_gap_is_the_mean_difference_over_the_same_pairs() -> None:
    gap = variants.Gap.of(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 0.0]))
    assert gap.mean == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert gap.low <= gap.mean <= gap.high
    assert variants.Gap(0.2, 0.1, 0.3).sign == 1
    assert variants.Gap(-0.2, -0.3, -0.1).sign == -1
    assert variants.Gap(0.2, -0.1, 0.3).sign == 0
    assert variants.Gap(0.031, 0.01, 0.052).points() == "+3.1 [+1.0, +5.2]"
    assert variants.Gap(-0.031, -0.052, 0.01).plain() == "−0.031 [−0.052, +0.010]"


def test_the_shares_of_a_role_are_equation_10_in_a_loop() -> None:
    outcome = recognised(1, ["mobilefacenet", "sface"])
    values = outcome.result.values
    shares = variants.role_shares(outcome, thresholds()["lfw"], SETTINGS)
    rights = [
        equation_10(values["networks"][name], values["same"], THRESHOLDS[name]) for name in ("mobilefacenet", "sface")
    ]
    assert shares["authorised"].tolist() == [(a + b) / 2 for a, b in zip(*rights, strict=True)]
    assert variants.role_shares(Outcome(None), thresholds()["lfw"], SETTINGS) == {}


def test_the_ablation_verdict_follows_the_differences() -> None:
    settings = ablation.AblationSettings(**SETTINGS.model_dump())

    def said(full: float, none: float) -> str:
        rows = []
        for row in ablation_rows():
            by = full if all(row.components) else none if not any(row.components) else 0.0
            rows.append(dataclasses.replace(row, recognised=shifted(row.recognised, "sface", by)))
        return ablation.claims(thresholds(), rows, settings)[0].verdict

    assert said(-9, 9) == "holds"
    assert said(9, -9) == "does not hold: the reverse is measured"
    # Without them the service loses more than it may: what that leaves the others is not held against all three.
    rows = [
        dataclasses.replace(
            row,
            recognised=shifted(
                shifted(row.recognised, "sface", 9 if all(row.components) else -9),
                "mobilefacenet",
                9 if all(row.components) else -9,
            ),
        )
        for row in ablation_rows()
    ]
    claim = ablation.claims(thresholds(), rows, settings)[0]
    assert claim.verdict == "is not established"
    assert "without them the service loses more than 5 points" in claim.measured
    assert "the least is that of ✓/✓/✓ (LFW)" in claim.measured
    assert ablation.verdict([1, 0], 1) == "holds in part"
    assert ablation.verdict([0, 0], 1) == "is not established: the intervals include no change"
    assert ablation.verdict([0, -1], 1) == "does not hold"


def test_what_an_enhancement_is_worth_is_the_mean_over_the_other_two() -> None:
    settings = ablation.AblationSettings(**SETTINGS.model_dump())
    rows = ablation_rows()
    found = ablation.effects(thresholds(), rows, settings)["lfw"]
    table = ablation.table(thresholds(), rows, settings)
    for place, title in enumerate(("data augmentation", "the kernel", "layer aggregation")):
        on, off = (
            [float(line["unauthorised"]) for line in table.to_dict("records") if line["components"][place] is state]
            for state in (True, False)
        )
        assert found[title]["unauthorised"].mean == pytest.approx(sum(on) / 4 - sum(off) / 4)
    at = {row.components: np.mean(variants.up_terms(row.noisy, 0.3)[0.1]) for row in rows}
    assert found[ablation.ALL_THREE]["up"].mean == pytest.approx(at[True, True, True] - at[False, False, False])
    both = {name: {row.components: row.noisy.result.values["0.1"] for row in rows} for name in ("lpips", "lpips_alex")}
    for measure, name in (("up", "lpips"), ("up_alex", "lpips_alex")):
        full, none = (both[name][(on,) * 3] for on in (True, False))
        apart = [
            (a > 0.3) + b - (c > 0.3) - d
            for a, b, c, d in zip(full["cosine"], full[name], none["cosine"], none[name], strict=True)
        ]
        assert found[ablation.ALL_THREE][measure].mean == pytest.approx(sum(apart) / len(apart))
    gaps = ablation.curve_gaps(rows, settings)
    assert list(gaps["bound"]) == [0.0, 0.1, 0.3]
    text = ablation.curve_reading(rows, settings)
    assert min(gaps["gap"], key=lambda gap: gap.mean).plain() in text
    assert "The claim" in text


# ---------------------------------------------------------------------------------------------- parameters


def test_every_option_of_tables_3_to_5_is_a_configuration() -> None:
    options = parameters.options()
    assert [sum(option.table == name for option in options) for name in ("table3", "table4", "table5")] == [3, 6, 3]
    assert [option.name for option in options if option.chosen] == [
        "Random Noise", "Random Noise", "Yes", "Gaussian Kernel",
    ]  # fmt: skip
    for option in options:
        assert PMTConfig(**option.changes) == PMTConfig() or not option.chosen
    assert next(option for option in options if option.name == "Random Affine").paper == (99.0, 44.2)


def test_the_parameter_page_says_what_is_in_its_tables() -> None:
    settings = parameters.ParameterSettings(**SETTINGS.model_dump())
    rows = [parameters.OptionRow("lfw", option, recognised(70 + i)) for i, option in enumerate(parameters.options())]
    frame = parameters.table(thresholds(), rows, settings)
    assert len(frame) == 12
    steps = stored("parameters", "lfw--steps", {str(k): recognised(90 + k).result.values for k in (0, 25)})
    curve = parameters.step_lines([("lfw", steps)], thresholds(), settings)
    assert set(curve["steps"]) == {0, 25}
    cuts = parameters.cut_lines([("lfw", 1, recognised(95)), ("lfw", 5, recognised(96))], thresholds(), settings)
    said = parameters.reading(frame, parameters.gaps(thresholds(), rows, settings))
    for line in frame.to_dict("records"):
        assert f"{line['option']} {100 * line['authorised']:.1f}/{100 * line['unauthorised']:.1f}%" in said
    at_k = parameters.curve_text(parameters.by_steps([("lfw", steps)]), thresholds(), settings, "K")
    for k in (0, 25):
        own = variants.role_shares(recognised(90 + k), thresholds()["lfw"], settings)["authorised"]
        assert f"{k}: {100 * own.mean():.0f}% [" in at_k
    claim = parameters.claims(thresholds(), rows, [], [], settings)[1]
    assert claim.says == "so does augmenting with noise"
    by_name = {row.option.name: row for row in rows if row.option.group == "Augmentation"}
    noise, mix = (
        variants.role_shares(by_name[name].recognised, thresholds()["lfw"], settings)["unauthorised"]
        for name in ("Random Noise", "Mix")
    )
    assert f"unauthorised {variants.Gap.of(mix, noise).points()} points" in claim.measured
    found = parameters.summary(frame, curve, cuts)
    at_25 = curve[(curve["steps"] == 25) & (curve["threshold"] == "calibrated") & (curve["role"] == "authorised")]
    assert found["k25_authorised"] == pytest.approx(100 * at_25["accuracy"].iloc[0], abs=1e-3)
    html = parameter_tables.option_table(frame, "table4", settings).to_html()
    assert html.count("44.2") == 1
    assert len(role_curves(curve, "steps", "K", logarithmic=True).axes) == 1


def test_only_options_that_keep_the_service_count_against_a_choice() -> None:
    up, level, down = variants.Gap(0.1, 0.05, 0.15), variants.Gap(0.01, -0.02, 0.03), variants.Gap(-0.2, -0.3, -0.1)

    def option(authorised: variants.Gap, unauthorised: variants.Gap) -> dict[str, variants.Gap]:
        return {"authorised": authorised, "unauthorised": unauthorised}

    assert parameters.judged({"a": option(level, up)}) == ("holds", [])
    # It leaves the others less, and loses the service.
    assert parameters.judged({"a": option(level, up), "b": option(down, down)}) == ("holds", ["b"])
    assert parameters.judged({"b": option(down, down)}) == ("is not established", ["b"])
    assert parameters.judged({"a": option(level, down)}) == ("does not hold", [])
    # A loss of some points is none to speak of, whether or not the interval holds zero.
    some = variants.Gap(-0.04, -0.06, -0.01)
    assert parameters.judged({"a": option(some, down)}) == ("does not hold", [])
    assert parameters.judged({"a": option(variants.Gap(-0.06, -0.13, 0.01), down)}) == ("is not established", ["a"])
    assert [variants.keeps(change) for change in (0.2, 0.0, -0.05, -0.051)] == [True, True, True, False]
    assert parameters.judged({"a": option(level, level)}) == ("holds by the means alone", [])
    assert parameters.judged({"a": option(level, variants.Gap(-0.01, -0.03, 0.02))}) == ("is not established", [])


def test_a_choice_is_judged_by_all_sets_together() -> None:
    holds, not_, open_ = "holds", "does not hold", "is not established"
    assert parameters.together({"lfw": open_, "cfp_ff": not_}, open_) == f"{open_}; on CFP-FF it {not_}"
    assert parameters.together({"lfw": open_, "cfp_ff": not_}, not_) == not_
    assert parameters.together({"lfw": open_, "cfp_ff": open_}, not_) == not_
    assert parameters.together({"lfw": holds, "cfp_ff": not_}, open_) == "holds in part"
    assert parameters.together({"lfw": holds, "cfp_ff": open_}, holds) == holds


def test_a_curve_is_judged_at_each_bound() -> None:
    base = noisy(5)

    def raised(by: float) -> Outcome:
        values = json.loads(json.dumps(base.result.values))
        for bound, entry in values.items():
            entry["lpips"] = [distance + by if bound != "0.3" else distance / 2 for distance in entry["lpips"]]
        return Outcome(results.Result(base.result.request, base.result.data, values, {}))

    lines = [("lfw", "one", raised(0.2)), ("lfw", "two", base)]
    gaps = variants.up_gaps(lines, "one", 0.3)
    assert list(gaps["bound"]) == [0.0, 0.1, 0.3]
    assert gaps["gap"][0].mean == pytest.approx(0.2)
    stored_03 = base.result.values["0.3"]["lpips"]
    assert gaps["gap"][2].mean == pytest.approx(-sum(stored_03) / 2 / len(stored_03))
    assert variants.by_bound(gaps) == "holds at δ = 0 and 0.1, does not hold at δ = 0.3"
    assert variants.by_bound(gaps[gaps["bound"] < 0.3]) == "holds at any of the bounds"
    text = parameters.curve_reading(lines, "one", "Said.", 0.3)
    assert "The claim holds at δ = 0 and 0.1, does not hold at δ = 0.3" in text
    # The other trunk's distances are the same on both lines.
    assert "With AlexNet in LPIPS it is not established at any of the bounds." in text
    shown = figures.gap_table({"VGG": gaps}, "one", "Fig. 4").to_html()
    assert "+0.200<br>[+0.200, +0.200]" in shown
    assert "minus two (VGG)" in shown
    assert parameters.curve_reading([("lfw", "one", Outcome(None))], "one", "Said.", 0.3) == "Nothing was measured."


def test_what_is_kept_is_what_a_shorter_run_gives(tmp_path, monkeypatch) -> None:
    from pmtlib.shallow import ShallowModel
    from pmtlib.transform import protect
    from tests.small_network import SmallNetwork, photographs

    model = ShallowModel(SmallNetwork(), 2)
    images = photographs(3)
    config = PMTConfig(steps=6, batch_size=2)
    run = protect(images, [model], config, keep=(0, 2, 6))
    assert run.kept.shape == (3, 3, 3, 16, 16)
    for place, steps in enumerate((0, 2, 6)):
        alone = protect(images, [model], config.model_copy(update={"steps": steps}))
        assert torch.equal(run.kept[place], alone.images)
    with pytest.raises(common.ConfigError, match=r"keep 7 is outside 0\.\.6"):
        protect(images, [model], config, keep=(7,))
    # An image that has stopped stays as it is.
    stopped = protect(images, [model], config.model_copy(update={"stop_error": 1e9}), keep=(0, 3, 6))
    assert torch.equal(stopped.kept[1], stopped.images)
    assert torch.equal(stopped.kept[2], stopped.images)


# ---------------------------------------------------------------------------------------------- scalability


def test_the_scalability_page_says_what_is_in_its_table() -> None:
    settings = scalability.ScalabilitySettings(**SETTINGS.model_dump(), combinations=((1, 2), (2, 3)))
    rows = [
        scalability.ScalabilityRow("lfw", (1, 2), recognised(101, ["mobilefacenet", "sface"])),
        scalability.ScalabilityRow("lfw", (2, 3), recognised(102, ["sface", "dlib-resnet29"])),
    ]
    cells = scalability.cells(thresholds(), rows, settings)
    assert set(cells["combination"]) == {"①+②", "②+③"}
    chosen = cells[cells["threshold"] == "calibrated"]
    others = chosen[chosen["role"] == "unauthorised"]["accuracy"]
    assert scalability.summary(cells)["unauthorised_mean"] == pytest.approx(100 * others.mean(), abs=1e-3)
    served, low, few = scalability.claims(thresholds(), rows, settings)
    assert f"{100 * others.mean():.1f}% [" in low.measured
    every = chosen[chosen["role"] == "authorised"]["accuracy"].min() >= 0.9
    assert served.verdict == ("holds" if every else "holds in part")
    assert few.verdict == "cannot be judged here"
    assert "①+② " in scalability.reading(thresholds(), rows, settings)
    assert scalability.places(settings).startswith("① mobilefacenet, ② sface")
    html = scalability_tables.scalability_table(cells, "lfw", settings).to_html()
    assert html.count("<caption>") == 1
    assert "① mobilefacenet" in html
    assert len(scalability_tables.scalability_heat_map(cells, settings).axes) == 2
    assert "75.2" in scalability_tables.paper_table9("lfw").to_html()


def test_the_cost_of_another_service_is_a_ratio_within_a_round() -> None:
    values = {
        "alone": {"mobilefacenet": [1.0, 2.0, 4.0], "sface": [3.0, 4.0, 4.0]},
        "together": [
            {"networks": ["mobilefacenet"], "seconds": [1.1, 2.2, 4.0]},
            {"networks": ["mobilefacenet", "sface"], "seconds": [4.0, 9.0, 4.0]},
        ],
    }
    outcome = stored("scalability", "cost", values)
    line = scalability.cost_lines(outcome).set_index("members").loc[2]
    assert (line["of_sum"], line["of_sum_low"], line["of_sum_high"]) == (1.0, 0.5, 1.5)
    assert (line["of_first"], line["of_first_low"], line["of_first_high"]) == (4.0, 1.0, 4.5)
    assert line["seconds"] == 4.0
    assert "1.00 [0.50, 1.50]" in scalability_tables.cost_table(outcome).to_html()
    assert scalability_tables.cost_table(Outcome(None)) is None


def test_the_paper_means_of_table_9_are_those_of_its_cells() -> None:
    content = common.paper_table("table9")
    own, others = [], []
    for rows in content["datasets"].values():
        for row in rows:
            for column, value in zip(content["columns"], row["accuracy"], strict=True):
                (own if column in row["authorised"] else others).append(value)
    assert len(own) + len(others) == 120
    means = scalability.paper_means()
    assert means["authorised"] == pytest.approx(sum(own) / len(own))
    assert means["unauthorised"] == pytest.approx(sum(others) / len(others))
    # The ranges that the notebook's introduction quotes.
    assert (round(min(own)), round(max(own)), round(min(others)), round(max(others))) == (85, 100, 14, 76)


def test_a_profile_with_other_values_stores_nothing(monkeypatch) -> None:
    monkeypatch.delenv("PMT_PROFILE", raising=False)
    assert ablation.ablation_settings("paper").store
    assert not ablation.ablation_settings("paper", pmt={"steps": 3}).store
    assert not ablation.ablation_settings("paper", cut="28x28").store
    assert parameters.parameter_settings("quick").datasets == ("samples",)
    assert scalability.scalability_settings("paper").networks[1] == "dlib-resnet29"


def test_a_list_that_came_as_text_is_told_how_to_be_given(monkeypatch) -> None:
    monkeypatch.delenv("PMT_PROFILE", raising=False)
    with pytest.raises(common.ConfigError) as caught:
        ablation.ablation_settings("quick", networks="[sface]")
    assert str(caught.value) == (
        "profile 'quick', ablation: networks: '[sface]' is text, not a list; papermill takes a list by "
        '-y "networks: [...]"'
    )


def test_the_authorised_network_is_one_of_the_evaluated_ones(monkeypatch) -> None:
    monkeypatch.delenv("PMT_PROFILE", raising=False)
    others = ["sface", "dlib-resnet29"]
    refused = (
        "profile 'quick', ablation: the authorised network, mobilefacenet, must be one of the evaluated ones; "
        "name it among networks, or another as authorised"
    )
    with pytest.raises(common.ConfigError) as caught:
        ablation.ablation_settings("quick", networks=others)
    assert str(caught.value) == refused
    assert ablation.ablation_settings("quick", networks=others, authorised="sface").authorised == "sface"
    # Table 9 authorises several, by their places.
    assert scalability.scalability_settings("quick", networks=others).networks == tuple(others)
