"""Names that data may bring along, each of which does something where it is not taken for text; and the judges."""

from html.parser import HTMLParser

NAMES = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "end of a cell": "</td></tr></table><td onclick=alert(1)>",
    "attribute": '" onmouseover="alert(1)" \'',
    "comment": "<!-- --> <!-- lrsegformer: end of evaluation -->",
    "entity": "&lt;b&gt; &#60;",
    "bar": "a|b||",
    "backticks": "``` `x` ~~~",
    "link": "[x](javascript:alert(1))",
    "picture": "![x](http://example.com/x.png)",
    "address": "<javascript:alert(1)>",
    "emphasis": "**a** _b_ __c__",
    "heading": "# a",
    "rule": "---",
    "underlined": "===",
    "quotation": "> a",
    "list": "- a",
    "numbers": "1. a",
    "front matter": "---\nlicense: mit\n---\n# a",
    "lines": "a\n\n```\nb\r\nc",
    "separators": "a\u2028b\u2029c\x85d\x0be",
    "formula": "=cmd|' /C calc'!A0",
    "sum": "+1+cmd",
    "difference": "-2+cmd",
    "mention": "@SUM(1)",
    "tab": "\t=1",
    "mathematics": "$\\frac{$",
    "a dollar": "$x^$ \\",
    "template": "{{ 7 * 7 }} {% raw %} {0} {name} %s %(a)s",
    "underscores": "_hidden_",
    "right to left": "\u202egnp.exe\u2066",
    "terminal": "a\x1b[31m\x1b]0;t\x07\x9b2J\x08",
    "nothing": "a\x00b\x7f",
    "half a pair": "\udcff\ud800",
    "long": "x" * 3000,
    "persian": "می\u200cخواهم",
}


class Page(HTMLParser):
    """Tags with their attributes, and the text of each cell and of the whole."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        self.text += data
        if self.cells:
            self.cells[-1] += data

    def check(self, own=()) -> "Page":
        """Nothing in it came from a name: no code, no link and no picture, but those of our `own` addresses."""
        for tag, attributes in self.tags:
            assert tag not in ("script", "iframe", "object", "form"), tag
            assert not [name for name in attributes if name.startswith("on")], attributes
            for name in ("href", "src"):
                assert attributes.get(name, "#").startswith(("#", "data:", *own)), attributes
        return self


def rendered(markdown: str, own=()) -> Page:
    """Markdown as a browser shows it, judged."""
    from markdown_it import MarkdownIt

    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)).check(own)
