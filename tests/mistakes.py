"""What is said of a benchmark that is wrong: in our words, and never in those of the library that reads it."""

from __future__ import annotations

import re

from inferbench_contract import document
from inferbench_contract.errors import SpecError

SENTENCE = re.compile(r"f\.yaml(:\d+)?: (.+?: )?found .+[.?]", re.DOTALL)
PYDANTICS_WORDS = ("Input should", "validation error", "value_error", "Value error", "type=", "errors.pydantic")


def mistakes(text: str) -> tuple[str, ...]:
    """What is wrong with a document called f.yaml, in words that are ours; nothing if it is right."""
    try:
        document.parse(text, "f.yaml")
    except SpecError as error:
        for mistake in error.mistakes[: document.MAX_MISTAKES]:
            assert SENTENCE.fullmatch(mistake), mistake
            assert not any(word in mistake for word in PYDANTICS_WORDS), mistake
        return error.mistakes
    return ()


def the_mistake(text: str) -> str:
    """The only thing that is wrong with a document."""
    (mistake,) = mistakes(text)
    return mistake.removeprefix("f.yaml:")
