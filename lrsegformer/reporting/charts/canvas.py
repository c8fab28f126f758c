"""A small chart as SVG for a page: real text, colours by name, a tooltip on each point, no identifiers that clash."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from lrsegformer.evaluation.figures import new_figure
from lrsegformer.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In points, of which a page shows one as about a pixel: a chart that fits a phone keeps its letters readable, and a
# wide page sets several side by side.
WIDTH, HEIGHT = 344, 244
TONES = 8
# Stand-ins of the page's colours: matplotlib wants numbers, the page has variables that change with its scheme.
_NAMES = ("ink", "faint", "paper", "proven", "probable", *(f"tone-{tone}" for tone in range(1, TONES + 1)))
COLOURS = {name: f"#0{position:x}ab{position:x}d" for position, name in enumerate(_NAMES)}
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


@dataclass
class Chart:
    """
    Attributes:
        title (`str`): its heading.
        svg (`str`): the drawing.
        caption (`str`): what it shows and of what.
        letters (`list[str]`): of the groups in it.
        proven (`bool`): whether it shows guarantees, all in their colour.
    """

    title: str
    svg: str
    caption: str = ""
    letters: list[str] = field(default_factory=list)
    proven: bool = False


class Canvas:
    """
    One pair of axes in the style of the page.

    Args:
        label (`str`): what the chart shows, for those who cannot see it.
        xlabel, ylabel (`str`): names of the axes, with units.
    """

    def __init__(self, label: str, xlabel: str, ylabel: str):
        self.label = visible(label)
        self.figure: Figure = new_figure(WIDTH / 72, HEIGHT / 72)
        self.figure.patch.set_alpha(0)
        self.axes: Axes = self.figure.add_subplot()
        self._tooltips: dict[str, str] = {}
        self._series: dict[str, str] = {}
        self._starts_at_zero = False
        self._ends: list[tuple[float, float, str, str]] = []
        axes, ink, faint = self.axes, COLOURS["ink"], COLOURS["faint"]
        axes.patch.set_alpha(0)
        axes.set_xlabel(visible(xlabel), color=ink, fontsize=10.5, parse_math=False)
        axes.set_ylabel(visible(ylabel), color=ink, fontsize=10.5, parse_math=False)
        axes.tick_params(colors=ink, labelsize=10, length=3, width=0.6, color=faint)
        axes.grid(color=faint, linewidth=0.5, alpha=0.45)
        axes.set_axisbelow(True)
        axes.locator_params(nbins=5)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set(color=faint, linewidth=0.7)

    def start_at_zero(self) -> None:
        """Let the vertical axis begin at zero, for scores whose distance from nothing counts."""
        self._starts_at_zero = True

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str,
        letter: str,
        position: int,
        tooltips: Sequence[str] = (),
        band: Sequence[tuple[float, float, float]] = (),
    ) -> None:
        """
        A curve with its group's letter at its end; `band` is (x, lowest, highest), `position` chooses the dash.
        """
        xs, ys = zip(*points, strict=True)
        (drawn,) = self.axes.plot(xs, ys, color=COLOURS[colour], linewidth=1.5, linestyle=_DASHES[position % 4])
        self._mark(drawn, letter)
        if band:
            filled = self.axes.fill_between(*zip(*band, strict=True), color=COLOURS[colour], alpha=0.14, linewidth=0)
            self._mark(filled, letter)
        for (x, y), tooltip in zip(points, tooltips, strict=False):
            (dot,) = self.axes.plot([x], [y], "o", color=COLOURS[colour], markersize=3.6)
            self._mark(dot, letter, tooltip)
        self._ends.append((xs[-1], ys[-1], letter, colour))

    def disc(self, x: float, y: float, colour: str, letter: str, tooltip: str) -> None:
        """A disc with its group's letter in it."""
        (disc,) = self.axes.plot(
            [x], [y], "o", color=COLOURS[colour], markersize=13, markeredgecolor=COLOURS["paper"], markeredgewidth=0.8
        )
        self._mark(disc, letter, tooltip)
        text = self.axes.text(
            x, y, letter, color=COLOURS["paper"], fontsize=8.5, weight="bold", ha="center", va="center_baseline"
        )
        self._mark(text, letter)

    def dot(self, x: float, y: float, colour: str, letter: str, tooltip: str) -> None:
        """A small dot: one seed of a disc."""
        (dot,) = self.axes.plot([x], [y], "o", color=COLOURS[colour], markersize=3.4, alpha=0.75)
        self._mark(dot, letter, tooltip)

    def _mark(self, artist: Any, letter: str, tooltip: str = "") -> None:
        name = f"mark-{len(self._series)}"
        artist.set_gid(name)
        self._series[name] = letter
        if tooltip:
            self._tooltips[name] = tooltip

    def svg(self) -> str:
        """The drawing, as an element that stands in a page."""
        import matplotlib

        self._widen()
        self._letter_the_ends()
        file = io.StringIO()
        # Text stays text, and the same numbers give the same bytes.
        style = {"svg.fonttype": "none", "svg.hashsalt": self.label, "font.family": "sans-serif"}
        with matplotlib.rc_context(style):
            self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return self._for_a_page(file.getvalue())

    def _widen(self) -> None:
        """Show values that hardly differ as such, and none below zero where there is none."""
        if self._starts_at_zero:
            self.axes.set_ylim(0, 1.07 * max(self.axes.dataLim.y1, 1e-9))
        low, high = self.axes.get_ylim()
        top = max(abs(low), abs(high))
        if high - low < 0.02 * top:
            low, high = low - 0.05 * top, high + 0.05 * top
        lowest = self.axes.dataLim.y0
        self.axes.set_ylim(max(low, -0.03 * high) if lowest >= 0 and high > 0 else low, high)
        self.axes.ticklabel_format(useOffset=False)

    def _letter_the_ends(self) -> None:
        """Letters at the right ends of the curves, moved apart where ends meet."""
        if not self._ends:
            return
        self.figure.draw_without_rendering()
        to_pixels, gap = self.axes.transData, 12 * self.figure.dpi / 72
        ends = sorted((to_pixels.transform((x, y))[1], x, y, letter, colour) for x, y, letter, colour in self._ends)
        heights: list[float] = []
        for height, *_ in ends:
            heights.append(max(height, heights[-1] + gap) if heights else height)
        excess = heights[-1] - self.axes.bbox.y1
        if excess > 0:
            heights[-1] -= excess
            for index in range(len(heights) - 2, -1, -1):
                heights[index] = min(heights[index], heights[index + 1] - gap)
        right = self.axes.bbox.x1
        for height, (_, x, y, letter, colour) in zip(heights, ends, strict=True):
            text = self.axes.annotate(
                letter,
                (x, y),
                ((right - to_pixels.transform((x, y))[0]) * 72 / self.figure.dpi + 5, 0),
                textcoords="offset points",
                color=COLOURS[colour],
                fontsize=10,
                weight="bold",
                va="center",
                annotation_clip=False,
            )
            offset = (height - to_pixels.transform((x, y))[1]) * 72 / self.figure.dpi
            text.set_position((text.get_position()[0], offset))
            self._mark(text, letter)

    def _for_a_page(self, text: str) -> str:
        ElementTree.register_namespace("", _SVG)
        ElementTree.register_namespace("xlink", _LINK)
        root = ElementTree.fromstring(text)
        prefix = f"c{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        for element in list(root):
            # Its style sheet would reach the whole page; the page's own has the same rule for charts.
            if element.tag == f"{{{_SVG}}}metadata" or element.find(f"{{{_SVG}}}style") is not None:
                root.remove(element)
        for element in root.iter():
            name = element.get("id", "")
            if name in self._series:
                element.set("data-series", self._series[name])
                if name in self._tooltips:
                    title = ElementTree.Element(f"{{{_SVG}}}title")
                    title.text = visible(self._tooltips[name], keep="\n")
                    element.insert(0, title)
            self._own_names(element, prefix)
        for side in ("width", "height"):
            root.attrib.pop(side, None)
        root.set("role", "img")
        root.set("aria-label", self.label)
        drawn = ElementTree.tostring(root, encoding="unicode")
        for name, stand_in in COLOURS.items():
            drawn = drawn.replace(stand_in, f"var(--{name})")
        # The page's own letters; sizes stay.
        return re.sub(r"(font:[^;\"]*?)'[^;\"]*|font-family:[^;\"]*", _plain_font, drawn)

    @staticmethod
    def _own_names(element: ElementTree.Element, prefix: str) -> None:
        """Names that are referred to get a prefix of the chart's own, others go: no two on a page may be the same."""
        is_referred_to = element.tag in (f"{{{_SVG}}}path", f"{{{_SVG}}}clipPath")
        if "id" in element.attrib:
            name = element.attrib.pop("id")
            if is_referred_to:
                element.set("id", f"{prefix}-{name}")
        link = element.get(f"{{{_LINK}}}href")
        if link is not None:
            element.attrib.pop(f"{{{_LINK}}}href")
            element.set("href", f"#{prefix}-{link.removeprefix('#')}")
        clip = element.get("clip-path")
        if clip is not None:
            element.set("clip-path", clip.replace("url(#", f"url(#{prefix}-"))


def _plain_font(found: re.Match) -> str:
    return f"{found.group(1)}sans-serif" if found.group(1) else "font-family: inherit"
