"""Tables of Section 6.1, choice of parameters. They compute nothing."""

from __future__ import annotations

import pandas as pd
from pandas.io.formats.style import Styler

from pmtlib.experiments.common import TITLES
from pmtlib.experiments.parameters import ParameterSettings
from pmtlib.figures.common import styled
from pmtlib.figures.variants import role_rate
from pmtlib.page_data import slug

_NUMBERS = {"table3": "Table 3", "table4": "Table 4", "table5": "Table 5"}


def option_table(frame: pd.DataFrame, table: str, settings: ParameterSettings) -> Styler:
    """One of Tables 3 to 5 on all data sets, the paper's numbers (AgeDB-30, its own networks) beside ours."""
    part = frame[frame["table"] == table] if len(frame) else frame
    rows = []
    for line in part.to_dict("records"):
        rows.append(
            {
                "set": TITLES.get(line["dataset"], line["dataset"]),
                "of": line["group"],
                "option": line["option"] + (" (chosen)" if line["chosen"] else ""),
                "authorised %": role_rate(line, "authorised"),  # type: ignore[arg-type]
                "unauthorised %": role_rate(line, "unauthorised"),  # type: ignore[arg-type]
                "SSIM": f"{line['ssim']:.3f}",
                "paper: authorised": f"{line['paper_authorised']:.1f}",
                "paper: unauthorised": f"{line['paper_unauthorised']:.1f}",
            }
        )
    count = int(part["n"].max()) if len(part) else 0
    caption = (
        f"{_NUMBERS[table]}: authorised {settings.authorised}, unauthorised: mean over the other networks, at "
        f"thresholds of their own; 95% intervals over n = {count} pairs, Wilson for one network and a bootstrap for a "
        "mean of several. The paper's columns are of AgeDB-30, with IR50-Softmax authorised and MobileFace "
        "unauthorised."
    )
    shown = pd.DataFrame(rows)
    if len(shown) and shown["of"].nunique() == 1:
        shown = shown.drop(columns="of")
    return styled(shown, caption, slug(_NUMBERS[table]), part).hide(axis="index")
