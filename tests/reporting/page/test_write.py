"""The page as a file: structure, escaping, self-containment, and its Markdown twin."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lrsegformer.errors import InputError
from lrsegformer.reporting.page.write import write_page

VOID = {"meta", "link", "img", "input", "br"}


class Structure(HTMLParser):
    """Tags that are open, all identifiers and references, and the text of the headings."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def having(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def written(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report.html"
    return write_page([world / "runs", world / "reports"], output, "A <i>title</i>")


@pytest.fixture(scope="module")
def html(written):
    return written.html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def structure(html):
    return Structure(html)


def test_the_page_is_well_formed(structure):
    assert structure.wrong == [] and structure.open == []
    identifiers = structure.having("id")
    assert len(identifiers) == len(set(identifiers))
    for attribute in ("aria-labelledby", "aria-controls"):
        assert set(structure.having(attribute)) <= set(identifiers)
    links = {link[1:] for link in structure.having("href") if link.startswith("#")}
    assert links <= set(identifiers)


def test_it_fetches_nothing(structure, html):
    addresses = structure.having("src") + [link for link in structure.having("href") if not link.startswith("#")]
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", html)
    (policy,) = [attributes["content"] for _, attributes in structure.tags if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'")


def test_names_are_text_whatever_they_hold(structure, html):
    assert "<title>A &lt;i&gt;title&lt;/i&gt;</title>" in html
    assert len([tag for tag, _ in structure.tags if tag == "script"]) == 1
    assert not [tag for tag, _ in structure.tags if tag in ("b", "i")]
    assert "always “&lt;script&gt;alert(&#39;class&#39;)&lt;/script&gt;”" in html
    assert "baseline-&lt;b&gt;1" in html


def test_headings_and_landmarks(structure):
    tags = [tag for tag, _ in structure.tags]
    for landmark in ("header", "nav", "main", "h1"):
        assert tags.count(landmark) == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False))
    assert all(image.get("alt") for tag, image in structure.tags if tag == "img")
    regions = [attributes for tag, attributes in structure.tags if attributes.get("class") == "scroll"]
    assert regions and all(one["tabindex"] == "0" and one["aria-label"] for one in regions)


def test_pictures_flip_between_clean_attacked_and_certified(structure, html):
    kinds = [attributes["class"] for _, attributes in structure.tags if "view pictures" in attributes.get("class", "")]
    # Two images of a model of each group; only one group is certified.
    assert kinds.count("view pictures clean") == kinds.count("view pictures attacked") == 4
    assert kinds.count("view pictures certified") == 2
    assert html.count("no certificate of this model") == 2


def test_markdown_has_the_same_tables(written, html):
    text = written.markdown.read_text(encoding="utf-8")
    assert "| baseline | 2 | 62.00 ± 2.83 |" in text.replace("\\", "")
    assert text.count("| model |") == html.count('<th scope="col" class="model"')
    assert "1. runs/baseline-\\<b>1/all" in text
    assert "<script>" not in text.replace("\\<script>", "")


def test_what_is_missing_is_said(world, tmp_path):
    written = write_page([world / "runs"], tmp_path / "report.html", "Title")
    for text in (written.html.read_text(), written.markdown.read_text()):
        for missing in (
            "No certificates were found below runs",
            "No scores under attack",
            "No scores under corruption",
        ):
            assert missing in text
    assert "No pictures of attacks or certificates" in written.html.read_text()


@pytest.mark.parametrize("output", ["report", "report.pdf", "folder.html", "file/report.html"])
def test_an_output_that_cannot_be_written_is_one_line_and_leaves_nothing(world, tmp_path, output):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("kept")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError) as error:
        write_page([world / "runs"], tmp_path / output, "Title")
    assert str(tmp_path / Path(output).parts[0]) in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "kept"
