"""Tables of the book's prose pages that come from code and stored results, as Markdown files that the pages include.

``python -m pmtlib.runner tables`` writes them below ``book/_tables``, and those of the README into it; a test fails
when one of them is not what the code says. The pages of results are notebooks and need none of this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pmtlib import assets, attribute_zoo, calibration, glance, paths, zoo
from pmtlib.experiments.abuse import abuse_settings
from pmtlib.experiments.common import TITLES
from pmtlib.images import write_atomic
from pmtlib.page_data import markdown
from pmtlib.results import Result, everything
from pmtlib.transform import PMTConfig

PROTOCOL_SETS = ("lfw", "agedb_30", "calfw", "cfp_ff")
"""The paper's four sets, in its order."""


class Published(NamedTuple):
    """Verification accuracy on LFW as the publisher of a network prints it.

    Attributes:
        accuracy: as printed, in percent.
        source: where.
    """

    accuracy: str
    source: str


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "mobilefacenet": Published("99.4+", "README of sirius-ai/MobileFaceNet_TF"),
        "mobilefacenet-casia": Published("99.30", "README of Xiaoccer/MobileFaceNet_Pytorch"),
        "mobilefacenet-ms1m": Published("99.48", "README of foamliu/MobileFaceNet"),
        "sface": Published("99.42", "OpenCV Zoo, the block-quantised file"),
        "edgeface-xs": Published("99.73", "README of otroshi/edgeface, of the float model"),
        "edgeface-xxs": Published("99.57", "README of otroshi/edgeface, of the float model"),
        "dlib-resnet29": Published("99.38", "README of davisking/dlib-models"),
    }
)
"""By network; one that is absent has no published figure that was found."""

PAPER_CHOICES: Mapping[str, str] = MappingProxyType(
    {
        "steps": "not given",
        "step_size": "not given",
        "rule": "three that exclude each other: Algorithm 1, the text of Section 5.2, Algorithm 2",
        "initialisation": "random noise (Table 3, Section 6.1)",
        "noise_start": "`randn_like`, on a scale that is not given (Algorithm 1)",
        "blur_start": "not given",
        "augmentation": "random noise (Table 4, Section 6.1)",
        "noise_std": "not given",
        "affine_degrees": "not given",
        "affine_shift": "not given",
        "affine_scale": "not given",
        "aggregate": "yes (Table 4, Section 6.1)",
        "pool": "`AvgPool2d`, size not given (Algorithm 2)",
        "kernel": "Gaussian (Table 5, Section 6.1)",
        "kernel_length": "1 (Fig. 4, Section 6.1)",
        "distance": "the norm in Eq. 7 and 8, its square in the algorithms",
        "relative": "no",
        "weights": "1 for each service (Eq. 8)",
        "precision": "not given",
        "seed": "not given",
    }
)
"""What the paper says about a field of :class:`~pmtlib.transform.PMTConfig`; the others are this package's own."""

_IN_WORDS = {"step_size": "4/255", "noise_std": "8/255", "weights": "1 for each service"}


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def networks() -> str:
    """Every recognition network that comes with the package: training, accuracy as published and as measured."""
    rows = []
    for name, card in zoo.CARDS.items():
        weights = zoo.weights_checksum(name)
        measured = {data: calibration.find(name, data, weights=weights) for data in ("lfw", "cfp_ff")}
        published = PUBLISHED.get(name)
        rows.append(
            [
                f"`{name}`",
                card.paper_counterpart or "none",
                card.training_set,
                card.loss,
                f"{card.parameters / 1e6:.1f} M",
                f"{published.accuracy} ({published.source})" if published else "none found",
                *(
                    f"{_percent(entry.accuracy_mean)} ± {_percent(entry.accuracy_std)}" if entry else "not measured"
                    for entry in measured.values()
                ),
            ]
        )
    columns = ["network", "the paper's of that kind", "trained on", "loss", "parameters", "LFW as published, %"]
    return markdown([*columns, "LFW as measured, %", "CFP-FF as measured, %"], rows)


def thresholds() -> str:
    """Where each network's cosines are cut, by criterion, on whole protocols."""
    rows = []
    for name in zoo.CARDS:
        for data in ("lfw", "cfp_ff"):
            entry = calibration.find(name, data, weights=zoo.weights_checksum(name))
            if entry is not None:
                points = (entry.threshold_accuracy, entry.threshold_far_1e2, entry.threshold_far_1e3)
                cells = [f"{value:.3f}" for value in points]
                rows.append([f"`{name}`", TITLES[data], str(entry.n), *cells, _percent(entry.tar_far_1e2)])
    columns = ["network", "set", "pairs", "highest accuracy", "FAR 10⁻²", "FAR 10⁻³", "TAR at FAR 10⁻², %"]
    return markdown(columns, rows)


def attribute_networks() -> str:
    """Every attribute network that comes with the package."""
    rows = [
        [f"`{name}`", ", ".join(card.labels), card.training_set, f"{card.parameters / 1e6:.1f} M", card.licence]
        for name, card in attribute_zoo.CARDS.items()
    ]
    return markdown(["network", "estimates", "trained on", "parameters", "licence"], rows)


def weights_licences() -> str:
    """The licence of each recognition network's weights, as far as one is stated."""
    return markdown(
        ["network", "licence of the weights", "trained on"],
        [[f"`{name}`", card.licence, card.training_set] for name, card in zoo.CARDS.items()],
    )


def file_licences() -> str:
    """The licence of every file that the package fetches."""
    rows = [[f"`{name}`", f"`{row.filename}`", row.licence] for name, row in sorted(assets.ASSETS.items())]
    return markdown(["asset", "file", "licence"], rows)


def transform_choices() -> str:
    """Every field of the transform's configuration: the paper's value beside the default."""
    defaults = PMTConfig().model_dump()
    rows = []
    for name, value in defaults.items():
        if isinstance(value, bool):
            default = "yes" if value else "no"
        else:
            default = _IN_WORDS.get(name, "none" if value is None else str(value))
        rows.append([f"`{name}`", PAPER_CHOICES.get(name, "no such choice"), default])
    return markdown(["field", "the paper", "here"], rows)


def data_sets() -> str:
    """The paper's sets: pairs of the whole protocol, pairs that are drawn, and whether stored results are of them."""
    settings = abuse_settings("paper")
    whole = {entry.dataset: entry.n for entry in calibration.calibrations()}
    measured = {result.data["name"] for result in _stored()}
    rows = [
        [
            TITLES[name],
            str(whole.get(name, "not measured")),
            str(settings.pairs) if name in measured else "not run",
            "yes" if name in measured else "not run: the set was absent",
        ]
        for name in PROTOCOL_SETS
    ]
    return markdown(["set", "pairs of the protocol", "pairs drawn for the tables", "results stored"], rows)


def hardware() -> str:
    """On what the stored results were computed."""
    found = set()
    for result in _stored():
        manifest = result.manifest
        machine, packages = manifest["hardware"], manifest["packages"]
        processors = f"{machine['cpu_count']}, {machine['machine']}"
        found.add((machine["device"], processors, machine["system"], manifest["python"], packages["torch"]))
    return markdown(["device", "processors", "system", "Python", "torch"], sorted(map(list, found)))


def fuzzing() -> str:
    """What each parser's target came to when it was last fuzzed."""
    kept = json.loads((paths.project_dir() / "benchmarks" / "fuzz.json").read_bytes())
    total = {name: sum(run[name] for run in kept.values()) for name in ("minutes", "executions", "findings")}
    rows = [
        [title, f"{run['minutes']:g}", f"{run['executions']:,}", str(run["findings"]), *when]
        for title, run, *when in (
            *((f"`{name}`", run, run["mutations"], run["date"]) for name, run in kept.items()),
            ("all", total, "", ""),
        )
    ]
    return markdown(["target", "minutes", "executions", "findings", "mutations", "date"], rows)


def _stored() -> list[Result]:
    """All stored results of the checkout, whatever ``PMT_RESULTS`` says: the book is of those."""
    return [result for _, result in everything(paths.project_dir() / "results")]


TABLES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "networks": networks,
        "thresholds": thresholds,
        "attribute-networks": attribute_networks,
        "weights-licences": weights_licences,
        "file-licences": file_licences,
        "transform-choices": transform_choices,
        "data-sets": data_sets,
        "hardware": hardware,
        "fuzzing": fuzzing,
    }
)
"""Every table by the name of its file."""


def folder() -> Path:
    """Where the tables are kept: below the book's pages."""
    return paths.project_dir() / "book" / "_tables"


def readme() -> str:
    """The README with the tables of :mod:`pmtlib.glance` from the committed pages, each between its two comments."""
    text = (paths.project_dir() / "README.md").read_text("utf-8")
    for name, table in glance.tables(paths.project_dir() / "book" / "results").items():
        before, begin, rest = text.partition(f"<!-- glance-{name} -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        text = f"{before}{begin}\n{markdown(table.headings, table.rows)}\n{table.note}\n\n{end}{after}"
    return text


def write() -> list[Path]:
    """Write every table, and say which files now hold something else."""
    changed = []
    folder().mkdir(exist_ok=True)
    files = {folder() / f"{name}.md": table() for name, table in TABLES.items()}
    for path, text in {**files, paths.project_dir() / "README.md": readme()}.items():
        content = text.encode()
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
            changed.append(path)
    return changed
