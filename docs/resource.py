"""Writes the tables of docs/resource.md that follow from the models: `python docs/resource.py`, or with `--check`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inferbench_contract import crd, schema
from inferbench_contract.status import Status

PAGE = Path(__file__).with_suffix(".md")

SPEC = schema.structural(schema.document_schema()["properties"]["spec"])
STATUS = schema.structural(schema.schema_of(Status))

MAX_CHOICES = 9
"""More words than this are not listed."""


def main() -> int:
    """Bring the page in step, or say that it is not."""
    text = PAGE.read_text(encoding="utf-8")
    new = in_step(text)
    if "--check" in sys.argv[1:]:
        return 0 if new == text else sys.exit("docs/resource.md is not in step: run `python docs/resource.py`.")
    PAGE.write_text(new, encoding="utf-8")
    return 0


def in_step(text: str) -> str:
    """Return the page with the tables made anew; each stands between two comments that name it."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        text, found = re.subn(pattern, lambda at, table=table: at[1] + table + at[2], text, flags=re.DOTALL)
        if found != 1:
            msg = f"docs/resource.md has {found} places for the table {name}, expected one"
            raise ValueError(msg)
    return text


def fields(node: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Yield the fields inside a mapping or a list of mappings: place, schema, whether it has to be given."""
    for name, inner in node.get("properties", {}).items():
        yield f"{place}{name}", inner, name in node.get("required", ())
        inside = inner.get("items", inner)
        if inside.get("type") == "object" and name != "podTemplate":  # which has a section of its own
            yield from fields(inside, f"{place}{name}{'[]' if 'items' in inner else ''}.")


def spec_table() -> str:
    """Return the table of everything that a spec may say."""
    rows = [
        (f"`{place}`", form(node), "**required**" if required else default(node), node.get("description", ""))
        for place, node, required in fields(SPEC, "")
    ]
    return table(("Field", "What it may be", "Default", "Meaning"), rows)


def status_table() -> str:
    """Return the table of everything that a status may say."""
    rows = [(f"`{place}`", form(node), node.get("description", "")) for place, node, _ in fields(STATUS, "")]
    return table(("Field", "What it is", "Meaning"), rows)


def columns_table() -> str:
    """Return the table of what `kubectl get` shows."""
    rows = [(name, f"`{path}`", description) for name, _, path, description in crd.COLUMNS]
    return table(("Column", "From", "Meaning"), rows)


def form(node: Mapping[str, Any]) -> str:
    """Say what a value may be, in a few words."""
    if "enum" in node:
        return choices(node["enum"])
    if node.get("type") == "array":
        return f"list of {node.get('minItems', 0)} to {node['maxItems']}: {form(node['items'])}"
    if node.get("type") == "integer":
        return f"integer{limits(node)}"
    if node.get("type") == "string":
        return "time" if node.get("format") == "date-time" else f"text of at most {node['maxLength']:,}"
    return {"boolean": "true or false", "object": "mapping"}.get(node.get("type", ""), "text, or a mapping with `path`")


def limits(node: Mapping[str, Any]) -> str:
    """Say the ends of a range, as far as it has any."""
    ends = ((" from", "minimum"), (" to", "maximum"))
    return "".join(f"{word} {node[end]:,}" for word, end in ends if end in node)


def choices(words: list[str]) -> str:
    """List words."""
    return ", ".join(f"`{word}`" for word in words) if len(words) <= MAX_CHOICES else f"one of {len(words)} words"


def default(node: Mapping[str, Any]) -> str:
    """Say what a field is when it is not given."""
    value = node.get("default")
    if value in (None, {}, []):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`".replace("'", "")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write a table."""
    lines = (head, ("---",) * len(head), *rows)
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


TABLES = {"spec": spec_table(), "status": status_table(), "columns": columns_table()}

if __name__ == "__main__":
    sys.exit(main())
