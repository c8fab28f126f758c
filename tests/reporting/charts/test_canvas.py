"""Charts as a page takes them: text that is text, the page's colours, no identifiers that clash."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.reporting.charts.canvas import COLOURS, Canvas
from lrsegformer.reporting.charts.tradeoff import pareto_front, tradeoff_charts
from lrsegformer.reporting.charts.training import bound_charts, training_charts
from lrsegformer.reporting.groups import arenas_of
from lrsegformer.reporting.reading.collection import collect


@pytest.fixture(scope="module")
def arena(world):
    (arena,) = arenas_of(collect([world / "runs", world / "reports"]))
    return arena


def test_text_stays_text_and_names_are_escaped():
    canvas = Canvas("<b>loss</b> & more", "step <i>", "loss $x$")
    canvas.line([(0, 1), (1, 2)], "tone-1", "A", 0, ["<script>", "b"])
    svg = canvas.svg()
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"step <i>", "loss $x$", "A"} <= set(texts)
    assert root.get("aria-label") == "<b>loss</b> & more" and "<script>" not in svg
    assert root.find(".//{http://www.w3.org/2000/svg}title").text == "<script>"


def test_colours_are_the_pages():
    canvas = Canvas("bounds", "step", "bound")
    canvas.line([(0, 1), (1, 2)], "proven", "A", 0, band=[(0, 1, 2), (1, 2, 3)])
    svg = canvas.svg()
    assert "var(--proven)" in svg and not any(stand_in in svg for stand_in in COLOURS.values())
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) == set()
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_the_same_numbers_give_the_same_bytes():
    def draw():
        canvas = Canvas("loss", "step", "loss")
        canvas.disc(1, 2, "tone-2", "B", "here")
        return canvas.svg()

    assert draw() == draw()


def test_letters_at_the_ends_do_not_lie_on_each_other():
    canvas = Canvas("many", "step", "loss")
    for number in range(9):
        canvas.line([(0, 1), (1, 2 + number / 1000)], "tone-1", str(number), number)
    root = ElementTree.fromstring(canvas.svg())
    texts = [element for element in root.iter("{http://www.w3.org/2000/svg}text")]
    heights = sorted(float(element.get("y")) for element in texts if "700" in element.get("style", ""))
    assert len(heights) == 9
    assert all(below - above > 9 for above, below in zip(heights, heights[1:], strict=False))


def test_bounds_are_drawn_in_the_colour_of_proofs_alone(arena):
    charts = bound_charts(arena)
    assert [chart.title for chart in charts] == ["Bound of the head, guaranteed", "B · orthogonal: layers"]
    for chart in charts:
        assert chart.proven and "var(--proven)" in chart.svg and "var(--tone" not in chart.svg
    for chart in training_charts(arena):
        assert "var(--proven)" not in chart.svg


def test_measured_and_proven_are_never_in_one_trade_off(arena):
    charts = tradeoff_charts(arena)
    assert list(charts) == ["Under attack, measured", "Under corruption, measured", "Certified, proven"]
    for kind, found in charts.items():
        for chart in found:
            assert chart.proven is ("proven" in kind)
            assert ("var(--tone" in chart.svg) is not chart.proven
    assert [chart.title for chart in charts["Certified, proven"]] == ["l2 36/255", "l2 72/255"]
    assert charts["Certified, proven"][0].letters == ["B"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_the_front_is_what_nothing_beats(points):
    def beaten(one):
        return any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in points)

    assert pareto_front(points) == sorted({one for one in points if not beaten(one)})
