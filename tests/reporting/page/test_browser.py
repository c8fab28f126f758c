"""The page in headless Chromium: no errors, no requests, tables that sort, pictures that flip, contrast, widths."""

from pathlib import Path

import pytest

from lrsegformer.reporting.page.write import write_page

pytestmark = pytest.mark.slow

SCHEMES = ("light", "dark")
# The browser works colours out from variables. For each piece of text: its start, and the ratio of contrast (WCAG 2.2)
# between it and the nearest background.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || ["STYLE", "SCRIPT", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const isDrawn = element.namespaceURI.endsWith("svg");
    if (isDrawn && style.fill === getComputedStyle(document.body).backgroundColor) continue; // a letter on its disc
    const [a, b] = [parse(isDrawn ? style.fill : style.color), behind(element)].map(light).sort((x, y) => y - x);
    found.push([text.slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def address(world, tmp_path_factory) -> str:
    output = tmp_path_factory.mktemp("page") / "report.html"
    return write_page([world / "runs", world / "reports"], output, "A report").html.as_uri()


@pytest.fixture
def open_page(chromium, address):
    """`open_page(width, scheme)`: the page; the test fails where it says anything, or asks for anything."""
    said: list[str] = []
    contexts = []

    def open_it(width: int = 1440, scheme: str = "light", **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda request: said.append(request.url) if request.url[:5] not in ("file:", "data:") else None
        )
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [320, 375, 1440])
def test_the_page_never_scrolls_sideways(open_page, width, scheme):
    page = open_page(width, scheme)
    page.eval_on_selector_all("details", "all => all.forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.eval_on_selector_all(".scroll", "all => all.filter((one) => one.scrollWidth > one.clientWidth).length")
    assert wide > 0 if width < 400 else True
    # Nothing sticks out of the window but what lies in a box that scrolls.
    outside = page.eval_on_selector_all(
        "main *:not(.scroll *)",
        "all => all.filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && one.checkVisibility()"
        " && !one.closest('svg')).map((one) => one.outerHTML.slice(0, 80))",
    )
    assert outside == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_has_the_contrast_of_aa(open_page, scheme):
    page = open_page(1440, scheme)
    page.eval_on_selector_all("details", "all => all.forEach((one) => { one.open = true; })")
    pairs = page.evaluate(CONTRAST)
    assert len(pairs) > 300
    assert [pair for pair in pairs if pair[1] < 4.5] == []


def first_table(page):
    return page.locator("#clean table").first


def test_tables_sort_by_click_and_by_keyboard(open_page):
    page = open_page()
    table = first_table(page)
    names = lambda: [one.split("\n")[0] for one in table.locator("tbody th").all_inner_texts()]  # noqa: E731
    heading = table.locator("thead th", has_text="mIoU")
    assert heading.get_attribute("aria-sort") == "none"
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [name.split(" ", 1)[1] for name in names()[:2]] == ["baseline", "orthogonal"]
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert "always" in names()[0] and names()[2].endswith("baseline")
    other = table.locator("thead th").first
    other.locator("button").focus()
    page.keyboard.press("Space")
    assert other.get_attribute("aria-sort") == "ascending" and heading.get_attribute("aria-sort") == "none"
    # What is absent stays last either way.
    for direction in ("descending", "ascending"):
        table.locator("thead th", has_text="F1").locator("button").click()
        assert table.locator("thead th", has_text="F1").get_attribute("aria-sort") == direction
        assert "always" in names()[-1]


def test_pictures_flip_with_the_arrow_keys(open_page):
    page = open_page()
    viewer = page.locator(".viewer").nth(2)
    shown = lambda: viewer.locator(".view:visible figcaption").all_inner_texts()  # noqa: E731
    assert shown()[0] == "image" and len(shown()) == 3
    viewer.locator("input").first.focus()
    page.keyboard.press("ArrowRight")
    assert shown()[0] == "attacked image"
    page.keyboard.press("ArrowRight")
    assert any(text.startswith("certified radius") for text in shown())
    loaded = viewer.locator("img").evaluate_all("all => all.every((one) => one.complete && one.naturalWidth > 0)")
    assert loaded


def test_radii_are_chosen_one_at_a_time(open_page):
    page = open_page()
    charts = page.locator("#trade-off-1-charts-1")
    assert charts.locator(".view:visible").count() == 1
    titles = set()
    for label in charts.locator(".flip label").all():
        label.click()
        titles.add(charts.locator(".view:visible .sub").inner_text())
    assert len(titles) == charts.locator(".flip label").count() > 1


def test_a_legend_hides_a_model(open_page):
    page = open_page()
    button = page.locator("#training .legend button").first
    marks = page.locator("#training [data-series='A'].off")
    assert marks.count() == 0
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and marks.count() > 0
    button.click()
    assert marks.count() == 0


def test_the_switch_turns_the_scheme_and_is_remembered(open_page):
    page = open_page(1440, "dark")
    background = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    dark = background()
    switch = page.locator("[data-scheme-switch]")
    assert switch.inner_text() == "Light"
    switch.click()
    assert background() != dark and switch.inner_text() == "Dark"
    page.reload()
    assert background() != dark


def test_without_script_everything_is_shown(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator(".view").count() == page.locator(".view:visible").count() > 0


def test_every_control_is_reached_by_the_keyboard(open_page):
    page = open_page()
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.className + '|' + document.activeElement.tagName"))
        if page.evaluate("document.activeElement === document.body"):
            break
    kinds = {one.partition("|")[2] for one in reached}
    assert {"A", "BUTTON", "INPUT", "SUMMARY"} <= kinds and "scroll|DIV" in reached


def test_a_screenshot_is_no_blank_page(open_page, tmp_path):
    from PIL import Image

    for width, scheme in ((1440, "light"), (375, "dark")):
        path = Path(tmp_path / f"{width}.png")
        open_page(width, scheme).screenshot(path=path)
        with Image.open(path) as image:
            assert image.width == width and len(image.convert("RGB").getcolors(10**6)) > 50
