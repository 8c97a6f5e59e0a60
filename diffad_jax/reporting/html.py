"""One HTML file that needs nothing else: its style, safe text, tables, pictures.

Everything a page shows goes through `text`, unless it is `Markup` already, which MarkupSafe keeps
apart from plain text. The style follows the reader: light and dark, from a telephone's width to a
wide screen, and black on white on paper.
"""

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from markupsafe import Markup, escape
from PIL import Image

VOID = ("img", "wbr")  # elements without an end
LOSSY = {"quality": 80, "method": 2}  # WebP; a slower method saves 3 %


def text(value: object) -> Markup:
    """`value` as HTML text that is also safe within double quotes; `Markup` as it is.

    What cannot be printed shows as an escape: line breaks, marks that turn the writing direction,
    and the odd bytes of a file name that is not valid Unicode.
    """
    return value if isinstance(value, Markup) else escape(printable(str(value)))


def printable(value: str) -> str:
    """`value` with every character that cannot be shown or encoded as a backslash escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)


def join(parts: Iterable[object]) -> Markup:
    """Pieces of a page, one after another."""
    return Markup("").join(map(text, parts))


def element(name: str, content: object = "", style: str = "", **attributes: object) -> Markup:
    """<name class="style" attribute="value">content</name>, without the end where it is VOID.

    An underscore in an attribute's name stands for a hyphen.
    """
    named: dict[str, object] = {"class": style} if style else {}
    named |= {key.replace("_", "-"): value for key, value in attributes.items()}
    start = Markup("<{}{}>").format(
        Markup(name), join(Markup(' {}="{}"').format(Markup(k), text(v)) for k, v in named.items())
    )
    return start if name in VOID else join([start, content, Markup(f"</{name}>")])


def image(
    picture: UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w"] | Bool[np.ndarray, "h w"],
    words: str,
    lossy: bool = False,
) -> Markup:
    """The picture as an <img> that carries its own data: PNG, or WebP where `lossy`."""
    buffer = io.BytesIO()
    kind, options = ("webp", LOSSY) if lossy else ("png", {})
    Image.fromarray(picture).save(buffer, kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = picture.shape[:2]
    about = {"alt": words, "width": width, "height": height, "decoding": "async"}
    return element("img", **about, src=f"data:image/{kind};base64,{data}")


def table(
    caption: str,
    heads: Sequence[object],
    *groups: Sequence[Sequence[object]],
    names: int = 1,
    style: str = "numbers",
) -> Markup:
    """A table that scrolls by itself where the screen is narrow.

    groups: of rows, with a line between them. names: how many columns name a row. style: of the
    others, "numbers" (to the right), "words" (lines break), or "wide" (they never do).
    """
    kinds = ["name"] * names + ["value"] * (len(heads) - names)
    head = join(
        element("th", cell, kind, scope="col") for kind, cell in zip(kinds, heads, strict=True)
    )
    bodies = join(
        element("tbody", join(_row(row, names) for row in group)) for group in groups if group
    )
    inner = join([element("caption", caption), element("thead", element("tr", head)), bodies])
    about = {"role": "region", "tabindex": 0, "aria_label": caption}
    return element("div", element("table", inner, style), "scroll", **about)


def document(title: str, body: Markup) -> bytes:
    """The whole file in UTF-8."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{text(body)}\n</body>\n</html>\n"
    ).encode()


def _row(cells: Sequence[object], names: int) -> Markup:
    heads = [element("th", cell, scope="row") for cell in cells[:names]]
    return element("tr", join([*heads, *(element("td", cell) for cell in cells[names:])]))


# Blue and orange are told apart with every kind of colour blindness; contrast is above 4.5 : 1.
STYLE = """
:root { --back: #fff; --ink: #1a1a1a; --faint: #595959; --line: #d4d4d4; --soft: #f4f4f2;
  --good: #0b62a4; --bad: #b04a00; --wrong: #b3261e; --truth: #00b8b8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --back: #151617; --ink: #ececec; --faint: #a8a8a8; --line: #3d4043; --soft: #202224;
    --good: #6cb8f0; --bad: #f0a04b; --wrong: #ff9a8f; --truth: #2fe6e6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 1500px;
  background: var(--back); color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .3rem 0; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; padding-top: .5rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.8rem 0 .2rem; }
h4 { font-size: .95rem; line-height: 1.3; margin: 0 0 .2rem; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: inherit; text-underline-offset: .15em; }
.faint { color: var(--faint); font-size: .9rem; }
.lede { font-size: 1.3rem; line-height: 1.4; max-width: 46rem; margin: 1rem 0 .5rem; }
.wrong { color: var(--wrong); font-weight: 600; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: 1rem 0 0;
  list-style: none; font-size: .95rem; }
.side { display: flex; flex-wrap: wrap; gap: 0 3rem; align-items: flex-start; }
.side > * { min-width: 0; max-width: 100%; }
.scroll { overflow-x: auto; margin: .8rem 0; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: var(--faint); font-size: .9rem; padding-bottom: .3rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
.numbers td, .numbers .value { text-align: right; }
.numbers td, .wide td { white-space: nowrap; }
.words td { overflow-wrap: anywhere; }
th { font-weight: 600; }
td small { display: block; color: var(--faint); font-size: .8rem; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--faint); }
tbody th { font-weight: 500; }
tbody + tbody tr:first-child > * { border-top: 2px solid var(--faint); }
.charts { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.charts figure { margin: 0; max-width: 32rem; }
figcaption { color: var(--faint); font-size: .8rem; }
.charts figcaption { font-size: .9rem; color: var(--ink); font-weight: 600; }
.chart { width: 100%; height: auto; display: block; overflow: visible; }
.chart text { fill: var(--ink); font-size: 12px; font-family: inherit; }
.chart .grid { stroke: var(--line); stroke-width: .6; }
.chart .axis { stroke: var(--faint); }
.chart .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.chart .line.c1 { stroke: var(--good); }
.chart .line.c2 { stroke: var(--bad); stroke-dasharray: 7 4; }
.chart .bar.c1 { fill: var(--good); }
.chart .bar.c2 { fill: var(--bad); }
.chart .threshold { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 4 3; }
.chart .mark { fill: var(--back); stroke: var(--ink); stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 2rem; align-items: center; margin: .8rem 0; }
.legend svg { width: min(26rem, 100%); height: auto; overflow: visible; }
.legend svg text { fill: var(--ink); font-size: 12px; }
.legend svg line { stroke: var(--ink); }
.key { display: inline-block; width: 1.6em; height: .8em; border: 2px solid var(--truth);
  margin-right: .5em; vertical-align: baseline; }
.picture { display: grid; grid-template-columns: 11rem repeat(5, minmax(0, 1fr)); gap: .5rem;
  padding: .5rem 0; border-bottom: 1px solid var(--line); content-visibility: auto;
  contain-intrinsic-size: auto 240px; }
.picture p { margin: 0; font-size: .9rem; }
.picture figure { margin: 0; }
.cell { position: relative; display: block; aspect-ratio: 1; background: var(--soft);
  border: 1px solid var(--line); overflow: hidden; }
.cell img, .cell svg { position: absolute; inset: 0; width: 100%; height: 100%; display: block; }
.cell path { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; }
.cell .none { position: absolute; inset: 0; display: grid; place-items: center;
  color: var(--faint); font-size: .85rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 0 .7rem; margin: .5rem 0 0;
  font-size: .85rem; }
dt { color: var(--faint); }
dd { margin: 0; }
.examples { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
.examples.plain { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.examples article { padding: .8rem; border: 1px solid var(--line); border-radius: 8px; }
.examples h3 { font-size: 1rem; margin: 0 0 .4rem; }
.examples h3 small { color: var(--faint); font-weight: 400; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .4rem; }
.examples figure { margin: 0; }
.examples img { display: block; width: 100%; height: auto; border: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 60rem) {
  .picture { grid-template-columns: repeat(5, minmax(0, 1fr)); gap: .4rem;
    contain-intrinsic-size: auto 280px; }
  .picture header { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 0 1rem;
    align-items: baseline; } }
@media (max-width: 34rem) {
  body { padding-top: .6rem; } h1 { font-size: 1.5rem; } .lede { font-size: 1.1rem; }
  table { font-size: .9rem; } th, td { padding-right: .6rem; }
  .picture { grid-template-columns: repeat(3, minmax(0, 1fr));
    contain-intrinsic-size: auto 340px; } }
@page { margin: 14mm 12mm; }
@media print {
  :root { font-size: 9.5pt; }
  body { padding: 0; max-width: none; }
  nav { display: none; }
  h1, h2, h3, h3 + p { break-after: avoid; }
  tr, .charts figure, .picture, .legend { break-inside: avoid; }
  .charts { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
  th, td { padding-top: .15rem; padding-bottom: .15rem; }
  .picture { grid-template-columns: 3.2cm repeat(5, minmax(0, 1fr)); content-visibility: visible; }
  .picture header { grid-column: auto; display: block; }
  .scroll { overflow: visible; }
  thead { display: table-header-group; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  .legend svg, .chart, .cell { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
