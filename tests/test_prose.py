"""Numbers in the book's prose come from glue: what is typed is the paper's, with its place, or on the list below."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parent.parent / "book"
PAGES = sorted(path for path in BOOK.glob("*.md") if path.name not in ("api.md", "changelog.md", "bibliography.md"))

# A number that is no result: (page, words around it) -> why it may be typed.
ALLOWED = {
    ("deviations.md", "below 0.15 for each network"): "the rule by which K was chosen",
    ("deviations.md", "One pair is 0.96 points"): "100 / 104",
    ("method.md", "acc = 0, not 50%"): "what the formula gives where nothing is recognised, and chance",
    ("settings.md", "one pair is 0.96 points"): "100 / 104",
    ("reproduce.md", "no number moved by more than 0.005"): "pmtlib.reproduction.TOLERANCE",
}

# Percentages, and shares or likenesses with two decimals or more. A glued number ends in a backtick.
TYPED = re.compile(r"(?<![\w.:`])\d+(?:\.\d+)?(?:\s?%|\s+per ?cent\b)|(?<![\w.:`])0\.\d{2,}\b")
OF_THE_PAPER = re.compile(r"\b(?:Tables?|Figs?\.|Sections?)\s*\d")


def sentences(text: str) -> Iterator[str]:
    """Sentences of a page; code, roles and directives' options are left out, list items stand alone."""
    text = re.sub(r"^```(?!\{figure\}|\{note\}|\{admonition\}).*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\{[\w:.]+\}`[^`]*`", "`glued`", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|]|\d+\.) )", text):
        yield from re.split(r"(?<=[.;:!?])\s+(?=[A-Z*`\[(])", " ".join(block.split()))


def typed(name: str, text: str) -> list[str]:
    """Numbers of a page that look like results and are neither glued nor accounted for."""
    found = []
    for sentence in sentences(text):
        if OF_THE_PAPER.search(sentence) and re.search(r"\bpaper", sentence):
            continue
        for page, words in ALLOWED:
            if page == name:
                sentence = sentence.replace(words, "")
        # The level of an interval is a convention.
        rest = re.sub(r"\b95\s?% (?=\w*\s?(?:interval|bootstrap|Wilson|confidence))", "", sentence)
        found += [f"{name}: {match[0]!r} in {sentence!r}" for match in TYPED.finditer(rest)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_no_result_is_typed(page: Path) -> None:
    assert typed(page.name, page.read_text("utf-8")) == []


def test_nothing_is_allowed_that_is_not_there() -> None:
    gone = [key for key in ALLOWED if key[1] not in " ".join((BOOK / key[0]).read_text("utf-8").split())]
    assert gone == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("They recognise 62.2% of it.", ["62.2%"]),
        ("They have 62 % (n = 104), with a 95% interval.", ["62 %"]),
        ("- A mean SSIM of 0.62, and 5 percent.", ["0.62", "5 percent"]),
        ("They have {glue:text}`results/abuse.ipynb::abuse_mean:.1f`% at 0.2.", []),
        ("The paper has 0.98 to 0.99 (Table 6).", []),
        ("The paper has 0.98 to 0.99 (Table 6). We have 0.96.", ["0.96"]),
        ("See Table 7: we have 62%.", ["62%"]),
        ("```console\n$ x --share 50%\n```", []),
        ("```{figure} a.png\n:alt: x\n\nIt has 70%.\n```", ["70%"]),
    ],
)
def test_what_counts_as_typed(text: str, numbers: list[str]) -> None:
    assert [re.search(r": '(.*?)' in", line)[1] for line in typed("page.md", text)] == numbers  # type: ignore[index]
