"""A Sphinx extension of the book: what the theme and its helpers leave wrong in a page is put right.

Pages are read from files and without a network, so no page may mention a script that would have to be fetched, and no
page offers to run cells: there is no public address at which they could run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sphinx.application import Sphinx

_THEBE = re.compile(
    r'\s*<script type="text/x-thebe-config">.*?</script>(?:\s*<script>kernelName = [^<]*</script>)?', re.DOTALL
)
_CITATIONS = '<div role="list" class="citation-list">'


def kept(scripts: Sequence[Any]) -> list[Any]:
    """The scripts, or the style sheets, of a page that it needs, each once.

    Left out is Thebe, which is fetched from the network, and an inline script that stands there a second time, whose
    ``const`` the browser refuses.

    Args:
        scripts: names of files, or Sphinx's objects with a ``filename`` and ``attributes``.
    """
    found: list[Any] = []
    said: set[str] = set()
    for script in scripts:
        body = str(getattr(script, "attributes", {}).get("body") or "")
        name = str(getattr(script, "filename", script) or "")
        if "thebe" in name.lower() or "thebe" in body.lower() or (body and body in said):
            continue
        said.add(body)
        found.append(script)
    return found


def mended(body: str) -> str:
    """The text of a page without a fault of its markup and without the settings of Thebe.

    The items of a list of citations have the role of a bibliography's entry, so that the role of a list around them
    tells a screen reader of items that are not there.
    """
    return _THEBE.sub("", body).replace(_CITATIONS, '<div class="citation-list">')


def _mend(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    for files in ("script_files", "css_files"):
        context[files] = kept(context.get(files, ()))
    # The reader's own choice stands before it; without a mode the theme's script complains.
    context["default_mode"] = context.get("default_mode") or "auto"
    if "body" in context:
        context["body"] = mended(context["body"])


def setup(app: Sphinx) -> Mapping[str, Any]:
    """Entry point of Sphinx."""
    # After all others, whose scripts it looks at.
    app.connect("html-page-context", _mend, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
