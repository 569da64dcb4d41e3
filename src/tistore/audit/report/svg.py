"""Matplotlib's figures as SVG that belongs into a page: small, without network, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from tistore.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#0b0b0b"
"""What is drawn in this colour takes that of the text around the figure."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it is found, read out, and small
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine lays out alike
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a trait may have a $ in its name
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_SPACES = re.compile(r"\{[^}]*\}")
_FONT_SIZE = re.compile(r"([\d.]+)px")
_DROPPED = {"metadata", "style"}
_KEPT_STYLES = {
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "opacity",
    "text-anchor", "font-size",
}  # fmt: skip


@contextmanager
def drawing() -> Iterator[type[Figure]]:
    """
    Give the class of figures, and the style they are drawn in, while the block runs.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "figures are drawn by matplotlib, which is not installed",
            mend="install it: pip install 'tistore[report]'",
        ) from error
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A glyph that the layout font lacks is no matter: the reader's own fonts show it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield Figure


def to_svg(figure: Figure, name: str, title: str) -> str:
    """
    Write a figure as an element of a page.

    It has no style attributes, which a page without inline styles would not apply, no metadata,
    no address of any kind, and ids of its own. The same figure is the same text.

    Args:
        figure: What to write.
        name: Sets its ids apart from other figures'.
        title: What it shows, for those who do not see it.
    """
    import matplotlib

    written = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    _clean(root, name)
    for size in ("width", "height"):
        root.attrib.pop(size)
    root.attrib |= {"role": "img", "class": "figure"}
    told = ElementTree.Element("title")
    told.text = title
    root.insert(0, told)
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, name: str) -> None:
    element.tag = _SPACES.sub("", element.tag)
    attributes = {_SPACES.sub("", key): value for key, value in element.attrib.items()}
    attributes |= _unfold(attributes.pop("style", ""))
    attributes.pop("version", None)
    element.attrib.clear()
    for key, value in attributes.items():
        element.set(key, _point_inside(key, value, name))
    for child in list(element):
        if _SPACES.sub("", child.tag) in _DROPPED:
            element.remove(child)
        else:
            _clean(child, name)


def _unfold(style: str) -> dict[str, str]:
    """Turn a style into attributes, which look alike and are allowed."""
    found: dict[str, str] = {}
    for part in style.split(";"):
        key, colon, value = (piece.strip() for piece in part.partition(":"))
        if key == "font" and (size := _FONT_SIZE.search(value)):
            found["font-size"] = size[1]
            if "bold" in value or " 700 " in f" {value} ":
                found["font-weight"] = "bold"
        elif colon and key in _KEPT_STYLES:
            found[key] = value.removesuffix("px")
    return found


def _point_inside(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    if value.startswith("url(#"):
        return f"url(#{name}-{value[5:]}"
    return "currentColor" if value == INK else value
