"""Names from data in Markdown: read as they are written, in a table of the right shape."""

import re

import pytest

from lrsegformer.hub.markdown import plain, table


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("road|lane", "road|lane"),
        ("two\nlines\r\nand\u2028more", "two lines and more"),
        ("*sky* 2 * 3", r"\*sky\* 2 * 3"),
        ("stable_softplus", "stable_softplus"),
        ("_private_ __init__", r"\_private\_ \_\_init\_\_"),
        ("<unk>", r"\<unk>"),
        ("[a](b)", r"\[a\](b)"),
        ("a`b", r"a\`b"),
        (r"a\|b", r"a\\|b"),
        ("R&amp;D & Q", r"R\&amp;D & Q"),
        ("$1 and $2 ~~x~~", r"\$1 and \$2 \~\~x\~\~"),
        (7, "7"),
    ],
)
def test_names_are_plain_text(name, written):
    assert plain(name) == written


@pytest.mark.parametrize("name", ["a|b", "a\nb", "a\r\nb", "a\u2028b", "|", r"a\|b", "\\", "|\n|"])
def test_a_name_stays_in_its_cell(name):
    lines = table(("class", "IoU"), [(plain(name), "1"), ("sky", "2")]).splitlines()
    assert len(lines) == 4
    # GitHub's tables end a cell at a bar without a backslash that escapes it.
    assert all(len(re.sub(r"\\.", "", line).split("|")) == 4 for line in lines)
