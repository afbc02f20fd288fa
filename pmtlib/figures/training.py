"""Figures of the appendix on training. They compute nothing."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from pmtlib.experiments.training import TrainingSettings
from pmtlib.figures.common import styled
from pmtlib.page_data import keep

# Dark and light in grey print too.
_LINES = ("#00204d", "#b3a369", "#7c7b78", "#414d6b")


def training_curves(frame: pd.DataFrame) -> Figure:
    """Accuracy on people held out, with its interval, and the loss, against the images seen."""
    keep("curves", frame)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    recipes = list(dict.fromkeys(frame["recipe"])) if len(frame) else []
    for recipe, colour in zip(recipes, _LINES * len(recipes), strict=False):
        part = frame[frame["recipe"] == recipe]
        label = f"{part['architecture'].iloc[0]}, {part['head'].iloc[0]}"
        measured = part.dropna(subset=["accuracy"])
        left.plot(
            measured["seen"] / 1000, 100 * measured["accuracy"], color=colour, marker="o", markersize=3, label=label
        )
        left.fill_between(
            measured["seen"].astype(float) / 1000,
            100 * measured["low"].astype(float),
            100 * measured["high"].astype(float),
            color=colour,
            alpha=0.2,
        )
        lost = part.dropna(subset=["loss"])
        right.plot(lost["seen"] / 1000, lost["loss"], color=colour, marker="o", markersize=3, label=label)
    left.axhline(50, color="0.5", linewidth=0.8, linestyle=":")
    left.set_ylabel("accuracy on people held out (%)")
    right.set_ylabel("loss")
    for axis in (left, right):
        axis.set_xlabel("images seen (thousands)")
        axis.spines[["top", "right"]].set_visible(False)
    if recipes:
        left.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.1))
    plt.close(figure)
    return figure


def recipe_table(settings: TrainingSettings) -> Styler:
    """Every choice of each training."""
    rows = {name: config.model_dump(mode="json") for name, config in settings.recipes.items()}
    frame = pd.DataFrame({name: {key: str(value) for key, value in row.items()} for name, row in rows.items()})
    return styled(frame, "Every choice of the trainings", "recipes")
