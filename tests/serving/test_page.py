"""The page in a real browser, with a real station behind it."""

import contextlib
import io
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image
from playwright import sync_api

from diffad_jax.reporting import html
from tests.support import folders

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")
HEIGHT, WIDTH = 64, 96
SPOT = (slice(16, 32), slice(60, 84))  # rows and columns of the defect


class Running:
    """A station's process."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "tests.serving.toy_station", str(folder)]
        self._process = subprocess.Popen(
            command, cwd=folders.REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if found := re.search(r"(http://\S+/)\?token=\S+", line):
                self.link, self.url = found[0], found[1]
                return
        raise AssertionError("".join(lines))

    def judge(self, red, name="part.png"):
        """Send a picture whose defect has this score."""
        picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
        picture[SPOT][..., 0] = 30 + round(255 * red)
        Image.fromarray(picture).save(buffer := io.BytesIO(), "png")
        request = urllib.request.Request(
            f"{self.url}judge?{urllib.parse.urlencode({'name': name})}",
            data=buffer.getvalue(),
            headers={"Content-Type": "image/png"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["parts"][0]

    def stop(self):
        self._process.send_signal(signal.SIGTERM)
        _, rest = self._process.communicate(timeout=30)
        assert self._process.returncode == 0, rest


@contextlib.contextmanager
def station(folder):
    running = Running(folder)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with station(tmp_path_factory.mktemp("station")) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser):
    """Opens a station's page; at the end nothing may have gone wrong or elsewhere."""
    contexts, faults, hosts, own = [], [], set(), {""}  # "": data: URLs

    def opened(link, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: hosts.add(urllib.parse.urlsplit(request.url).netloc))
        own.add(urllib.parse.urlsplit(link).netloc)
        page.goto(link)
        page.wait_for_selector("#live.on")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
    assert hosts <= own


def text(page, selector, expected):
    sync_api.expect(page.locator(selector)).to_have_text(expected)


def until(page, expression):
    """Wait; what playwright itself has for that, the page's policy forbids."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(expression)


def drag(page, start, end):
    """Draw a line on the picture, given in its own pixels."""
    box = page.locator("#mask").bounding_box()
    for i, (x, y) in enumerate((start, end)):
        at = (box["x"] + x * box["width"] / WIDTH, box["y"] + y * box["height"] / HEIGHT)
        page.mouse.move(*at, steps=1 + 5 * i)
        if not i:
            page.mouse.down()
    page.mouse.up()


def try_threshold(page, value):
    page.fill("#number", str(value))


def test_parts_appear_and_the_slider_judges_them_anew(shared, visit):
    page = visit(shared.url)  # without the token
    shared.judge(0.2, "first")
    text(page, "#verdict", "good")
    shared.judge(0.7, "C:\\folder/<b onclick=x>&\u202e")
    text(page, "#verdict", "defective")
    # Of a client's name the last part, shown as text.
    text(page, "#name", r"<b onclick=x>&\u202e")
    text(page, "#list li:nth-child(2) span", re.compile("^good0.2"))
    text(page, "#mistakes", re.compile("false alarms 1 of 4 good, missed 1 of 3 defective"))
    page.locator("#slider").focus()
    page.keyboard.press("End")
    text(page, "#verdict", "good")
    text(page, "#list li:nth-child(1) span", re.compile("was defective"))
    try_threshold(page, 0.1)
    text(page, "#list li:nth-child(2) span", re.compile("^defective.*was good"))
    text(page, "#mistakes", re.compile("false alarms 1 → 3 of 4 good, missed 1 → 0 of 3 defective"))
    text(page, "#would", re.compile("1 of the 2 parts shown and 3 of the evaluation's pictures"))
    page.click("#back")
    text(page, "#verdict", "defective")


def test_what_changes_the_station_needs_the_link(shared, browser):
    shared.judge(0.7)
    page = browser.new_page()  # its console rightly says that the answer was 401
    page.goto(shared.url)
    text(page, "#verdict", "defective")
    page.click("#follow")
    page.keyboard.press("g")
    text(page, "#told", re.compile("open the link that its log shows"))
    page.close()


def test_threshold_and_corrections_survive_a_restart(tmp_path, visit, browser):
    with station(tmp_path) as running:
        page = visit(running.link)
        assert "token" not in page.url
        running.judge(0.7, "part_7.png")
        text(page, "#verdict", "defective")
        try_threshold(page, 0.25)
        page.click("#keep")
        text(page, "#would", "")
        part = running.judge(0.3, "part_3.png")
        assert (part["threshold"], part["verdict"]) == (0.25, "defective")
        text(page, "#name", "part_3.png")
        page.click("#follow")  # else, what has just come is not corrected by mistake
        page.keyboard.press("g")
        text(page, "#told", "Stored: part_3.png is good.")
        page.keyboard.press("ArrowRight")
        text(page, "#name", "part_7.png")
        page.keyboard.press("b")
        drag(page, (20, 20), (50, 20))
        drag(page, (20, 50), (50, 50))
        page.keyboard.press("u")  # the second line
        page.keyboard.press("d")
        text(page, "#told", "Stored: part_7.png is defective, with its region.")
        text(page, "#corrected", "2")
        page.close()
        other = browser.new_page()
        other.goto(running.url)
        text(other, "#live", "live")
    text(other, "#live", "not connected, trying again")
    other.close()
    with station(tmp_path) as running:
        part = running.judge(0.3)
        assert part["threshold"] == 0.25
        page = visit(running.link)
        page.click("#to-corrections")
        text(page, "#words li:nth-child(1) strong", "defective")
        text(page, "#words li:nth-child(2)", re.compile("false alarm: called defective.*part_3"))
        sync_api.expect(page.locator("#words li:nth-child(1) .region")).to_be_visible()
        lines = (tmp_path / "corrections.jsonl").read_text().splitlines()
        mask = np.asarray(Image.open(tmp_path / json.loads(lines[1])["mask"]))
        assert mask.shape == (HEIGHT, WIDTH)
        # Round ends; 5 % of the smaller side wide.
        assert mask[20, 20:50].all() and not mask[25:].any() and not mask[:15].any()
        page.on("dialog", lambda dialog: dialog.accept())
        page.click("#words li:nth-child(1) button")
        text(page, "#corrected", "1")
        assert len((tmp_path / "corrections.jsonl").read_text().splitlines()) == 3
        page.close()


def test_keys_brush_and_undo(shared, visit):
    page = visit(shared.link)
    for red, name in ((0.2, "older"), (0.7, "newer")):
        shared.judge(red, name)
    text(page, "#name", "newer")
    page.keyboard.press("ArrowRight")
    text(page, "#name", "older")
    shared.judge(0.1, "newest")  # does not take its place
    text(page, "#list li:nth-child(1) span", re.compile("0.1"))
    text(page, "#name", "older")
    page.keyboard.press("Home")
    text(page, "#name", "newest")
    before = float(page.input_value("#opacity"))
    page.keyboard.press("-")
    assert float(page.input_value("#opacity")) == pytest.approx(before - 0.1)
    assert float(page.evaluate("$('overlay').style.opacity")) == pytest.approx(before - 0.1)
    until(page, "!loading")
    page.evaluate("shown = Date.now()")
    page.keyboard.press("g")  # meant for the one before
    text(page, "#told", "A new part: press again.")
    page.evaluate("shown = 0")
    page.keyboard.press("g")
    text(page, "#corrected", "1")
    page.keyboard.press("u")
    text(page, "#corrected", "0")
    page.keyboard.press("?")
    sync_api.expect(page.locator("#keys")).to_be_visible()
    page.uncheck("#use-keys")
    page.click("#keys button")
    page.keyboard.press("d")
    page.keyboard.press("ArrowRight")
    text(page, "#name", "newer")
    text(page, "#corrected", "0")


def test_the_overlay_is_that_of_the_report(shared, visit):
    page = visit(shared.link)
    part = shared.judge(0.7)
    text(page, "#name", part["name"])
    until(page, "!loading && $('overlay').width === 96")
    seen = page.evaluate(
        """() => { const pen = canvas(make('canvas'), 96, 64);
        for (const layer of ['overlay', 'frames']) pen.drawImage($(layer), 0, 0);
        return [...pen.getImageData(0, 0, 96, 64).data] }"""
    )
    seen = np.reshape(seen, (HEIGHT, WIDTH, 4))[..., :3]
    with urllib.request.urlopen(urllib.parse.urljoin(shared.url, part["overlay"])) as answer:
        expected = np.asarray(Image.open(io.BytesIO(answer.read()))).astype(int)
    assert np.abs(seen - expected).max() <= 2
    for threshold, hidden in (("0.9", "true"), ("0.6", "false")):  # a good part has no frames
        page.evaluate(f"attempt('{threshold}')")
        until(page, f"$('frames').hidden === {hidden}")
    page.evaluate("attempt('')")
    blank = page.evaluate("thumbnail({...part, picture: null}).querySelector('img').src")
    page.evaluate("src => Object.assign(new Image(), {src}).decode()", blank)  # not a broken one
    page.click("#brush")
    page.click("#fill")  # the region of the model
    page.keyboard.press("d")
    text(page, "#told", re.compile("with its region"))
    place = page.evaluate("`corrections/${corrections[0].id}/mask`")
    with urllib.request.urlopen(urllib.parse.urljoin(shared.url, place)) as answer:
        mask = np.asarray(Image.open(io.BytesIO(answer.read())))
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[SPOT] = 255
    assert np.array_equal(mask, truth)
    page.keyboard.press("u")


def test_problems_and_drift_are_told(shared, visit):
    page = visit(shared.url)
    page.evaluate(
        """state = {...state, ready: false, problems: {output: "disk full"}, drift:
        {parts: 200, window: 200, since: 1e9, drifted: ["brightness"], p: {}}}; draw()"""
    )
    text(page, "#notices p:nth-child(1)", "output: disk full")
    drift = "^Drift since 09/09/2001, .*: of the parts judged good, the brightness no longer fits"
    text(page, "#notices p:nth-child(2)", re.compile(drift))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width_and_scheme(shared, visit, width, scheme):
    shared.judge(0.7, "a_long_name_" * 12)
    options = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    page = visit(shared.link, **options)
    text(page, "#verdict", "defective")
    page.evaluate("write('middle', 'threshold of pixels 0.00005393')")
    tops = [page.locator(f"#views > :nth-child({n})").bounding_box()["y"] for n in (1, 2)]
    assert (tops[0] == tops[1]) == (width == 1280)  # side by side, if there is room
    page.keyboard.press("b")
    unnamed = "[...document.querySelectorAll('input')].filter((e) => !e.labels[0] && !e.ariaLabel)"
    assert page.evaluate(f"{unnamed}.map((e) => e.id)") == []
    for view in ("#to-parts", "#to-corrections"):
        page.click(view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    back, ink = page.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    assert (back, ink) == {
        "light": ("rgb(255, 255, 255)", "rgb(26, 26, 26)"),
        "dark": ("rgb(21, 22, 23)", "rgb(236, 236, 236)"),
    }[scheme]


def test_the_page_stays_small_and_needs_nothing_inline():
    place = pathlib.Path(folders.REPOSITORY) / "diffad_jax/serving/page"
    page = {file.name: file.read_text() for file in place.glob("*.*") if file.suffix != ".json"}
    assert set(page) == {"index.html", "page.css", "page.js"}
    assert sum(len(content.splitlines()) for content in page.values()) < 500
    assert not re.search(
        r"<style|style=|\son\w+=|<script(?! src=\"page.js\" defer>)", page["index.html"]
    )
    assert "innerHTML" not in page["page.js"] and "http:" not in page["page.js"]
    colours = [re.findall(r"--\w+: #\w+", each) for each in (page["page.css"], html.STYLE)]
    assert len(colours[0]) == 16 and set(colours[0]) <= set(colours[1])
    ids = re.findall(r' id="([^"]+)"', page["index.html"])
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'\$\("([^"]+)"\)', page["page.js"]))
    assert used <= set(ids)
