"Committed figures: their letters are at least 7 pt at printed size, and stand out from what lies behind them."
import collections, re
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from catscans.figures.style import READ, contrast
from fakes import ROOT

LEAST, COLUMNS = 7, (89, 183)     # points; millimetres of a single and of a double column
FIGURES = sorted((ROOT/"figures").glob("*/*.svg"))
name = lambda f: f"{f.parent.name}/{f.stem}"


def printed(width):
    "scale of a figure, `width` in millimetres: as wide as it is, or shrunk to the double column"
    return min(1, COLUMNS[1]/width)


def texts(svg):
    "(words, points at printed size, colour, place in points, turned by) of each text in an SVG of matplotlib"
    root = ET.fromstring(svg)
    shrunk = printed(float(root.get("width").removesuffix("pt"))*25.4/72)
    def walk(e, scale, style):
        style = style | dict(re.findall(r"([\w-]+):\s*([^;]+)", e.get("style") or ""))
        moves = e.get("transform") or ""
        scale *= abs(float((re.findall(r"scale\((-?[\d.]+)", moves) or [1])[0]))
        if e.tag.endswith(("}text", "}tspan")) and (e.text or "").strip():
            size = float(re.search(r"([\d.]+)px", style.get("font-size") or style["font"])[1])
            yield e.text, scale*shrunk*size, style, moves, (e.get("x"), e.get("y"))
        for child in e: yield from walk(child, scale, style)
    return list(walk(root, 1, {}))


def behind(image, style, words, size, moves, at):
    "the most frequent colour on the frame around a level text; None: it is turned, or a part of a longer one"
    turned = re.search(r"rotate\((-?[\d.]+)", moves)
    if "scale" in moves or turned and float(turned[1]): return None
    x, y = map(float, at if at[0] else re.search(r"translate\((\S+) (\S+)\)", moves).groups())
    wide = size*len(words)*(.66 if style.get("font-weight") == "700" else .6)
    x -= wide*dict(middle=.5, end=1).get(style.get("text-anchor"), 0)
    dots = 180/72
    x0, x1, y0, y1 = (round(v*dots) for v in (x - 1, x + wide + 1, y - .8*size - .8, y + .8))
    ring = [*((i, j) for i in range(x0, x1 + 1) for j in (y0, y1)), *((i, j) for j in range(y0, y1) for i in (x0, x1))]
    seen = collections.Counter(image.getpixel(p) for p in ring if 0 <= p[0] < image.width and 0 <= p[1] < image.height)
    return "#%02x%02x%02x" % seen.most_common(1)[0][0]


def pale(svg, image):
    "the texts that do not stand out: words, colour, what lies behind, contrast"
    for words, size, style, moves, at in texts(svg):
        if float(style.get("opacity", 1)) < 1: continue     # the mark behind the panels of generated images
        back, own = behind(image, style, words, size, moves, at), style.get("fill", "#000000")
        if back and (c := contrast(own, back)) < READ: yield words, own, back, round(c, 2)


def test_figures_are_there(): assert len(FIGURES) >= 30


@pytest.mark.parametrize("file", FIGURES, ids=name)
def test_letters_are_large_enough(file):
    small = {(words, round(size, 2)) for words, size, *_ in texts(file.read_text()) if size < LEAST - 1e-6}
    assert not small, f"{name(file)}: letters under {LEAST} pt at printed size: {sorted(small)[:5]}"


@pytest.mark.parametrize("file", FIGURES, ids=name)
def test_letters_stand_out(file):
    image = Image.open(file.with_suffix(".png")).convert("RGB")
    assert not (seen := list(pale(file.read_text(), image))), f"{name(file)}: contrast under {READ}: {seen[:5]}"


SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="{w}pt" height="40pt"><g transform="translate(9 30)">{t}</g></svg>'
TEXT = '<text style="font-size: {s}px; fill: {c}" x="9" y="30" transform="rotate(-0 9 30)">AUC</text>'


def test_the_measure_sees_small_and_pale_letters():
    "in a figure that is shrunk to the column, in a group that is, in a subscript, on a cell"
    size = lambda t, w=500: [round(r[1], 2) for r in texts(SVG.format(w=w, t=t))]
    assert size(TEXT.format(s=7, c="#000000")) == [7] and size(TEXT.format(s=7, c="#000000"), 1037.48) == [3.5]
    assert size(f'<g transform="scale(0.5 -0.5)">{TEXT.format(s=7, c="#000000")}</g>') == [3.5]
    assert size('<text style="font: 7px DejaVu"><tspan style="font-size: 5px">T</tspan></text>') == [5]
    seen = lambda c, cell: [r[3] for r in pale(SVG.format(w=100, t=TEXT.format(s=7, c=c)), Image.new("RGB", (250, 100), cell))]
    assert seen("#777777", "white") == [4.48] and seen("#767676", "white") == [] and seen("#ffffff", "#2A9D8F") == [3.32]
