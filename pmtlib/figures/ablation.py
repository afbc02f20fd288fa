"""Tables and figures of Section 6.9, ablation. They compute nothing."""

from __future__ import annotations

import pandas as pd
from pandas.io.formats.style import Styler

from pmtlib.experiments.ablation import AblationSettings, marks
from pmtlib.experiments.common import TITLES, paper_table
from pmtlib.figures.common import styled
from pmtlib.figures.variants import role_rate, value_with_interval
from pmtlib.page_data import slug


def ablation_table(frame: pd.DataFrame, dataset: str, settings: AblationSettings) -> Styler:
    """Table 10 on one data set, the paper's numbers (LFW, its own networks) beside ours."""
    paper = {marks(row["components"]): row["values"] for row in paper_table("table10")["rows"]}
    lines = {}
    for line in frame[frame["dataset"] == dataset].to_dict("records"):
        printed = paper[line["combination"]]
        lines[line["combination"]] = {
            "authorised %": role_rate(line, "authorised"),  # type: ignore[arg-type]
            "unauthorised %": role_rate(line, "unauthorised"),  # type: ignore[arg-type]
            "UP": value_with_interval(line, "total") if "total" in line else "–",  # type: ignore[arg-type]
            "utility": value_with_interval(line, "utility") if "total" in line else "–",  # type: ignore[arg-type]
            "privacy (LPIPS)": value_with_interval(line, "privacy") if "total" in line else "–",  # type: ignore[arg-type]
            "SSIM": f"{line['ssim']:.3f}",
            "paper: authorised": f"{printed[0]:.1f}",
            "paper: unauthorised": f"{printed[1]:.1f}",
            "paper: UP": f"{printed[2]:.3f}",
        }
    count = int(frame["n"].max()) if len(frame) else 0
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.index.name = "augmentation / kernel / aggregation"
    return styled(
        table,
        f"{TITLES.get(dataset, dataset)}: authorised {settings.authorised}; unauthorised: mean over the other "
        f"networks, at thresholds of their own; 95% intervals over n = {count} pairs; UP({settings.up_bound}, "
        f"{settings.up_kappa}) over the distinct photographs; intervals are Wilson's for one network and for utility, "
        "and else a bootstrap. The paper's columns: LFW, IR50-Softmax authorised, "
        "MobileFace unauthorised.",
        slug("table 10", dataset),
        frame[frame["dataset"] == dataset].drop(columns="components"),
    )
