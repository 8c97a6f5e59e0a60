"""A page as a browser reads it, and stricter."""

import base64
import html.parser
import io
import re

import numpy as np
from PIL import Image

VOID = {"meta", "img", "wbr"}
# Every tag and attribute there may be: what a file name smuggles in is not among them.
TAGS = set(
    "html head meta title style body header main nav ul li a h1 h2 h3 h4 p div span small strong "
    "table caption thead tbody tr th td figure figcaption article details summary img svg path "
    "wbr polyline line rect circle text defs lineargradient stop".split()
)
ATTRIBUTES = set(
    "lang charset name content class id href role tabindex aria-label aria-hidden scope alt width "
    "height decoding src viewbox d points x y x1 x2 y1 y2 cx cy r fill text-anchor transform "
    "offset stop-color stroke".split()
)


class Page(html.parser.HTMLParser):
    """Strict where a browser is kind: every tag closed in turn, only known tags and attributes."""

    def __init__(self, data: bytes):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.lines = [], [], [], [], {}
        self.tables, self.articles, self.headings, self.words = {}, [], [], []
        self.feed(data.decode("utf-8"))
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS, tag
        values = dict(attributes)
        assert set(values) <= ATTRIBUTES and len(values) == len(attributes), attributes
        if tag not in VOID:
            self.open.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag == "img":
            self.images.append(values)
            self.articles[-1]["images"].append(values)
        elif tag == "article":
            self.articles.append({"images": [], "outlines": [], "words": [], "name": ""})
        elif tag == "svg" and "aria-hidden" not in values:
            assert values["role"] == "img" and values["aria-label"]
            self.chart = self.lines.setdefault(values["aria-label"].split(":")[0], [])
        elif tag in ("polyline", "rect", "circle"):
            self.chart.append((tag, values))
        elif tag == "path":
            self.articles[-1]["outlines"].append(values["d"])
        elif tag == "caption":
            self.table = []
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "style" in tags or not data.strip():
            return
        self.words.append(data)
        if "caption" in tags:
            self.tables[data] = self.table
        elif tags[-1] in ("td", "th", "strong", "small"):
            self.table[-1][-1] += data
        elif tags[-1] == "h4":
            self.articles[-1]["name"] += data
        elif tags[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)
        elif "article" in tags:
            self.articles[-1]["words"].append(data)


def picture(values) -> np.ndarray:
    """The pixels of an <img>."""
    head, data = values["src"].split(",")
    assert re.fullmatch(r"data:image/(png|webp);base64", head)
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (int(values["width"]), int(values["height"]))
    return np.asarray(image)
