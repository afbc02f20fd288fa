"""What ``pmt audit`` measures: the attacks of :mod:`pmtlib.attacks.adaptive` on one's own protected photographs.

Every filter at every strength, attribute networks and, if asked for, two networks that learn from other people: one to
restore a face from an upload, one to translate what the upload matches to embeddings of other networks. The
photographs are at hand, so the best attack is picked by looking at the result: an attacker who tunes on other people
does a little worse, and one with more data and time does better.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from pmtlib import attribute_zoo, cache, devices, faces, metrics, variants, zoo
from pmtlib.attacks.adaptive.deobfuscate import DeobfuscatorConfig, Pairs, make_pairs, train_deobfuscator
from pmtlib.attacks.adaptive.purify import PURIFIERS, Purification, candidates
from pmtlib.attacks.adaptive.translate import (
    TranslatorConfig,
    Uploads,
    enough_held_out,
    train_translator,
    translation_thresholds,
    translations,
    translator_folder,
)
from pmtlib.attacks.attributes import estimate
from pmtlib.attacks.reconstruction import training_people
from pmtlib.datasets import People
from pmtlib.errors import ConfigError, PhotoError, PMTError, ResultError
from pmtlib.images import UInt8Image, batches, quantise, to_tensor
from pmtlib.intake import PICTURES, collect, shown
from pmtlib.inventory import is_present
from pmtlib.metrics import Floats
from pmtlib.networks.base import FaceNetwork
from pmtlib.pipeline import checksum
from pmtlib.progress import progress_bar
from pmtlib.report import LINES, Row, everything
from pmtlib.shallow import ShallowModel
from pmtlib.transform import PMTConfig

AS_IT_IS, LEARNED = "as it is", "learned"
NOT_TRIED = (
    "Not tried: networks that learn to restore the face, or to translate what uploads match (--learn SET). They do "
    "better than filters, so that a low figure here is no protection against them."
)
NEVER_TRIED = (
    "Not part of this command: networks trained to restore whose face it is, averages of several uploads of one "
    "photograph, inversion of the features with priors, several networks added up, search among many people. The "
    "book's audit has them."
)
_RECOGNISERS = "the networks whose weights are here, or --networks"


@dataclass(frozen=True)
class Case:
    """A face and what was uploaded in its place.

    Attributes:
        name: of the upload, as the report has it.
        original: (112, 112, 3), RGB, 0..255.
        upload: the same shape.
        row: the report's line on it; None for a pair that is given by hand.
    """

    name: str
    original: UInt8Image
    upload: UInt8Image
    row: Row | None = None


@dataclass(frozen=True)
class Attack:
    """One attack on all faces.

    Attributes:
        name: of the filter; ``as it is`` for none, ``learned`` for the network.
        strength: of the filter; None where there is none.
        unit: of that strength.
        accepted: for each network that is not authorised, the share of faces that it recognises as their photograph.
        others: their mean.
        cosine: mean cosine of the embeddings of result and photograph, over those networks and all faces.
        ssim: mean similarity to the photograph.
        ssim_highest: of the face that is hidden worst.
        worst: which face that is.
    """

    name: str
    strength: float | None
    unit: str
    accepted: Mapping[str, float]
    others: float
    cosine: float
    ssim: float
    ssim_highest: float
    worst: str

    @property
    def strength_key(self) -> tuple[float, float]:
        """What an attacker wants: to be recognised by more networks; where as many do, with a higher cosine."""
        return self.others, self.cosine


@dataclass(frozen=True)
class Audit:
    """What came of the attacks.

    Attributes:
        faces: how many faces were attacked.
        authorised: networks that the uploads were made for.
        service: for each of them, the share of uploads that it recognises.
        attacks: the upload as it is, then each filter at the strength that serves the attacker best, then what was
            learned; the strongest by :attr:`Attack.strength_key` is :attr:`best`.
        attributes: network and attribute to the share of faces of which the same is read from the photograph and from
            the upload as it is, and from the best attack.
        translated: for each network that is not authorised, the share of faces that it recognises by the translation of
            the upload's features; empty where nothing was learned, or from too few people for a threshold.
        translation_thresholds: of each of them, for translations: a FAR of 1e-2 among people held out of the training.
        thresholds: of each network: a FAR of 1e-2 on LFW, or on what an added network was measured on.
        note: what was not done, and why, which networks are not here, and which thresholds are not of LFW.
        failed: names of what could not be audited, and why.
    """

    faces: int
    authorised: tuple[str, ...]
    service: Mapping[str, float]
    attacks: tuple[Attack, ...]
    attributes: Mapping[str, tuple[float, float]]
    translated: Mapping[str, float]
    translation_thresholds: Mapping[str, float]
    thresholds: Mapping[str, float]
    note: str
    failed: Mapping[str, str]

    @property
    def best(self) -> Attack:
        """The strongest attack."""
        return max(self.attacks, key=lambda attack: attack.strength_key)

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        best = self.best
        with_what = "as they are" if best.name == AS_IT_IS else f"after {described(best)}"
        most = max(best.accepted, key=lambda name: best.accepted[name])
        return (
            f"Networks that are not authorised recognise, in the mean, {best.others:.0%} of {self.faces} "
            f"{'face' if self.faces == 1 else 'faces'} {with_what} ({most} {best.accepted[most]:.0%}; as they are, in "
            f"the mean, {self.attacks[0].others:.0%}); the likeness is SSIM {best.ssim:.2f}, for the worst-hidden "
            f"face {best.ssim_highest:.2f}." + self._translated_words
        )

    @property
    def _translated_words(self) -> str:
        if not self.translated:
            return ""
        share = float(np.mean(list(self.translated.values())))
        return f" By a translation of what the uploads match, without restoring a face, they recognise {share:.0%}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "best": self.best.name, "verdict": self.verdict}


def described(attack: Attack) -> str:
    """An attack in words, with its strength."""
    if attack.name == LEARNED:
        return "a network that learned from other people's uploads"
    return attack.name if attack.strength is None else f"{attack.name} {attack.strength:g} ({attack.unit})"


def gather(originals: Path, protected: Path, *, aligned: bool = False) -> tuple[list[Case], dict[str, str]]:
    """The faces to audit, and the names of those that cannot be, with the reason.

    Args:
        originals: a photograph, or a folder of them.
        protected: what ``pmt protect`` made of it: its PNG, or its output folder with the report.
        aligned: the photographs are aligned 112x112 crops.

    A PNG that the report in its folder, or in one above, tells of is a case of that report.

    Raises:
        PhotoError: nothing is there, one is a file and the other a folder, or the report beside a PNG says that it was
            made of another photograph.
        ResultError: the folder has no report.
    """
    if protected.is_dir() != originals.is_dir():
        raise PhotoError(
            f"{shown(originals)} and {shown(protected)} must both be files or both be folders: a photograph and its "
            "PNG, or the photographs and the folder of pmt protect"
        )
    if not protected.is_dir():
        row = _told_of(protected)
        if row is not None and row.input_sha256 != checksum(originals):
            raise PhotoError(
                f"{shown(protected)} was made of {shown(row.input)}, as the report beside it says, and not of "
                f"{shown(originals)}, or that has changed since; give the photograph that it was made of"
            )
        original = _face(originals, row, aligned or (row is not None and row.box is None))
        return [Case(protected.name, original, _upload(protected), row)], {}
    by_content: dict[str, Path] = {}
    for entry in collect([originals], originals / ".none").entries:
        # One that cannot be read was not protected either, or its upload is reported below.
        if (digest := checksum(entry.path)) is not None:
            by_content[digest] = entry.path
    cases: list[Case] = []
    failed: dict[str, str] = {}
    for row in _rows(protected):
        for output in row.outputs:
            try:
                if row.mode != "image":
                    raise PhotoError("features, not an image; there is nothing to look at")
                if row.input_sha256 not in by_content:
                    raise PhotoError(
                        f"its photograph {row.input} is not in {shown(originals)}, or not as it was when this was made"
                    )
                original = _face(by_content[row.input_sha256], row, aligned or row.box is None)
                cases.append(Case(output, original, _upload(protected / output), row))
            except (PMTError, OSError) as error:
                failed[output] = " ".join(str(error).split())
    return cases, failed


def _told_of(upload: Path) -> Row | None:
    """What a report beside an upload, or in a folder above it, says of it, if there is one."""
    upload = upload.absolute()
    for folder in upload.parents:
        with contextlib.suppress(ResultError):
            name = upload.relative_to(folder).as_posix()
            if (row := next((row for row in _rows(folder) if name in row.outputs), None)) is not None:
                return row
    return None


def _rows(folder: Path) -> list[Row]:
    try:
        rows, damaged = everything(folder)
    except OSError as error:
        raise ResultError(f"{shown(folder / LINES)} cannot be read ({error.strerror}); check its rights") from error
    if not rows and not damaged:
        raise ResultError(f"{shown(folder)} holds no {LINES}; give the output folder of pmt protect")
    return [row for row in rows if row.status == "done"]


def _face(path: Path, row: Row | None, aligned: bool) -> UInt8Image:
    if aligned:
        return faces.load_aligned(path)
    picture = faces.read_photo(path)
    if row is None and picture.shape[:2] == (faces.SIZE, faces.SIZE):
        return picture
    found = faces.Detector(min_size=1)(picture)
    if not found:
        raise PhotoError(f"no face was found in {shown(path)}; use an upright photograph in which it is visible")
    if row is None or row.box is None:
        return faces.align(picture, found[0].landmarks)
    box = np.array(row.box)
    nearest = min(found, key=lambda face: float(np.abs(np.array(face.box) - box).sum()))
    return faces.align(picture, nearest.landmarks)


def _upload(path: Path) -> UInt8Image:
    if path.suffix.lower() not in PICTURES:
        raise PhotoError(f"{shown(path)} is no image; pmt audit looks at what pmt protect saved as PNG")
    return faces.load_aligned(path)


def run(
    cases: Sequence[Case],
    *,
    authorised: Sequence[str] = (),
    networks: Sequence[str] | None = None,
    learn: str | None = None,
    training: DeobfuscatorConfig | None = None,
    translation: TranslatorConfig | None = None,
    steps: int | None = None,
    device: str = "auto",
    failed: Mapping[str, str] | None = None,
    show: bool = False,
) -> Audit:
    """Attack uploads.

    Args:
        cases: of :func:`gather`.
        authorised: networks that may recognise the uploads; those of the report by default.
        networks: that attack; by default all whose weights are here, but the authorised ones.
        learn: a data set, folder, or ``samples``, on whose people's uploads a de-obfuscator is trained, and on whose
            photographs a translator (:func:`pmtlib.attacks.reconstruction.training_people`); None leaves both out.
        training: of that de-obfuscator.
        translation: of that translator; by default a fifth of the people are held out for its thresholds, 100 at most.
            It translates features of the first network of the report, and is left out where fewer people could be held
            out than a threshold needs.
        steps: updates of each of the two, in place of their own number.
        device: where to compute.
        failed: passed on to the result.
        show: show progress.

    Raises:
        PhotoError: there is no face.
        ConfigError: no network is left to attack, or uploads of several kinds are to be learned from.
        NetworkError: a network is unknown.
        DatasetError: there are no people to learn from.
    """
    if not cases:
        raise PhotoError(
            "no protected face to audit" + "".join(f"; {name}: {why}" for name, why in (failed or {}).items())
        )
    place = devices.resolve(device)
    made_for = tuple(authorised) or tuple(dict.fromkeys(n.network for c in cases if c.row for n in c.row.networks))
    for name in (*made_for, *(networks or ())):
        zoo.card(name)
    attackers = [name for name in (networks or zoo.names()) if name not in made_for and (networks or is_present(name))]
    thresholds = {name: value for name in (*attackers, *made_for) if (value := _threshold(name)) is not None}
    attackers = [name for name in attackers if name in thresholds]
    if not attackers:
        raise ConfigError(f"no network to attack with that has a threshold; fetch or name one: {_RECOGNISERS}")
    # Before anything is computed: what cannot be learned from ends here.
    learned = None if learn is None else (_kind(cases), training_people(learn))
    originals = to_tensor([case.original for case in cases], place)
    uploads = to_tensor([case.upload for case in cases], place)
    loaded = {name: zoo.load(name, place) for name in thresholds}
    known = {name: _embed(network, originals) for name, network in loaded.items()}
    names = [case.name for case in cases]

    def judged(name: str, strength: float | None, unit: str, images: Tensor) -> Attack:
        cosines = {one: metrics.cosine(_embed(loaded[one], images), known[one]) for one in attackers}
        accepted = {one: float((cosines[one] > thresholds[one]).mean()) for one in attackers}
        ssim = metrics.ssim(images, originals)
        return Attack(
            name, strength, unit, accepted, float(np.mean(list(accepted.values()))),
            float(np.mean(list(cosines.values()))), float(ssim.mean()), float(ssim.max()), names[int(ssim.argmax())],
        )  # fmt: skip

    best: dict[str, tuple[Attack, Tensor]] = {}
    tried = candidates()
    with progress_bar("filters", len(tried), show=show) as advance:
        for one in tried:
            images = one(uploads)
            attack = judged(_name(one), one.strength or None, PURIFIERS[one.name].unit if one.strength else "", images)
            if attack.name not in best or attack.strength_key > best[attack.name][0].strength_key:
                best[attack.name] = (attack, images)
            advance(1)
    translated: dict[str, float] = {}
    limits: dict[str, float] = {}
    note = "" if learn is not None else NOT_TRIED
    if learned is not None:
        kind, people = learned
        restoring = training or DeobfuscatorConfig()
        translating = translation or TranslatorConfig(validation_people=min(100, len(people.names) // 5))
        if steps is not None:
            restoring = restoring.model_copy(update={"steps": steps})
            translating = translating.model_copy(update={"steps": steps})
        pairs = _to_learn_from(kind, people, place, show=show)
        images = _learned(kind, pairs, uploads, people, restoring, place, show=show)
        best[LEARNED] = (judged(LEARNED, None, "", images), images)
        teachers = {name: loaded[name] for name in attackers}
        if enough_held_out(people, translating):
            cosines, limits = _translated(kind, pairs, uploads, people, teachers, known, translating, place, show=show)
            translated = {name: float((cosines[name] > limits[name]).mean()) for name in teachers}
        else:
            count = len(people.names)
            note = f"Nothing was translated: {people.name} shows {count} people, too few for a threshold; name more."
    strongest = max(best.values(), key=lambda pair: pair[0].strength_key)[1]
    return Audit(
        faces=len(cases),
        authorised=made_for,
        service={
            name: float((metrics.cosine(_embed(loaded[name], uploads), known[name]) > thresholds[name]).mean())
            for name in made_for
            if name in thresholds
        },
        attacks=tuple(attack for attack, _ in best.values()),
        attributes=_attributes(originals, uploads, strongest, place),
        translated=translated,
        translation_thresholds=limits,
        thresholds=thresholds,
        note=" ".join(
            part for part in (note, NEVER_TRIED, _absent(networks), zoo.threshold_caveats(thresholds)) if part
        ),
        failed=dict(failed or {}),
    )


def _absent(networks: Sequence[str] | None) -> str:
    """Which networks did not attack because nothing was fetched for them; recognisers that were named are fetched."""
    absent = [] if networks else [name for name in zoo.names() if not is_present(name)]
    absent += [name for name in attribute_zoo.names() if not attribute_zoo.is_present(name)]
    return f"Left out, since their weights are not here: {', '.join(absent)}." if absent else ""


def _name(one: Purification) -> str:
    if one.name != "none":
        return one.name
    return "contrast" if one.contrast else AS_IT_IS


def _threshold(name: str) -> float | None:
    entry = zoo.calibration(name)
    return None if entry is None else entry.threshold_far_1e2


def _embed(network: FaceNetwork, images: Tensor) -> Floats:
    with torch.inference_mode():
        parts = [network(images[chunk]).cpu().numpy() for chunk in batches(len(images), 32)]
    return np.concatenate(parts).astype(np.float64)


_Kind = tuple[PMTConfig, tuple[tuple[str, int | str], ...]]


def _kind(cases: Sequence[Case]) -> _Kind:
    """Configuration, and networks with their cuts, of uploads that were all made alike.

    Raises:
        ConfigError: they were not, or nothing says how they were made.
    """
    rows = [case.row for case in cases if case.row is not None]
    kinds = {(row.config, tuple((n.network, n.cut) for n in row.networks)) for row in rows}
    if len(kinds) != 1 or len(rows) != len(cases):
        raise ConfigError("to learn, all uploads must be of one folder of pmt protect, made with one configuration")
    if rows[0].settings is None:
        raise ConfigError(
            "the report does not say with which settings the uploads were made; make them again (pmt protect --force)"
        )
    model = variants.find(rows[0].variant).config
    try:
        return model.model_validate(rows[0].settings), kinds.pop()[1]
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"the report names a setting that cannot be ({where}); make the uploads again") from error


def _to_learn_from(kind: _Kind, people: People, place: torch.device, *, show: bool = False) -> Pairs:
    """Other people's uploads that are made as those under audit, with seeds that none of these has."""
    config, services = kind
    shared = [ShallowModel(zoo.load(name, place), cut, name=name) for name, cut in services]
    with progress_bar("uploads to learn from", len(people), show=show) as advance:
        return make_pairs(people, shared, [config], seeds=(1, 2, 3, 4), chunk=config.batch_size, progress=advance)


def _learned(
    kind: _Kind,
    pairs: Pairs,
    uploads: Tensor,
    people: People,
    training: DeobfuscatorConfig,
    place: torch.device,
    *,
    show: bool = False,
) -> Tensor:
    """What a de-obfuscator makes of the uploads that was trained on other people's, made in the same way."""
    config, services = kind
    asked = [services, config.model_dump(mode="json"), people.fingerprint, training.model_dump(mode="json")]
    key = hashlib.sha256(json.dumps([*asked, torch.__version__], sort_keys=True).encode()).hexdigest()[:24]
    with progress_bar("learning to restore", training.steps, show=show) as advance:
        model = train_deobfuscator(
            pairs.protected, pairs.originals, training, device=place, folder=cache.folder("deobfuscator") / key,
            progress=advance,
        ).to(place)  # fmt: skip
    with torch.no_grad():
        return quantise(torch.cat([model(uploads[chunk]) for chunk in batches(len(uploads), 16)]))


def _translated(
    kind: _Kind,
    pairs: Pairs,
    uploads: Tensor,
    people: People,
    teachers: Mapping[str, FaceNetwork],
    known: Mapping[str, Floats],
    config: TranslatorConfig,
    place: torch.device,
    *,
    show: bool = False,
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Cosines of the uploads' translations with the photographs' embeddings, and thresholds, for each network.

    The translator learns from other people's photographs and from their uploads.
    """
    name, cut = kind[1][0]
    shared = ShallowModel(zoo.load(name, place), cut, name=name)
    weights = {one: zoo.weights_checksum(one) for one in (*teachers, name)}
    examples = Uploads(pairs.protected, pairs.rows)
    folder = translator_folder(shared, people, config, weights) / examples.digest[:24]
    with progress_bar("learning to translate", config.steps, show=show) as advance:
        translator = train_translator(
            shared, people, teachers, config, uploads=examples, folder=folder, progress=advance
        ).to(place)
    said = translations(translator, uploads)
    cosines = {one: metrics.cosine(said[one], known[one]) for one in teachers}
    return cosines, translation_thresholds(translator, people, teachers, config, uploads=examples)


def _attributes(
    originals: Tensor, uploads: Tensor, attacked: Tensor, place: torch.device
) -> dict[str, tuple[float, float]]:
    """Agreement with the photograph of what is read from the uploads, and from the best attack."""
    present = [name for name in attribute_zoo.names() if attribute_zoo.is_present(name)]
    own, plain, best = (estimate(images, present, place) for images in (originals, uploads, attacked))
    found = {}
    for network, by_attribute in own.probabilities.items():
        for attribute in by_attribute:
            truth = own.named(network, attribute)
            shares = [
                float(np.mean([a == b for a, b in zip(one.named(network, attribute), truth, strict=True)]))
                for one in (plain, best)
            ]
            found[f"{network}, {attribute}"] = (shares[0], shares[1])
    return found
