"""Places in a document, and what a validator found wrong at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue, ValidationError

Place = tuple[str | int, ...]
"""Where in a document: keys and indexes from the outside in."""

MAX_SHOWN = 12
"""Of the choices that a sentence lists."""


class Mistakes(ValueError):
    """What a validator found wrong, by place relative to the field that it validates: "found ..., expected ...".

    `besides` is what was wrong before it looked, where it looked all the same.
    """

    def __init__(self, found: Mapping[Place, str], besides: ValidationError | None = None) -> None:
        super().__init__(" ".join(found.values()))
        self.found = found
        self.besides = besides


def refuse(found: Mapping[Place, str], besides: ValidationError | None = None) -> None:
    """Raise `Mistakes` if there are any."""
    if found:
        raise Mistakes(found, besides)


def contents(value: JsonValue, place: Place = ()) -> Iterator[tuple[Place, JsonValue]]:
    """Walk over everything inside a free mapping, with its place."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*place, key), item
        yield from contents(item, (*place, key))


def choices(items: Sequence[object]) -> str:
    """List what a sentence says may be chosen; of many only the first."""
    shown = ", ".join(str(item) for item in items[:MAX_SHOWN])
    return shown if len(items) <= MAX_SHOWN else f"{shown} and {len(items) - MAX_SHOWN} more"
