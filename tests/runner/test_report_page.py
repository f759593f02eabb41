"""The report in a real browser: that it is drawn, in light and dark, fits narrow screens, and prints what it folds."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from functools import partial
from importlib import resources

import pytest
from PIL import Image

from tests.reports import many_cells, page_of, resnet50

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=5000",
)

SCHEMES = {"light": "--blink-settings=preferredColorScheme=1", "dark": "--blink-settings=preferredColorScheme=0"}

DRAWN_STYLES = 5
"""So many strategies of `resnet50` have numbers."""

WIDTHS = (320, 390, 768, 1280)

# A page cannot be asked from outside, and headless Chromium makes no window narrower than 500 pixels: so the report
# stands in frames, which media queries take for the screen, and the page around them reads what became of it.
FRAME = """<iframe width="{width}" height="900" srcdoc="{page}"></iframe>"""
PAGE = """<!doctype html>{frames}<pre id="found"></pre><script>
onload = () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument;
    const right = element => Math.ceil(element.getBoundingClientRect().right);
    const every = [...page.body.querySelectorAll("*")];
    const shown = every.filter(element => !element.closest(".scroll *, .skip, .shapes"));
    const outside = shown.filter(element => right(element) > frame.width);
    return {{
      scrollWidth: page.documentElement.scrollWidth,
      outside: outside.map(element => element.outerHTML.slice(0, 80)),
      charts: [...page.querySelectorAll("figure svg")].map(element => element.getBoundingClientRect().width),
    }};
  }});
  document.getElementById("found").textContent = JSON.stringify(found);
}};
</script>"""


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("Chromium is not installed, so nobody looked at the report: apt-get install -y chromium")
    return found


def opened(chromium, folder, text, *flags):
    """Open a page and return what Chromium printed."""
    page = folder / "page.html"
    page.write_text(text, encoding="utf-8")
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture
def browse(chromium, tmp_path):
    """Opens a page in the folder of the test."""
    return partial(opened, chromium, tmp_path)


@pytest.fixture(scope="module")
def framed(chromium, tmp_path_factory):
    """What became of the report at each width."""
    text = html.escape(page_of(*resnet50()))
    page = PAGE.format(frames="".join(FRAME.format(width=width, page=text) for width in WIDTHS))
    dom = opened(chromium, tmp_path_factory.mktemp("framed"), page, "--window-size=1400,1000", "--dump-dom")
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]))
    return dict(zip(WIDTHS, found, strict=True))


@pytest.fixture
def photograph(browse, tmp_path):
    """Open a page and return its picture."""

    def take(text, width, height, scheme):
        picture = tmp_path / "page.png"
        browse(text, SCHEMES[scheme], f"--window-size={width},{height}", f"--screenshot={picture}")
        return Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")

    return take


def palette(scheme):
    """The colours of the style sheet, by name."""
    style = resources.files("inferbench_cli").joinpath("report.css").read_text()
    blocks = dict(zip(SCHEMES, re.findall(r":root \{(.*?)\}", style, re.DOTALL), strict=True))
    pairs = re.findall(r"--(\w+): #(\w\w)(\w\w)(\w\w)", blocks[scheme])
    return {name: tuple(int(part, 16) for part in parts) for name, *parts in pairs}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_browser_draws_text_and_every_strategy_in_the_colours_of_its_scheme(photograph, scheme):
    picture = photograph(page_of(*resnet50()), 1280, 5000, scheme)

    counts = {colour: count for count, colour in picture.getcolors(maxcolors=1280 * 5000)}
    colours = palette(scheme)
    assert picture.getpixel((5, 5)) == colours["page"]
    assert counts[colours["page"]] / (1280 * 5000) > 0.5
    assert len(counts) > 500
    assert counts[colours["ink"]] > 1000
    drawn = [counts.get(colours[f"s{style}"], 0) > 300 for style in range(8)]
    assert drawn == [True] * DRAWN_STYLES + [False] * (8 - DRAWN_STYLES)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_the_screen_and_tables_scroll_by_themselves(framed, width):
    found = framed[width]

    assert found["outside"] == []
    assert found["scrollWidth"] <= width
    assert len(found["charts"]) == 13
    assert all(250 < chart <= 480 for chart in found["charts"])


def test_a_printed_report_shows_the_table_that_is_folded_on_the_screen(browse, tmp_path):
    text = page_of(*many_cells(1, 40))
    assert "<details><summary>" in text

    pages = []
    for printed in (text, re.sub("<details>.*?</details>", "", text, flags=re.DOTALL)):
        browse(printed, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}")
        pages.append(len(re.findall(rb"/Type /Page\b(?!s)", (tmp_path / "page.pdf").read_bytes())))

    assert pages[0] >= pages[1] + 2
