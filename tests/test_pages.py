"""What the extension of the book takes out of a page and mends in it."""

from __future__ import annotations

from sphinx.builders.html._assets import _JavaScript

from pmtlib.pages import kept, mended


def test_scripts_of_thebe_and_second_copies_are_left_out() -> None:
    inline = _JavaScript("", body="const a = 1;")
    again = _JavaScript("", body="const a = 1;")
    thebe = _JavaScript("", body='const THEBE_JS_URL = "https://example.org/thebe.js"')
    scripts = ["_static/doctools.js", inline, _JavaScript("_static/sphinx-thebe.js"), thebe, again, "searchindex.js"]
    assert kept(scripts) == ["_static/doctools.js", inline, "searchindex.js"]


def test_two_files_are_two_files() -> None:
    files = [_JavaScript("_static/a.js"), _JavaScript("_static/b.js")]
    assert kept(files) == files


def test_a_list_of_citations_is_no_list_to_a_screen_reader() -> None:
    body = '<p>before</p><div role="list" class="citation-list"><div role="doc-biblioentry">x</div></div>'
    assert mended(body) == body.replace(' role="list"', "")
    assert mended("<ul role='list'></ul>") == "<ul role='list'></ul>"


def test_the_settings_of_thebe_are_taken_out_and_nothing_else() -> None:
    settings = (
        '<script type="text/x-thebe-config">\n{ repo: "x/y" }\n</script>\n<script>kernelName = \'python3\'</script>'
    )
    assert mended(f"<p>a</p>\n{settings}<p>b</p><script>let c;</script>") == "<p>a</p><p>b</p><script>let c;</script>"
