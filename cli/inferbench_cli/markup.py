"""HTML whose escaping cannot be forgotten: text that is not `Html` is escaped wherever it is put."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

VOID = frozenset({"br", "col", "link", "meta"})
"""Elements of HTML that have no end tag."""

SVG_LEAVES = frozenset({"path", "use"})
"""Elements of SVG that hold nothing; there a slash ends them."""

UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters, and halves of characters, which UTF-8 cannot write."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(content: object) -> Html:
    """Return content as HTML: what is not HTML yet loses its meaning as markup."""
    if isinstance(content, Html):
        return content
    return Html(html.escape(UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", str(content))))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Put parts one after the other."""
    return Html(escape(separator).join(escape(part) for part in parts))


def tag(name: str, /, *content: object, **attributes: object) -> Html:
    """Return an element. `class_` is written class, `aria_label` aria-label; an attribute of None is left out."""
    start = name + "".join(
        f' {_spelt(key)}="{_value(value)}"' for key, value in attributes.items() if value is not None
    )
    if name in VOID:
        return Html(f"<{start}>")
    return Html(f"<{start}/>" if name in SVG_LEAVES else f"<{start}>{join(content)}</{name}>")


def table(name: str, caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """Return a table that scrolls by itself where the page is narrow; a row's first cell is its heading."""
    head = tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings)))
    body = tag("tbody", *(_row(*row) for row in rows))
    content = tag("table", tag("caption", caption, id=f"{name}-caption"), head, body, class_=name)
    return tag("div", content, class_="scroll", role="region", tabindex=0, aria_labelledby=f"{name}-caption")


def _row(first: object, *others: object) -> Html:
    return tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in others))


def _spelt(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    return escape(str.__str__(value) if isinstance(value, Html) else value)
