"""Attackers who know the filter.

All of them hold what was uploaded, know the transform and its public shallow model, and never see a photograph of the
victim. They differ in what else they hold and in what they want:

===============  =============================================  ======================================================
module           holds besides                                  wants
===============  =============================================  ======================================================
``purify``       nothing; other people's photographs to tune    an image that anybody, or any network, recognises
``average``      several uploads of one photograph              the same, or a feature without the filter's noise
``deobfuscate``  other people's photographs, and the filter     the photograph, from the image or from the feature
``prior``        time; other people's photographs for a mean    the photograph, from the feature
``link``         other uploads or photographs of people         to know whether two uploads show one person
``stitch``       photographs of others with names; a network    a recogniser of its own on the shared shallow model
``translate``    other people's photographs, networks, gallery  to recognise uploads by embeddings that it has already
===============  =============================================  ======================================================

Whatever has a strength, a filter or a number of steps is chosen on people who are not attacked.
"""

from __future__ import annotations

from pmtlib.attacks.adaptive.average import Copies, average_features, average_images, protected_copies
from pmtlib.attacks.adaptive.deobfuscate import (
    Deobfuscator,
    DeobfuscatorConfig,
    IdentityConfig,
    Pairs,
    load_deobfuscator,
    load_protected_recface,
    make_pairs,
    train_deobfuscator,
    train_protected_recface,
)
from pmtlib.attacks.adaptive.link import (
    LinkScores,
    Unlinkability,
    identify,
    link_scores,
    link_scores_within,
    local_linkability,
    unlinkability,
)
from pmtlib.attacks.adaptive.prior import (
    Best,
    NetworkInverted,
    PriorConfig,
    best_of,
    invert_with_network,
    mean_image,
)
from pmtlib.attacks.adaptive.purify import PURIFIERS, Purification, Purifier, Tuned, candidates, purify, tune
from pmtlib.attacks.adaptive.stitch import (
    Completion,
    Head,
    HeadConfig,
    StitchConfig,
    StitchedNetwork,
    stitch_network,
    train_head,
)
from pmtlib.attacks.adaptive.translate import Translator, TranslatorConfig, Uploads, train_translator

__all__ = [
    "PURIFIERS",
    "Best",
    "Completion",
    "Copies",
    "Deobfuscator",
    "DeobfuscatorConfig",
    "Head",
    "HeadConfig",
    "IdentityConfig",
    "LinkScores",
    "NetworkInverted",
    "Pairs",
    "PriorConfig",
    "Purification",
    "Purifier",
    "StitchConfig",
    "StitchedNetwork",
    "Translator",
    "TranslatorConfig",
    "Tuned",
    "Unlinkability",
    "Uploads",
    "average_features",
    "average_images",
    "best_of",
    "candidates",
    "identify",
    "invert_with_network",
    "link_scores",
    "link_scores_within",
    "load_deobfuscator",
    "load_protected_recface",
    "local_linkability",
    "make_pairs",
    "mean_image",
    "protected_copies",
    "purify",
    "stitch_network",
    "train_deobfuscator",
    "train_head",
    "train_protected_recface",
    "train_translator",
    "tune",
    "unlinkability",
]
