import base64
import re
from html.parser import HTMLParser

from learned_opt.analysis.reporting.html import Picture, Section, page, validation_picture

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Every element is closed in order; nothing refers to anything outside of the page."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert tag not in ("script", "link", "iframe")
        assert not given.get("href")
        if tag == "img":
            self.images.append(given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check(html):
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    return checker


def test_the_page_holds_tables_and_figures_and_needs_nothing_else(results):
    picture = validation_picture([0, 100], {"all": [0.1, 0.2], "bandit": [0.1, 0.3]})
    html = page("A <rule>", [Section("new", results(5)), Section("run", pictures=(picture,))])
    found = check(html)
    assert "A <rule>" in found.text
    assert html.count("<table>") == 1
    # Two figures of curves (4 panels and 1), heat-map, profiles, times; the validation.
    assert len(found.images) == 6
    for image in found.images:
        assert image["alt"]
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not re.search(r"https?://", html)
    assert 'name="viewport"' in html


def test_names_are_escaped():
    html = page("x", [Section("a & b", pictures=(Picture(b"", '"quoted" <b>'),), notes=("1 < 2",))])
    found = check(html)
    assert "a & b" in found.text
    assert "1 < 2" in found.text
    assert found.images[0]["alt"] == '"quoted" <b>'
