"""Section 6.3, defence against face reconstruction (Table 6, Fig. 6): what an attacker makes of uploaded features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pmtlib import datasets, metrics
from pmtlib.attacks.reconstruction import ADAM as ADAM_ATTACK
from pmtlib.attacks.reconstruction import (
    SAMPLE_CONFIG,
    InversionConfig,
    RecFace,
    RecFaceConfig,
    invert,
    load_recface,
    recface_record,
    sample_people,
    sample_recface,
)
from pmtlib.attacks.reconstruction import SIGN as SIGN_ATTACK
from pmtlib.errors import AssetError, DatasetError
from pmtlib.experiments.claims import UNJUDGED, Claim, mean, overall, reversals, share
from pmtlib.experiments.common import (
    PEOPLE,
    PEOPLE_LIST,
    TITLES,
    Bench,
    Floats,
    Outcome,
    SectionSettings,
    Source,
    paper_table,
    rate,
    rounded,
    same_data,
    section_settings,
    trained_recface,
)
from pmtlib.images import UInt8Image, batches, quantise, to_tensor, to_uint8
from pmtlib.progress import progress_bar
from pmtlib.randomness import derived_generator
from pmtlib.reproduction import Recompute
from pmtlib.shallow import ServerModel, ShallowModel
from pmtlib.variants.unclipped import UnclippedConfig

BLACK_BOX, SIGN, ADAM = "black-box", "white-box-sign", "white-box-adam"
ATTACKS = (BLACK_BOX, SIGN, ADAM)
PAPER_ATTACKS = {BLACK_BOX: "black_box", SIGN: "white_box"}
SHORT = {BLACK_BOX: "black box", SIGN: "white box"}
ATTACK_TITLES = {BLACK_BOX: "black box (RecFace)", SIGN: "white box, Eq. 2 to 4", ADAM: "white box, tuned"}

IMAGE = "none"
"""In place of an attack: the obfuscated image itself, which is not uploaded in this mode, beside the photograph."""

UNPROTECTED, NOISE, PMT = "unprotected", "noise", "pmt"
PAPER_UPLOADS = {UNPROTECTED: "Unprotected", NOISE: "Random Noise", PMT: "Ours"}

HIDDEN, WORKS, RECOGNISED, NEARLY = 0.1, 0.5, 0.9, 0.8
"""What decides the verdicts: a face counts as hidden up to this SSIM (the paper has 0.03); an attack works from this
SSIM (the paper's lowest is 0.53) and this share of recognised images on; and features count as reconstructed nearly
as well as unprotected ones from this share of their SSIM on."""


class ReconstructionSettings(SectionSettings):
    """Parameters of Section 6.3 (Table 6).

    Attributes:
        authorised: the network whose shallow features are uploaded.
        more_steps: other numbers of PMT steps, whose features are closer to the photograph's; one more row each.
        unclipped_steps: numbers of PMT steps of a control whose pixels may leave [0, 1], as in the paper's algorithms.
        recface: the training of the black-box attacker's network, on people of LFW who are in no pair.
        sample_recface: the same where the sample photographs are attacked, on the people in them who are not.
        attacked: who is attacked among the sample photographs.
        white_box_sign: the white-box attack as the paper states it.
        white_box_adam: the white-box attack with an optimiser and steps chosen for it.
        noise_seed: of the order in which the random noise has the values of PMT's perturbation.
        lpips: measure LPIPS (VGG) as well.
    """

    section: ClassVar[str] = "reconstruction"

    authorised: str = "mobilefacenet"
    more_steps: tuple[int, ...] = ()
    unclipped_steps: tuple[int, ...] = ()
    recface: RecFaceConfig = RecFaceConfig()
    sample_recface: RecFaceConfig = SAMPLE_CONFIG
    attacked: tuple[str, ...] = ("collins", "obama")
    white_box_sign: InversionConfig = SIGN_ATTACK
    white_box_adam: InversionConfig = ADAM_ATTACK
    noise_seed: int = 0
    lpips: bool = False

    def inversion(self, attack: str) -> InversionConfig:
        """The configuration of a white-box attack."""
        return self.white_box_sign if attack == SIGN else self.white_box_adam

    def uploads(self) -> tuple[str, ...]:
        """All rows, in order."""
        return (UNPROTECTED, NOISE, PMT, *(closer(steps) for steps in self.more_steps))


def closer(steps: int) -> str:
    """The row of features that PMT made in another number of steps."""
    return f"{PMT}-{steps}"


def upload_title(upload: str, settings: ReconstructionSettings) -> str:
    """What a row is called in tables."""
    titles = {UNPROTECTED: "unprotected", NOISE: "random noise", PMT: f"PMT, K = {settings.pmt.steps}"}
    return titles.get(upload) or f"PMT, K = {upload.removeprefix(PMT + '-')}"


def reconstruction_settings(profile: str, **overrides: Any) -> ReconstructionSettings:
    """Settings of a profile, see :func:`pmtlib.experiments.common.section_settings`."""
    return section_settings(ReconstructionSettings, profile, **overrides)


def shuffled(perturbation: Tensor, seed: int) -> Tensor:
    """Random noise of the same amplitude: the values of each image's perturbation (N, ...), in random order.

    The paper's random noises "with the same amplitude" are PMT's, with "the order disrupted" (Section 6.3).

    Args:
        perturbation: PMT's features minus those of the photographs, (N, C, h, w).
        seed: of the order, with the image's place.
    """
    rows = []
    for place, values in enumerate(perturbation.flatten(1)):
        generator = derived_generator(f"shuffled:{seed}:{place}")
        rows.append(values[torch.randperm(values.numel(), generator=generator).to(values.device)])
    return torch.stack(rows).view_as(perturbation)


@dataclass(frozen=True)
class Uploads:
    """What is uploaded of some photographs, and what it was made from.

    Attributes:
        originals: the photographs, (N, 3, 112, 112).
        features: row to shallow features, (N, C, h, w).
        images: row to the obfuscated images of PMT's rows, not rounded.
    """

    originals: Tensor
    features: Mapping[str, Tensor]
    images: Mapping[str, Tensor]


@dataclass(frozen=True)
class ReconstructionBlock:
    """Everything of one data set.

    Attributes:
        dataset: its name.
        clean: the thresholds.
        uploads: how far features are from the photograph's, and how the PMT image itself compares.
        attacks: attack to its outcomes: that of the paper's three rows first, then one for each further K.
        unclipped: PMT without clipping: its features, and what the black box makes of them; None where not asked for.
    """

    dataset: str
    clean: Outcome
    uploads: Outcome
    attacks: Mapping[str, Sequence[Outcome]]
    unclipped: Outcome | None = None

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        """Everything that is stored, with a label."""
        yield "thresholds", self.clean
        yield "uploads", self.uploads
        for attack, found in self.attacks.items():
            for place, outcome in enumerate(found):
                yield (attack if place == 0 else f"{attack}, further K"), outcome
        if self.unclipped is not None:
            yield "without clipping", self.unclipped

    def measured(self, attack: str) -> dict[str, Mapping[str, Any]]:
        """Row to stored measures of an attack, or of the images themselves (:data:`IMAGE`)."""
        found: dict[str, Mapping[str, Any]] = {}
        outcomes = [self.uploads] if attack == IMAGE else self.attacks.get(attack, ())
        for outcome in outcomes:
            if outcome.result is not None:
                found.update(outcome.result.values["images" if attack == IMAGE else "uploads"])
        return found


class Reconstruction(Bench[ReconstructionSettings]):
    """Table 6: reconstruction from shallow features, in a black and in a white box (Section 6.3).

    Args:
        settings: see :class:`ReconstructionSettings`.
        device: where to compute.
        recompute: compute also what is stored.
        profile: the profile's name, for the command in manifests.
    """

    VERSION = 1

    def __init__(
        self,
        settings: ReconstructionSettings,
        device: torch.device,
        *,
        recompute: Recompute = False,
        profile: str = "paper",
    ) -> None:
        super().__init__(settings, device, recompute=recompute, profile=profile)
        self._uploads: dict[str, Uploads] = {}
        self._recfaces: dict[tuple[str, ...] | None, tuple[RecFace, dict[str, Any]]] = {}

    def run(self) -> list[ReconstructionBlock]:
        """All blocks. Each attack is stored when done, so an interrupted run goes on where it was."""
        return [self._block(name) for name in self.settings.datasets]

    def _block(self, name: str) -> ReconstructionBlock:
        sample = self.sample(name)
        clean = self.thresholds(name)
        uploads = self._obtain(name, "uploads", sample, self.settings.uploads()[1:], {})
        attacks: dict[str, list[Outcome]] = {}
        for attack in ATTACKS:
            config = self._attack_parameters(name, attack)
            rows = [(UNPROTECTED, NOISE, PMT), *((closer(steps),) for steps in self.settings.more_steps)]
            labels = [attack, *(f"{attack}-k{steps}" for steps in self.settings.more_steps)]
            attacks[attack] = [
                self._obtain(name, label, sample, chosen, config, attack)
                for label, chosen in zip(labels, rows, strict=True)
            ]
        unclipped = self._unclipped(name, sample) if self.settings.unclipped_steps else None
        return ReconstructionBlock(name, clean, uploads, attacks, unclipped)

    def _unclipped(self, name: str, sample: datasets.PairSet | DatasetError) -> Outcome:
        settings = self.settings
        config = UnclippedConfig(**{**settings.pmt.model_dump(), "steps": max(settings.unclipped_steps)})
        parameters = {
            "authorised": settings.authorised, "cut": settings.cut, "pmt": config.model_dump(mode="json"),
            "kept": list(settings.unclipped_steps), **self._attack_parameters(name, BLACK_BOX),
        }  # fmt: skip
        request = self.request("reconstruction", f"{name}--unclipped", self.VERSION, parameters)

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            recface, about = self.recface(settings.attacked if sample.stand_in else None)
            originals, shallow = self.photographs(sample), self.shallow(settings.authorised)
            clean = self._features(shallow, originals)
            title = f"{sample.title}, not clipped"
            made = self.protect(
                originals, settings.authorised, title, config=config, keep=settings.unclipped_steps
            ).kept
            values: dict[str, Any] = {"features": {}, "uploads": {}, "outside": {}, "recface": about}
            for steps, images in zip(settings.unclipped_steps, made, strict=True):
                features, row = self._features(shallow, images), str(steps)
                restored = self.reconstruct(BLACK_BOX, features, f"{title}, K = {steps}", recface)
                values["features"][row] = self._feature_values(features, clean, originals)
                values["uploads"][row] = self._measures(restored, originals)
                values["outside"][row] = rounded(((images < 0) | (images > 1)).flatten(1).double().mean(1))
            return values

        return self.obtain(request, Source.of_pairs(sample), compute)

    def _attack_parameters(self, name: str, attack: str) -> dict[str, Any]:
        if attack != BLACK_BOX:
            return {"inversion": self.settings.inversion(attack).model_dump(mode="json")}
        if name == "samples":
            return {"recface": self.settings.sample_recface.model_dump(mode="json"), "people": "samples"}
        return {"recface": self.settings.recface.model_dump(mode="json"), "people": f"{PEOPLE}/{PEOPLE_LIST}"}

    def _obtain(
        self,
        name: str,
        label: str,
        sample: datasets.PairSet | DatasetError,
        rows: Sequence[str],
        config: Mapping[str, Any],
        attack: str | None = None,
    ) -> Outcome:
        settings = self.settings
        parameters = {
            "authorised": settings.authorised, "cut": settings.cut, "pmt": settings.pmt.model_dump(mode="json"),
            "noise_seed": settings.noise_seed, "uploads": list(rows), "lpips": settings.lpips, **config,
        }  # fmt: skip
        if name == "samples":
            parameters["attacked"] = list(settings.attacked)
        request = self.request("reconstruction", f"{name}--{label}", self.VERSION, parameters)

        def compute() -> dict[str, Any]:
            assert isinstance(sample, datasets.PairSet)
            if attack is None:
                return self._upload_values(sample)
            return self._attack_values(sample, attack, rows)

        return self.obtain(request, Source.of_pairs(sample), compute)

    def photographs(self, sample: datasets.PairSet) -> Tensor:
        """The photographs that are attacked: the first of each pair, each once; of the samples, of some people only."""
        first = np.unique(sample.pairs[:, 0])
        if sample.stand_in and sample.identities is not None:
            first = np.array([row for row in first if sample.identities[row] in self.settings.attacked], dtype=np.int64)
        if not len(first):
            raise AssetError(f"no photograph of {sample.title} shows {', '.join(self.settings.attacked)}")
        return sample.tensor(first)

    def uploads(self, originals: Tensor, description: str, *, shown: bool = False) -> Uploads:
        """What is uploaded of these photographs, for each row."""
        settings = self.settings
        shallow = self.shallow(settings.authorised)
        images = {}
        for row, steps in ((PMT, settings.pmt.steps), *((closer(steps), steps) for steps in settings.more_steps)):
            config = settings.pmt.model_copy(update={"steps": steps})
            title = f"{description}, K = {steps}"
            images[row] = self.protect(originals, settings.authorised, title, config=config, shown=shown)
        unprotected = self._features(shallow, originals)
        # Uploaded are the features of the image that was optimised; it is rounded only where it is sent itself.
        made = {row: self._features(shallow, found.images) for row, found in images.items()}
        noise = unprotected + shuffled(made[PMT] - unprotected, settings.noise_seed)
        features = {UNPROTECTED: unprotected, NOISE: noise, **made}
        return Uploads(originals, features, {row: found.images for row, found in images.items()})

    def _uploads_of(self, sample: datasets.PairSet) -> Uploads:
        if sample.name not in self._uploads:
            self._uploads = {sample.name: self.uploads(self.photographs(sample), sample.title)}
        return self._uploads[sample.name]

    def _features(self, shallow: ShallowModel, images: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [shallow.feature(images[chunk].to(self.device)) for chunk in batches(len(images), 16)]
        return torch.cat(parts)

    def recface(self, attacked: Sequence[str] | None = None) -> tuple[RecFace, dict[str, Any]]:
        """The black-box attacker's network and where it comes from.

        Args:
            attacked: None for the one trained on people of LFW; otherwise who may not be among the sample
                photographs on which one is trained here and now.

        Raises:
            AssetError: there is no trained one.
        """
        key = None if attacked is None else tuple(sorted(attacked))
        if key not in self._recfaces:
            self._recfaces[key] = self._trained() if key is None else self._demonstration(key)
        return self._recfaces[key]

    def _trained(self) -> tuple[RecFace, dict[str, Any]]:
        settings = self.settings
        folder, people = trained_recface(settings.authorised, settings.cut, settings.recface)
        record = recface_record(folder)
        keep = ("people", "feature", "seconds", "curve")
        about = {"key": folder.name, "demonstration": False, **{name: record[name] for name in keep}}
        return load_recface(folder, self.device), {**about, "identities": len(people.names)}

    def _demonstration(self, attacked: tuple[str, ...]) -> tuple[RecFace, dict[str, Any]]:
        config = self.settings.sample_recface
        others = [who for who in sample_people().identities if who not in attacked]
        with progress_bar("RecFace, sample photographs", config.steps) as advance:
            shallow = self.shallow(self.settings.authorised)
            model = sample_recface(shallow, config, attacked=attacked, progress=advance)
        people = {"name": "samples", "training_images": len(others), "validation_images": 0}
        return model, {"demonstration": True, "people": people, "identities": len(set(others)), "curve": []}

    def reconstruct(self, attack: str, features: Tensor, description: str, recface: RecFace | None = None) -> Tensor:
        """What an attack makes of features: images (N, 3, 112, 112), rounded to 8 bits, on the CPU.

        Args:
            attack: one of :data:`ATTACKS`.
            features: (N, C, h, w).
            description: for the progress bar.
            recface: the network of the black-box attack.
        """
        if attack == BLACK_BOX:
            assert recface is not None
            with torch.no_grad():
                images = torch.cat([recface(features[chunk]) for chunk in batches(len(features), 16)])
            return quantise(images.cpu())
        config = self.settings.inversion(attack)
        shallow = self.shallow(self.settings.authorised)
        with progress_bar(description, len(features) * config.steps * len(config.starts)) as advance:
            return quantise(invert(features, shallow, config, progress=advance).images.cpu())

    def _attack_values(self, sample: datasets.PairSet, attack: str, rows: Sequence[str]) -> dict[str, Any]:
        recface, about = None, None
        if attack == BLACK_BOX:
            recface, about = self.recface(self.settings.attacked if sample.stand_in else None)
        uploads = self._uploads_of(sample)
        values: dict[str, Any] = {"uploads": {}}
        for row in rows:
            images = self.reconstruct(attack, uploads.features[row], f"{sample.title}, {attack}, {row}", recface)
            values["uploads"][row] = self._measures(images, uploads.originals)
        return values if about is None else {**values, "recface": about}

    def _measures(self, images: Tensor, originals: Tensor) -> dict[str, Any]:
        """How alike images are to the photographs, and each network's cosine of the two; one number an image."""
        values: dict[str, Any] = {
            "ssim": rounded(metrics.ssim(images, originals)),
            "psnr": rounded(metrics.psnr(images, originals)),
        }
        if self.settings.lpips:
            values["lpips"] = rounded(metrics.lpips(images, originals))
        values["cosine"] = {
            name: rounded(metrics.cosine(self.embed(name, images), self.embed_once(name, originals)))
            for name in self.settings.networks
        }
        return values

    def _upload_values(self, sample: datasets.PairSet) -> dict[str, Any]:
        """How far the features are from the photograph's, how the service recognises them, and PMT's images."""
        uploads = self._uploads_of(sample)
        clean = uploads.features[UNPROTECTED]
        values: dict[str, Any] = {"features": {}, "images": {}}
        for row, features in uploads.features.items():
            values["features"][row] = self._feature_values(features, clean, uploads.originals)
        for row, images in uploads.images.items():
            values["images"][row] = self._measures(quantise(images), uploads.originals)
        return values

    def _feature_values(self, features: Tensor, clean: Tensor, originals: Tensor) -> dict[str, list[float]]:
        """Of features (N, C, h, w), and those of the photographs: how far they are apart, and as the service sees."""
        server = ServerModel(self.network(self.settings.authorised), self.settings.cut)
        with torch.no_grad():
            embedded = torch.cat([server(features[chunk]).cpu() for chunk in batches(len(features), 16)])
        flat, goal = features.flatten(1), clean.flatten(1)
        own = self.embed_once(self.settings.authorised, originals)
        return {
            "error": rounded((flat - goal).square().sum(1) / goal.square().sum(1)),
            "cosine": rounded(torch.nn.functional.cosine_similarity(flat, goal)),
            "service": rounded(metrics.cosine(embedded.numpy().astype(np.float64), own)),
        }


def table(blocks: Sequence[ReconstructionBlock], settings: ReconstructionSettings) -> pd.DataFrame:
    """Table 6 in long form, one line a mean.

    Returns:
        DataFrame with columns dataset, attack (``none``: the PMT image itself), upload, measure (``ssim``, ``psnr``,
        ``lpips``, ``cosine``, ``srra`` at the paper's threshold, ``srra_own`` at the network's own), network (None for
        the first three), mean, low, high (95%: Wilson for rates, bootstrap otherwise), n (images).
    """
    lines: list[dict[str, Any]] = []
    for block in blocks:
        for attack in (IMAGE, *ATTACKS):
            for upload, measures in block.measured(attack).items():
                where = {"dataset": block.dataset, "attack": attack, "upload": upload}
                for measure in ("ssim", "psnr", "lpips"):
                    if measure in measures:
                        lines.append({**where, "measure": measure, "network": None, **_mean(measures[measure])})
                for network, stored in measures["cosine"].items():
                    cosine = np.array(stored)
                    lines.append({**where, "measure": "cosine", "network": network, **_mean(cosine)})
                    for measure, kappa in _thresholds(block, network, settings):
                        found = rate(metrics.srra(cosine, kappa))
                        line = {name: found[name] for name in ("low", "high", "n")}
                        line = {**where, "measure": measure, "network": network, "mean": found["accuracy"], **line}
                        lines.append(line)
    columns = ["dataset", "attack", "upload", "measure", "network", "mean", "low", "high", "n"]
    return pd.DataFrame(lines, columns=columns)


def _thresholds(
    block: ReconstructionBlock, network: str, settings: ReconstructionSettings
) -> Iterator[tuple[str, float]]:
    if network not in settings.kappa_excluded:
        yield "srra", settings.kappa
    if block.clean.result is not None:
        for _, outcome in block.outcomes():
            if outcome.result is not None:
                same_data(block.clean.result, outcome.result)
        yield "srra_own", block.clean.result.values["networks"][network]["threshold"]


def _mean(values: Sequence[float] | Floats) -> dict[str, Any]:
    interval = metrics.bootstrap(np.array(values), seed=0)
    return {"mean": float(np.mean(values)), "low": interval.low, "high": interval.high, "n": len(values)}


def features_table(blocks: Sequence[ReconstructionBlock]) -> pd.DataFrame:
    """How far uploaded features are from those of the photograph, and whether the service recognises them.

    Returns:
        DataFrame with columns dataset, upload, error (mean squared error relative to the features' squared norm), low,
        high (95% bootstrap), cosine (mean, of the features), service (mean cosine of the embeddings that the service
        computes from the upload and from the photograph), n.
    """
    columns = ["dataset", "upload", "error", "low", "high", "cosine", "service", "n"]
    lines = []
    for block in blocks:
        for upload, entry in (block.uploads.result.values["features"] if block.uploads.result else {}).items():
            error = _mean(entry["error"])
            cosine, service = np.mean(entry["cosine"]), np.mean(entry["service"])
            line = (block.dataset, upload, error["mean"], error["low"], error["high"], cosine, service, error["n"])
            lines.append(line)
    return pd.DataFrame(lines, columns=columns)


def clipping_table(blocks: Sequence[ReconstructionBlock], settings: ReconstructionSettings) -> pd.DataFrame:
    """PMT with and without clipping, by the number of steps: what the features serve for, and what they give away.

    Returns:
        DataFrame with columns dataset, clipped, steps (K), outside (mean share of pixels outside [0, 1]), error (mean
        squared error of the features relative to their squared norm), served, served_low, served_high (share of the
        photographs that the service recognises by the features, at its own threshold; Wilson), ssim, ssim_low,
        ssim_high (of the black box's reconstructions; bootstrap), others (mean share of these that the other networks
        recognise), n. Empty where the control was not run.
    """
    lines: list[dict[str, Any]] = []
    for block in blocks:
        if block.unclipped is None or block.unclipped.result is None or block.uploads.result is None:
            continue
        free, made = block.unclipped.result.values, block.measured(BLACK_BOX)
        kept = {settings.pmt.steps: PMT, **{steps: closer(steps) for steps in settings.more_steps}}
        rows = [
            (True, steps, 0.0, block.uploads.result.values["features"][row], made[row])
            for steps, row in kept.items()
            if row in made
        ]
        rows += [
            (False, int(steps), float(np.mean(free["outside"][steps])), entry, free["uploads"][steps])
            for steps, entry in free["features"].items()
        ]
        limits = {name: dict(_thresholds(block, name, settings))["srra_own"] for name in settings.networks}
        for clipped, steps, outside, entry, restored in rows:
            served = rate(np.array(entry["service"]) > limits[settings.authorised])
            ssim = _mean(restored["ssim"])
            others = [
                float(np.mean(np.array(restored["cosine"][name]) > limits[name]))
                for name in settings.networks
                if name != settings.authorised
            ]
            lines.append(
                {
                    "dataset": block.dataset, "clipped": clipped, "steps": steps, "outside": outside,
                    "error": float(np.mean(entry["error"])), "served": served["accuracy"],
                    "served_low": served["low"], "served_high": served["high"], "ssim": ssim["mean"],
                    "ssim_low": ssim["low"], "ssim_high": ssim["high"],
                    "others": float(np.mean(others)) if others else float("nan"), "n": ssim["n"],
                }
            )  # fmt: skip
    columns = [
        "dataset", "clipped", "steps", "outside", "error", "served", "served_low", "served_high", "ssim", "ssim_low",
        "ssim_high", "others", "n",
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=columns)


def clipping_reading(frame: pd.DataFrame) -> str:
    """What the clipping changes, in words (Markdown).

    The service is served where it recognises at least :data:`RECOGNISED` on every set, as everywhere on this page.

    Args:
        frame: of :func:`clipping_table`.
    """
    if not len(frame):
        return "*Not run: PMT without clipping.*"
    means = frame.groupby(["clipped", "steps"], sort=False)[["error", "served", "ssim", "others"]].mean()
    ours = means.loc[True].iloc[0]
    steps = int(means.loc[True].index[0])

    def told(line: Any) -> str:
        return (
            f"an error of {100 * line['error']:.0f}%, the service recognises {100 * line['served']:.0f}%, SSIM of the "
            f"reconstructions {line['ssim']:.2f}, of which other networks recognise {100 * line['others']:.0f}%"
        )

    free = "; ".join(f"K = {number}: {told(line)}" for number, line in means.loc[False].iterrows())
    lowest = frame[~frame["clipped"]].groupby("steps", sort=False)["served"].min()
    enough = means.loc[False][lowest >= RECOGNISED]
    wanted = f"recognises at least {100 * RECOGNISED:.0f}% on each set"
    if len(enough):
        first, least = enough.iloc[0], int(enough.index[0])
        verdict = (
            f"{'Already at' if least <= steps else 'Only at'} K = {least} the service is served ({wanted}); an SSIM "
            f"of {first['ssim']:.2f} is left then instead of {ours['ssim']:.2f} with clipping at K = {steps}."
        )
        leaks = "Identity leaks all the same" if first["others"] >= RECOGNISED else "Of identity less is left"
        verdict += f" {leaks}: other networks recognise {100 * first['others']:.0f}% of these reconstructions."
    else:
        verdict = f"At none of these K is the service served ({wanted})."
    return (
        f"With clipping, K = {steps}: {told(ours)}. Without, {free}. {verdict} (Means over the sets; intervals are in "
        "the table.)"
    )


def summary(cells: pd.DataFrame, features: pd.DataFrame, settings: ReconstructionSettings) -> dict[str, float]:
    """Headline numbers, each a mean over the data sets.

    ``ATTACK_UPLOAD_MEASURE`` with underscores for hyphens: ``ssim``, ``psnr``, the authorised network's ``cosine``,
    ``srra`` and ``srra_own`` (percent), and ``others``, the percentage of images that the other networks accept at
    their own thresholds; ``image`` in place of an attack for the PMT image itself; ``UPLOAD_error``.
    """
    found: dict[str, float] = {}
    for (attack, upload), part in cells.groupby(["attack", "upload"], sort=False):
        label = f"{'image' if attack == IMAGE else attack}_{upload}".replace("-", "_")
        own = part[part["network"].isna() | (part["network"] == settings.authorised)]
        for measure, group in own.groupby("measure", sort=False):
            scale = 100 if str(measure).startswith("srra") else 1
            found[f"{label}_{measure}"] = scale * group["mean"].mean()
        others = part[(part["measure"] == "srra_own") & (part["network"] != settings.authorised)]
        if len(others):
            found[f"{label}_others"] = 100 * others["mean"].mean()
    for upload, group in features.groupby("upload", sort=False):
        found[f"{str(upload).replace('-', '_')}_error"] = group["error"].mean()
        found[f"{str(upload).replace('-', '_')}_service"] = group["service"].mean()
    return {name: round(float(value), 3) for name, value in found.items()}


def _ours(cells: pd.DataFrame, settings: ReconstructionSettings, attack: str, upload: str) -> pd.DataFrame:
    """Dataset by measure: the means of an attack on a row, cosines and rates of the authorised network."""
    own = cells["network"].isna() | (cells["network"] == settings.authorised)
    part = cells[(cells["attack"] == attack) & (cells["upload"] == upload) & own]
    return part.pivot(index="dataset", columns="measure", values="mean")


def verdicts(
    blocks: Sequence[ReconstructionBlock], cells: pd.DataFrame, settings: ReconstructionSettings
) -> dict[str, str]:
    """Whether the paper's claims hold for its two attacks, counted over attacks and data sets.

    Returns:
        Claim to verdict: ``attack`` (unprotected features are reconstructed: SSIM at least :data:`WORKS`, recognised
        in at least :data:`RECOGNISED` of the images at the service's own threshold), ``hidden`` (PMT: SSIM at most
        :data:`HIDDEN`), ``recognised`` (PMT: recognised as often), ``noise`` (random noise: SSIM above PMT's, the 95%
        interval of the paired difference above 0), ``noise_psnr`` (the same for PSNR), ``noise_cosine`` (and a cosine
        below PMT's), ``noise_recognised`` (and recognised as often as PMT's are claimed to be). Of what is claimed to
        be recognised the paper names no threshold, so that the verdict is one at its usual one and at the service's
        own, or both.
    """
    claims = ("attack", "hidden", "noise", "noise_psnr", "noise_cosine")
    found: dict[str, list[bool]] = {claim: [] for claim in claims}
    recognised: dict[str, dict[str, list[bool]]] = {"recognised": {}, "noise_recognised": {}}
    for attack in PAPER_ATTACKS:
        for _, line in _ours(cells, settings, attack, UNPROTECTED).iterrows():
            found["attack"].append(line["ssim"] >= WORKS and line["srra_own"] >= RECOGNISED)
        for _, line in _ours(cells, settings, attack, PMT).iterrows():
            found["hidden"].append(line["ssim"] <= HIDDEN)
        for upload, claim in ((PMT, "recognised"), (NOISE, "noise_recognised")):
            for _, line in _ours(cells, settings, attack, upload).iterrows():
                for measure in line.index.intersection(["srra", "srra_own"]):
                    recognised[claim].setdefault(measure, []).append(line[measure] >= RECOGNISED)
        for block in blocks:
            rows = block.measured(attack)
            if NOISE not in rows or PMT not in rows:
                continue
            noise, made = rows[NOISE], rows[PMT]
            found["noise"].append(_above(noise["ssim"], made["ssim"]))
            found["noise_psnr"].append(_above(noise["psnr"], made["psnr"]))
            name = settings.authorised
            found["noise_cosine"].append(_above(made["cosine"][name], noise["cosine"][name]))
    said = {claim: overall(results) for claim, results in found.items()}
    for claim, by_threshold in recognised.items():
        at = {measure: overall(results) for measure, results in by_threshold.items()}
        own, usual = at.get("srra_own", UNJUDGED), at.get("srra", UNJUDGED)
        same = usual in (own, UNJUDGED)
        said[claim] = own if same else f"{usual} at κ = {settings.kappa:g}, {own} at the service's own threshold"
    return said


def reversed_parts(blocks: Sequence[ReconstructionBlock], settings: ReconstructionSettings) -> dict[str, str]:
    """For each claim on noise of :func:`verdicts` that compares: where it holds, and where its opposite does.

    Returns:
        By claim :func:`~.claims.reversals`; empty where nothing is reversed, or all of it.
    """
    signs: dict[str, dict[str, list[int]]] = {}
    for attack in PAPER_ATTACKS:
        for block in blocks:
            rows = block.measured(attack)
            if NOISE not in rows or PMT not in rows:
                continue
            noise, made = rows[NOISE], rows[PMT]
            own = (made["cosine"][settings.authorised], noise["cosine"][settings.authorised])
            compared = {"noise": (noise["ssim"], made["ssim"]), "noise_psnr": (noise["psnr"], made["psnr"])}
            for claim, (more, less) in {**compared, "noise_cosine": own}.items():
                sign = int(_above(more, less)) - int(_above(less, more))
                signs.setdefault(claim, {}).setdefault(f"the {SHORT[attack]}", []).append(sign)
    return {claim: reversals(parts) for claim, parts in signs.items()}


def _above(first: Sequence[float], second: Sequence[float]) -> bool:
    return metrics.bootstrap(np.array(first) - np.array(second), seed=0).low > 0


def _paper(attack: str, upload: str, measure: int) -> str:
    """Range of the paper's values over its four data sets."""
    table6 = paper_table("table6")
    values = [rows[PAPER_UPLOADS[upload]][PAPER_ATTACKS[attack]][measure] for rows in table6["datasets"].values()]
    low, high = min(values), max(values)
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def reading(
    blocks: Sequence[ReconstructionBlock],
    cells: pd.DataFrame,
    features: pd.DataFrame,
    settings: ReconstructionSettings,
) -> str:
    """The paper's claims beside the numbers at hand, each with a verdict (Markdown)."""
    value = summary(cells, features, settings)
    attacks = [attack for attack in ATTACKS if _label(attack, PMT, "ssim") in value]
    if not attacks:
        return "Nothing was measured."
    verdict = verdicts(blocks, cells, settings)
    for claim, words in reversed_parts(blocks, settings).items():
        verdict[claim] += f" ({words})" if words else ""
    paper_s = [attack for attack in attacks if attack in PAPER_ATTACKS]

    def number(attack: str, upload: str, measure: str = "ssim", places: int = 2) -> str:
        return f"{value.get(_label(attack, upload, measure), float('nan')):.{places}f}"

    def listed(upload: str, measure: str = "ssim", index: int = 0) -> str:
        return "; ".join(
            f"{ATTACK_TITLES[attack]} {number(attack, upload, measure)}"
            + (f" (paper {_paper(attack, upload, index)})" if attack in PAPER_ATTACKS else "")
            for attack in attacks
        )

    def rates(upload: str, measure: str) -> str:
        return ", ".join(f"{ATTACK_TITLES[attack]} {number(attack, upload, measure, 0)}%" for attack in attacks)

    def against(measure: str, index: int) -> str:
        return "; ".join(
            f"{ATTACK_TITLES[attack]} {number(attack, NOISE, measure)} against {number(attack, PMT, measure)}"
            + (
                f" (paper {_paper(attack, NOISE, index)} against {_paper(attack, PMT, index)})"
                if attack in PAPER_ATTACKS
                else ""
            )
            for attack in attacks
        )

    lines = [
        f"- **Unprotected features.** Mean SSIM: {listed(UNPROTECTED)}. {settings.authorised} takes the reconstruction "
        f"for the person, at its own threshold: {rates(UNPROTECTED, 'srra_own')}.",
        f"- **PMT's features.** Mean SSIM: {listed(PMT)}. Mean cosine: {listed(PMT, 'cosine', 2)}. Recognised at the "
        f"service's own threshold: {rates(PMT, 'srra_own')}, at κ = {settings.kappa:g}, which the paper calls usual: "
        f"{rates(PMT, 'srra')} (paper 100%, at a threshold that it does not name).",
        f"- **Random noise against PMT.** Mean SSIM: {against('ssim', 0)}. Mean PSNR in dB: {against('psnr', 1)}: by "
        f"PSNR that noise hides less {verdict['noise_psnr']}, by SSIM it {verdict['noise']}. Where the two disagree, "
        f"neither says who hides more. Mean cosine: {against('cosine', 2)}. That what is made of noisy features is "
        f"always recognised (SRRA 1.00 in the paper) {verdict['noise_recognised']}: at the service's own threshold "
        f"{rates(NOISE, 'srra_own')}, at κ = {settings.kappa:g}: {rates(NOISE, 'srra')}.",
        f"- *What counts as what.* Over the paper's two attacks and the sets: reconstructed is a mean SSIM of at least "
        f"{WORKS} and recognition in at least {100 * RECOGNISED:.0f}%; hidden is a mean SSIM of at most {HIDDEN}; "
        f"recognised by the service is at least {100 * RECOGNISED:.0f}%; "
        "more or less is a 95% interval of the paired difference that excludes zero. All of them: holds; some: "
        "holds in part, also where the opposite holds of the others, which is said then.",
    ]
    worst = max(attacks, key=lambda attack: value[_label(attack, PMT, "ssim")])
    share = {a: value[_label(a, PMT, "ssim")] / value[_label(a, UNPROTECTED, "ssim")] for a in attacks}
    nearly = [attack for attack in attacks if share[attack] >= NEARLY]
    error = value.get("pmt_error", float("nan"))
    said = (
        f"PMT's features are reconstructed nearly as well as unprotected ones by {_join(nearly)}: with "
        f"{_shares(share, nearly)} of the SSIM."
        if nearly
        else f"PMT's features are reconstructed less well than unprotected ones, with {_shares(share, attacks)} of the "
        "SSIM."
    )
    lines.append(
        f"- **Why.** {said} Whoever inverts features can be kept from the photograph only by the part in which the "
        f"features differ. At K = {settings.pmt.steps} their squared error is {100 * error:.0f}% of their squared "
        "norm (the paper says that "
        "“the perturbations of processed features by PMT are small”, and gives no figure)"
        + "".join(_closer_text(settings, value, attacks, steps) for steps in settings.more_steps)
        + ". A "
        "transform that makes features equal cannot hide the face from someone who inverts features."
    )
    if f"image_{PMT}_ssim" in value:
        others = {attack: value.get(_label(attack, PMT, "others"), float("nan")) for attack in attacks}
        most = max(attacks, key=lambda attack: others[attack])
        lines.append(
            f"- **Identity leaks to networks that were not authorised.** At their own thresholds they recognise, of "
            f"the reconstructions of PMT's features, {rates(PMT, 'others')}; of the PMT image itself (SSIM "
            f"{number('image', PMT)}) {number('image', PMT, 'others', 0)}%; of reconstructions of unprotected "
            f"features, {rates(UNPROTECTED, 'others')}."
            if others[most] >= 10
            else f"- **Networks that were not authorised** recognise, at their own thresholds, of the reconstructions "
            f"of PMT's features {rates(PMT, 'others')}, of the PMT image itself (SSIM {number('image', PMT)}) "
            f"{number('image', PMT, 'others', 0)}%."
        )
    missing = [attack for attack in PAPER_ATTACKS if attack not in paper_s]
    if missing:
        lines.append(f"- Not measured: {_join(missing)}.")
    images = int(cells[cells["attack"] == worst]["n"].max())
    lines.append(f"\nMeans over the data sets; at most {images} images each; intervals are in the tables.")
    return "\n".join(lines)


def claims(blocks: Sequence[ReconstructionBlock], cells: pd.DataFrame, settings: ReconstructionSettings) -> list[Claim]:
    """What the paper says of Table 6, held against its two attacks here."""
    attacks = [attack for attack in PAPER_ATTACKS if (cells["attack"] == attack).any()]
    if not attacks:
        return []
    verdict, name = verdicts(blocks, cells, settings), settings.authorised

    reversed_ = reversed_parts(blocks, settings)

    def each(write: Callable[[str], str]) -> str:
        return ", ".join(f"{SHORT[attack]} {write(attack)}" for attack in attacks)

    def stored(attack: str, upload: str) -> list[tuple[ReconstructionBlock, Mapping[str, Any]]]:
        rows = [(block, block.measured(attack)) for block in blocks]
        return [(block, found[upload]) for block, found in rows if upload in found]

    def split(claim: str) -> str:
        return f"; {reversed_[claim]}" if reversed_.get(claim) else ""

    def ssim(attack: str, upload: str) -> str:
        return mean([found["ssim"] for _, found in stored(attack, upload)])

    def psnr(attack: str, upload: str) -> str:
        return mean([found["psnr"] for _, found in stored(attack, upload)], 1)

    def cosine(attack: str, upload: str) -> str:
        return mean([found["cosine"][name] for _, found in stored(attack, upload)])

    def accepted(attack: str, network: str, upload: str = PMT, measure: str = "srra_own") -> list[Any]:
        return [
            np.array(found["cosine"][network]) > dict(_thresholds(block, network, settings))[measure]
            for block, found in stored(attack, upload)
        ]

    def recognised(upload: str) -> str:
        own = each(lambda attack: share(accepted(attack, name, upload)))
        if name in settings.kappa_excluded:
            return own
        usual = each(lambda attack: share(accepted(attack, name, upload, "srra")))
        return f"{own} at its own threshold; at κ = {settings.kappa:g}, which the paper calls usual, {usual}"

    free = [block.unclipped.result.values["uploads"] for block in blocks if block.unclipped and block.unclipped.result]
    at_same_steps = [rows[str(settings.pmt.steps)]["ssim"] for rows in free if str(settings.pmt.steps) in rows]
    unclipped = (
        f"; from features of images that are not clipped, as the paper's algorithms are printed, the black box makes "
        f"{mean(at_same_steps)} at the same K"
        if at_same_steps
        else ""
    )
    strangers = [network for network in settings.networks if network != name]
    leak = [(attack, [accepted(attack, network) for network in strangers]) for attack in attacks if strangers]
    leaked = ", ".join(
        mean([np.mean(one, axis=0) for one in zip(*rights, strict=True)], 0, percent=True) + f" ({SHORT[attack]})"
        for attack, rights in leak
    )

    def paper(upload: str, index: int, against: str | None = None) -> str:
        return "; ".join(
            f"{SHORT[attack]} {_paper(attack, upload, index)}"
            + (f" against PMT's {_paper(attack, against, index)}" if against else "")
            for attack in attacks
        )

    found = [
        Claim(
            "unprotected features give the face away",
            f"mean SSIM {paper(UNPROTECTED, 0)}",
            f"mean SSIM {each(lambda attack: ssim(attack, UNPROTECTED))}",
            verdict["attack"],
        ),
        Claim(
            "PMT's features do not",
            paper(PMT, 0),
            each(lambda attack: ssim(attack, PMT))
            + (f", and networks without authorisation recognise {leaked} of what is made of them" if leaked else "")
            + unclipped,
            verdict["hidden"],
        ),
        Claim(
            "the service still recognises what is made of them",
            "100%",
            recognised(PMT),
            verdict["recognised"],
        ),
    ]
    if all(stored(attack, NOISE) for attack in attacks):
        found += [
            Claim(
                "random noise of the same amplitude hides less by SSIM",
                paper(NOISE, 0),
                each(lambda attack: ssim(attack, NOISE)) + split("noise"),
                verdict["noise"],
            ),
            Claim(
                "it hides less by PSNR",
                f"dB: {paper(NOISE, 1, PMT)}",
                f"dB: {each(lambda attack: f'{psnr(attack, NOISE)} against {psnr(attack, PMT)}')}{split('noise_psnr')}",
                verdict["noise_psnr"],
            ),
            Claim(
                "it lowers the cosine of embeddings (COS) more",
                paper(NOISE, 2, PMT),
                each(lambda attack: f"{cosine(attack, NOISE)} against {cosine(attack, PMT)}") + split("noise_cosine"),
                verdict["noise_cosine"],
            ),
            Claim(
                "what is made of noisy features is recognised all the same",
                "100%",
                recognised(NOISE),
                verdict["noise_recognised"],
            ),
        ]
    return found


def _label(attack: str, upload: str, measure: str) -> str:
    return f"{attack}_{upload}_{measure}".replace("-", "_")


def _join(attacks: Sequence[str]) -> str:
    return " and ".join(ATTACK_TITLES[attack] for attack in attacks)


def _shares(share: Mapping[str, float], attacks: Sequence[str]) -> str:
    return ", ".join(f"{100 * share[attack]:.0f}% ({ATTACK_TITLES[attack]})" for attack in attacks)


def _closer_text(
    settings: ReconstructionSettings, value: Mapping[str, float], attacks: Sequence[str], steps: int
) -> str:
    row = closer(steps)
    error = value.get(f"{row.replace('-', '_')}_error")
    known = [attack for attack in attacks if _label(attack, row, "ssim") in value]
    if error is None or not known:
        return ""
    share = {a: value[_label(a, row, "ssim")] / value[_label(a, UNPROTECTED, "ssim")] for a in known}
    return f"; at K = {steps} it is {100 * error:.0f}%, and the shares are {_shares(share, known)}"


def not_run(blocks: Sequence[ReconstructionBlock]) -> list[str]:
    """One line for each part that has no result, or whose result could not be computed again."""
    lines = []
    for block in blocks:
        notes = [(label, outcome.note) for label, outcome in block.outcomes()]
        title = TITLES.get(block.dataset, block.dataset)
        distinct = {note for _, note in notes}
        if len(distinct) == 1 and "" not in distinct:
            lines.append(f"{title}: {distinct.pop()}")
        else:
            lines += [f"{title}, {label}: {note}" for label, note in notes if note]
    return lines


def training(blocks: Sequence[ReconstructionBlock]) -> dict[str, Any] | None:
    """Where the black-box attacker's network comes from: people, images, curve; None where it was not used."""
    for block in blocks:
        for outcome in block.attacks.get(BLACK_BOX, ()):
            if outcome.result is not None:
                about: dict[str, Any] = outcome.result.values["recface"]
                return about
    return None


def training_text(about: Mapping[str, Any] | None) -> str:
    """One sentence on who the black-box attacker's network was trained on."""
    if about is None:
        return "The black-box attack was not run."
    people = about["people"]
    if about["demonstration"]:
        return (
            f"RecFace was trained here and now on {people['training_images']} faces of {about['identities']} people in "
            "the sample photographs, none of whom is attacked: a demonstration, not the attacker of the paper."
        )
    last = about["curve"][-1]
    return (
        f"RecFace was trained on {people['training_images']} photographs of people of LFW who are in no pair of its "
        f"protocol, for {last['step']} steps ({about['seconds'] / 60:.0f} minutes); on {people['validation_images']} "
        f"photographs of other such people its mean SSIM is {last['val_ssim']:.3f}, its mean PSNR "
        f"{last['val_psnr']:.1f} dB."
    )


@dataclass(frozen=True)
class Strip:
    """Fig. 6 for one sample photograph that may be shown.

    Attributes:
        title: who it shows.
        original: the photograph.
        image: the PMT image, and its SSIM to the photograph.
        made: row to attack to reconstruction and SSIM.
        recface: see :func:`training_text`.
    """

    title: str
    original: UInt8Image
    image: tuple[UInt8Image, float]
    made: Mapping[str, Mapping[str, tuple[UInt8Image, float]]]
    recface: str


def strips(bench: Reconstruction, count: int) -> list[Strip]:
    """The first portraits of different people that may be shown, protected and attacked here and now.

    The black box is the RecFace trained on LFW where there is one, else one trained on sample photographs of others.
    """
    shown: dict[tuple[str, ...], datasets.SamplePhoto] = {}
    for photo in datasets.sample_photos():
        if photo.display:
            shown.setdefault(photo.persons, photo)
    photos = list(shown.values())[:count]
    crops = [photo.crops()[0].image for photo in photos]
    originals = to_tensor(crops)
    try:
        recface, about = bench.recface()
    except AssetError:
        people = {person for photo in photos for person in photo.persons}
        recface, about = bench.recface(sorted(people | set(bench.settings.attacked)))
    uploads = bench.uploads(originals, "Sample photographs", shown=True)
    made: list[dict[str, dict[str, tuple[UInt8Image, float]]]] = [{} for _ in photos]
    for row in (UNPROTECTED, NOISE, PMT):
        for attack in ATTACKS:
            images = bench.reconstruct(attack, uploads.features[row], f"Sample photographs, {attack}, {row}", recface)
            for entry, found in zip(made, _with_ssim(images, originals), strict=True):
                entry.setdefault(row, {})[attack] = found
    seen = _with_ssim(quantise(uploads.images[PMT]), originals)
    text = training_text(about)
    return [
        Strip(photo.title, crop, image, entry, text)
        for photo, crop, image, entry in zip(photos, crops, seen, made, strict=True)
    ]


def _with_ssim(images: Tensor, originals: Tensor) -> list[tuple[UInt8Image, float]]:
    return list(zip(to_uint8(images), (float(value) for value in metrics.ssim(images, originals)), strict=True))
