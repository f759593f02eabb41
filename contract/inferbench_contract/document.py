"""Reads an InferenceBenchmark from YAML and names every mistake at once: line, place, what was found and expected.

Only what every YAML program reads alike is accepted: no `on`, `010` or `1:30`, which is text for one and a boolean, an
octal or a time for another. Input is not trusted: size, depth and the number of values behind aliases have bounds.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from inferbench_contract import schema
from inferbench_contract.errors import SpecError
from inferbench_contract.places import Mistakes, Place
from inferbench_contract.pod_template import PRIVILEGED
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.words import Backend

MAX_BYTES = 1_048_576
"""Of a file. An object of Kubernetes cannot be larger either (etcd's limit is 1.5 MiB)."""

MAX_VALUES = 20_000
"""In a document, those behind aliases counted each time. The largest sensible benchmark has about a thousand."""

MAX_DEPTH = 32
"""Of nesting. A pod template needs about twelve."""

MAX_MISTAKES = 50
"""That are shown; nobody mends more at once."""

MAX_EXPLAINED = 500
"""That are put into words at all, so that a hostile file costs a second."""

MAX_SHOWN = 60
"""Characters of a value that a sentence shows."""

INT64 = range(-(2**63), 2**63)
"""Kubernetes keeps integers in 64 bits."""

SET_BY_THE_SERVER = frozenset({
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName", "generation",
    "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
})  # fmt: skip
"""Metadata that `kubectl get -o yaml` shows and that says nothing about what to measure; it is passed over."""

EMPTIED = "found 0 items"
"""What is also said of a list whose every item is wrong."""

NOT_IN_THE_FILE = frozenset({"<name>", "<file>", "[key]"})
"""Steps that pydantic adds to a place: the variants of a union, and "it is the key that is wrong"."""

TAG = "tag:yaml.org,2002:"
KEYWORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,19})")
AMBIGUOUS = re.compile(r"[yYnN]|0o[0-7]+|[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+")
"""Text for the library that reads it here, and something else for YAML 1.2 or for kubectl."""
UNWRITABLE = re.compile("[\0\ud800-\udfff]")
PLAIN_NAME = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,62}")


Look = Callable[[InferenceBenchmark], Mapping[Place, str]]
"""Finds what is wrong with a benchmark that can be read: what its text alone does not show."""


def read(path: Path, look: Look | None = None) -> InferenceBenchmark:
    """Read the one benchmark in a file, and look at it if asked to. Raises SpecError with all mistakes."""
    return parse(_text(path), str(path), look)


def parse(text: str, name: str, look: Look | None = None) -> InferenceBenchmark:
    """Read the one benchmark in a text; `name` stands for it in messages. Raises SpecError with all mistakes."""
    documents = _documents(text, name)
    if len(documents) > 1:
        line = documents[1].lines[()]
        raise SpecError((f"{name}:{line}: found {len(documents)} documents, expected one: put each in its own file.",))
    benchmark = _benchmark(documents[0])
    if look is not None and (found := look(benchmark)):
        raise SpecError(_sentences(documents[0], found))
    return benchmark


def from_object(
    value: Mapping[str, Any], name: str, *, allow_privileged_pod_templates: bool = False
) -> InferenceBenchmark:
    """Read a benchmark from JSON, as the API server hands it out. Raises SpecError with all mistakes, without lines."""
    return _benchmark(_Document(name, value), {PRIVILEGED: allow_privileged_pod_templates})


# ---- from text to values -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Document:
    """One YAML document as plain values, and where each came from."""

    name: str
    value: Any
    lines: Mapping[Place, int] = field(default_factory=dict)
    mistakes: Mapping[Place, str] = field(default_factory=dict)
    """Found while reading. The value at such a place is None, and nothing else is said about it."""


class _BadYamlError(Exception):
    """What makes the rest of a text unreadable, and its line counted from 1."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError((f"{path}: found no file that can be read: {error.strerror}.",)) from error
    if len(raw) > MAX_BYTES:
        raise SpecError((f"{path}: found more than {MAX_BYTES:,} bytes, expected a benchmark of a few hundred.",))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError((f"{path}:{line}: found the byte {raw[error.start]:#04x}, expected text in UTF-8.",)) from error


def _documents(text: str, name: str) -> list[_Document]:
    try:
        _check_characters(text)
        documents = [_Reader(name).document(node) for node in _nodes(text)]
    except _BadYamlError as error:
        raise SpecError((f"{name}:{error.line}: {error}",)) from error
    if not documents:
        raise SpecError((f"{name}: found nothing, expected an InferenceBenchmark: see examples/minimal.yaml.",))
    return documents


def _check_characters(text: str) -> None:
    if len(text) > MAX_BYTES:
        raise _BadYamlError(1, f"found {len(text):,} characters, expected a benchmark of a few hundred.")
    if (found := yaml.reader.Reader.NON_PRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise _BadYamlError(line, f"found the control character {found.group()!a}, expected text.")


def _check_bounds(line: int, depth: int, values: int) -> None:
    if depth > MAX_DEPTH:
        raise _BadYamlError(line, f"found more than {MAX_DEPTH} levels of nesting, expected a benchmark.")
    if values > MAX_VALUES:
        raise _BadYamlError(line, f"found more than {MAX_VALUES:,} values, expected a benchmark.")


class _Loader(yaml.SafeLoader):
    """Composes nodes like its parent, bounded: deep nesting would end as a RecursionError, many values in minutes."""

    depth = 0
    values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node and what is inside it."""
        self.depth += 1
        self.values += 1
        _check_bounds(self.line + 1, self.depth, self.values)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _nodes(text: str) -> Iterator[yaml.Node]:
    """Compose each document that is not empty."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None and (node.tag != f"{TAG}null" or node.value):
                yield node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = _BadYamlError(mark.line + 1 if mark else 1, _in_plain_words(error))
        raise (_glued(text, mark) if mark and COLON_TO_BLAME.search(str(found)) else None) or found from error
    except ValueError as error:  # a number in an escape or in %YAML that is none
        raise _BadYamlError(loader.line + 1, f"found what is not YAML: {_cut(str(error))}.") from error


COLON_TO_BLAME = re.compile("mapping values|':'")
GLUED = re.compile(r"\s*(- )?[A-Za-z]\w*:[^\s/].*")


def _glued(text: str, mark: yaml.Mark) -> _BadYamlError | None:
    """Blame a line whose value follows its colon at once: that is text to YAML, which goes on to the next colon."""
    *before, last = text.split("\n")[: mark.line + 1]
    told = [(i, line) for i, line in enumerate((*before, last[: mark.column]), start=1) if line.strip()]
    glued = [(i, line.strip()) for i, line in told[-2:] if GLUED.fullmatch(line)]
    return next(
        (_BadYamlError(i, f"found {_cut(line)}, expected a space behind the colon.") for i, line in glued), None
    )


def _in_plain_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "something is missing"
    if r"'\t'" in problem:
        return "found a tab, expected spaces: YAML is not indented with tabs."
    where = f" in column {error.problem_mark.column + 1}" if error.problem_mark else ""
    return f"found what is not YAML{where}: {problem}."


@dataclass(frozen=True)
class _Unclear:
    """A scalar that programs read differently, or that JSON cannot hold."""

    found: str


class _Reader:
    """Turns the nodes of one document into values, and notes lines and mistakes on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Place, int] = {}
        self.mistakes: dict[Place, str] = {}
        self.inside: list[yaml.Node] = []

    def document(self, node: yaml.Node) -> _Document:
        return _Document(self.name, self.value(node, ()), self.lines, self.mistakes)

    def value(self, node: yaml.Node, place: Place) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        _check_bounds(line, len(self.inside), len(self.lines))
        if node in self.inside:
            raise _BadYamlError(line, "found an anchor that contains itself, expected an end.")
        self.inside.append(node)
        value = self._inner(node, place)
        self.inside.pop()
        return value

    def _inner(self, node: yaml.Node, place: Place) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            return dict(self._entries(node, place))
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            return [self.value(item, (*place, i)) for i, item in enumerate(node.value)]
        value = _scalar(node)
        if isinstance(value, _Unclear):
            wanted = schema.at(place)
            meant = _meant(wanted, node.value) if isinstance(node, yaml.ScalarNode) else None
            expected = _in_words(wanted, "" if meant else IN_QUOTES)
            self.mistakes[place] = f"{value.found}, expected {expected}{_ask(meant)}"
            return None
        return value

    def _entries(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = _scalar(key_node)
            if not isinstance(key, str):
                shown = _cut(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                self._note((*place, shown), line, NOT_A_NAME)
            elif key in seen:
                self._note((*place, key), line, f"found it a second time, expected it once: see line {seen[key]}.")
            else:
                seen[key] = self.lines[*place, key] = line
                yield key, self.value(value_node, (*place, key))

    def _note(self, place: Place, line: int, sentence: str) -> None:
        self.mistakes[place] = sentence
        self.lines[place] = line


NOT_A_NAME = "found a name that YAML does not read as text, expected a field: put it in quotes if it is meant."

MEANINGS = {
    "bool": "which some programs read as true or false",
    "float": "a number with a fraction or an exponent",
    "int": "which programs read as different numbers",
    "null": "which some programs read as nothing",
    "str": "which some programs read as a number, true or false",
    "timestamp": "which YAML reads as a date",
}


def _scalar(node: yaml.Node) -> str | int | _Unclear | None:
    """Read a text, an integer, true, false or null, if every program reads it so."""
    text, kind = node.value, node.tag.removeprefix(TAG)
    if kind not in MEANINGS or not isinstance(node, yaml.ScalarNode):
        return _Unclear(f"found the tag {_cut(kind)}")
    if kind in {"bool", "null"} and text in KEYWORDS:
        return KEYWORDS[text]
    if kind == "int" and INTEGER.fullmatch(text) and int(text) in INT64:
        return int(text)
    if kind == "str" and UNWRITABLE.search(text):
        return _Unclear("found a character that no file can hold")
    if kind == "str" and (node.style is not None or not AMBIGUOUS.fullmatch(text)):
        return str(text)
    return _Unclear(f"found {_cut(text)}, {MEANINGS[kind]}")


# ---- from values to a benchmark ------------------------------------------------------------------


def _benchmark(document: _Document, context: Mapping[str, bool] | None = None) -> InferenceBenchmark:
    try:
        benchmark = InferenceBenchmark.model_validate(_authored(document.value), by_name=False, context=context)
    except ValidationError as error:
        found = dict(islice(_inside((), error), MAX_EXPLAINED))
        raise SpecError(_sentences(document, {**_causes(found, document.mistakes), **document.mistakes})) from error
    if document.mistakes:
        raise SpecError(_sentences(document, document.mistakes))
    return benchmark


def _authored(value: Any) -> Any:
    """Leave out what the API server adds to an object."""
    if not isinstance(value, Mapping):
        return value
    authored = {key: item for key, item in value.items() if key != "status"}
    if isinstance(metadata := authored.get("metadata"), Mapping):
        authored["metadata"] = {key: item for key, item in metadata.items() if key not in SET_BY_THE_SERVER}
    return authored


def _causes(found: Mapping[Place, str], read: Mapping[Place, str]) -> Mapping[Place, str]:
    """Leave out what follows from a mistake further in ("found 0 items"), or from one that was met while reading."""
    unread, wrong = _around(read), _around(found)
    return {
        place: sentence
        for place, sentence in found.items()
        if place not in unread
        and not (place in wrong and sentence.startswith(EMPTIED))
        and not _starts_with_any(place, read)
    }


def _around(places: Iterable[Place]) -> set[Place]:
    return {place[:length] for place in places for length in range(len(place))}


def _starts_with_any(place: Place, places: Mapping[Place, str]) -> bool:
    return any(place[:length] in places for length in range(len(place) + 1))


def _inside(place: Place, error: ValidationError) -> Iterator[tuple[Place, str]]:
    """Say what pydantic found at a place and further in."""
    for details in error.errors(include_url=False):
        yield from _explained({**details, "loc": (*place, *details["loc"])})


def _explained(details: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Say in our words what pydantic found; its own never reach anybody."""
    place = tuple(step for step in details["loc"][:MAX_DEPTH] if step not in NOT_IN_THE_FILE)
    kind, context = details["type"], details.get("ctx", {})
    meant, backend = _meant(schema.at(place), details["input"]), _backend_of(place, details["input"])
    wanted = _in_words(schema.at(place), "" if meant else kind)
    if isinstance(cause := context.get("error"), Mistakes):
        yield from ((place + inner, sentence) for inner, sentence in cause.found.items())
        if cause.besides is not None:  # the last word at a place: what a value is comes before what it goes with
            yield from _inside(place, cause.besides)
    elif isinstance(cause, ValidationError):
        yield from _inside(place, cause)
    elif kind == "extra_forbidden":
        yield place, f"found an unknown field, {_known_fields(place)}"
    elif details["loc"][-1:] == ("[key]",):
        names = {"type": "string", **schema.at(place[:-1]).get("propertyNames", {})}
        yield place, f"found an unknown name, expected {_in_words(names, kind)}."
    elif "actual_length" in context and kind in {"too_long", "too_short"}:
        yield place, f"found {context['actual_length']:,} items, expected {wanted}."
    else:
        found = "nothing" if kind == "missing" else _shown(details["input"])
        yield place, f"found {found}, expected {wanted}{_ask(meant) if backend is None else f': {backend}.'}"


def _known_fields(place: Place) -> str:
    word, known = str(place[-1]), schema.fields(place[:-1])
    alike = {candidate.lower(): candidate for candidate in known}
    near = _near(word.lower().replace("_", ""), tuple(alike))
    if near is not None:
        return f"did you mean {alike[near]}?"
    if homes := schema.homes(word):
        return f"expected it in {_path(homes[0])}."
    return f"expected {_choices(known)}."


MIN_PART = 4
"""Letters that a part of a name needs to stand for it; "max" begins many."""


def _near(word: str, known: Sequence[str]) -> str | None:
    """Choose what a word most likely stands for: what it begins, what it is a part of, or what is spelt alike."""
    if len(word) > MAX_SHOWN:  # spelt like nothing, and it would take long to find that out
        return None
    begun = [name for name in known if name.startswith(word)]
    held = [name for name in known if word in name]
    spelt = difflib.get_close_matches(word, known, n=1)
    return next(iter([*begun, *held, *spelt] if len(word) >= MIN_PART else spelt), None)


OTHER_NAMES = {
    "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float8": "fp8", "fp32": "float32",
    "fp16": "float16", "cuda": "gpu",
}  # fmt: skip
"""What PyTorch calls a precision or a device, and what a precision is called as the type of an input."""

FACTOR_SIGN = "x"


def _meant(wanted: schema.Schema, found: object) -> str | None:
    """Guess which value was meant by one that is none: a choice that is spelt alike, a factor without its sign."""
    if "enum" in wanted and isinstance(found, str):
        return _choice(found.lower(), wanted["enum"])
    if not isinstance(found, str | int) or not any(each.endswith(FACTOR_SIGN) for each in wanted.get("examples", ())):
        return None
    factor = f"{found}{FACTOR_SIGN}"
    return factor if re.match(wanted["pattern"], factor) else None


def _choice(word: str, choices: Sequence[str]) -> str | None:
    """Choose by another name or by spelling; of three letters too many things are spelt alike (a tpu is no gpu)."""
    same = next((name for name in (word, OTHER_NAMES.get(word)) if name in choices), None)
    return _near(word, choices) if same is None and len(word) >= MIN_PART else same


def _backend_of(place: Place, found: object) -> str | None:
    """Say so where the value of a backend's option is a backend of its own."""
    if not isinstance(found, str) or len(place) < 2:
        return None
    name = f"{place[-2]}-{found}"
    return f"{found} is a backend of its own, {name}" if name in tuple(Backend) else None


def _ask(meant: str | None) -> str:
    """End a sentence with a question where something else was meant."""
    return "." if meant is None else f": did you mean {meant}?"


IN_QUOTES = "string_type"

IN_WORDS = {
    "integer": "an integer from {minimum} to {maximum}",
    "array": "a list of {minItems} to {maxItems} items",
    "boolean": "true or false",
    None: "a whole number, true, false, a list, a mapping, or text in quotes",
}


def _in_words(wanted: schema.Schema, kind: str = "") -> str:
    """Say what a schema allows ("an integer from 1 to 65536"), with a hint that fits pydantic's kind of error."""
    if "oneOf" in wanted:
        return ", or ".join(_in_words(variant, kind) for variant in wanted["oneOf"])
    if "enum" in wanted:
        return _choices(wanted["enum"])
    if (form := wanted.get("type")) in IN_WORDS:
        return IN_WORDS[form].format(**{"minimum": "any", "maximum": "any", "minItems": 0, "maxItems": "any", **wanted})
    if form == "string":
        longest = f" of at most {wanted.get('maxLength')} characters"
        hints = {"string_too_long": longest, "string_too_short": " that is not empty", IN_QUOTES: " in quotes"}
        return f"{wanted.get('title', 'text')}{hints.get(kind, '')}" + _list(" such as ", wanted.get("examples"))
    limit = f" of at most {wanted['maxProperties']} entries" if "maxProperties" in wanted else ""
    return f"a mapping{limit}" + _list(" with ", wanted.get("required"))


def _list(lead: str, words: Sequence[str] | None) -> str:
    return f"{lead}{', '.join(words)}" if words else ""


def _choices(words: Sequence[str]) -> str:
    return f"one of {', '.join(words)}" if len(words) > 1 else "".join(words) or "none"


def _sentences(document: _Document, mistakes: Mapping[Place, str]) -> tuple[str, ...]:
    """Put file, line and place before each sentence, in the order of the file."""
    order = {place: i for i, place in enumerate(document.lines)}
    placed = [(_nearest(document, place), place) for place in mistakes]
    placed.sort(key=lambda found: (document.lines.get(found[0], 0), order.get(found[0], 0)))
    lines = [_sentence(document, near, place, mistakes[place]) for near, place in placed]
    rest = len(lines) - MAX_MISTAKES
    return (*lines[:MAX_MISTAKES], f"{document.name}: and {rest} more mistakes.") if rest > 0 else tuple(lines)


def _sentence(document: _Document, near: Place, place: Place, sentence: str) -> str:
    line = document.lines.get(near)
    file = document.name if line is None else f"{document.name}:{line}"
    return ": ".join(part for part in (file, _path(place), sentence) if part)


def _nearest(document: _Document, place: Place) -> Place:
    """Return the place, or the nearest around it that is in the file."""
    return next((p for length in range(len(place), 0, -1) if (p := place[:length]) in document.lines), ())


def _path(place: Place) -> str:
    return "".join(_step(step) for step in place).removeprefix(".")


def _step(step: str | int) -> str:
    if isinstance(step, str) and PLAIN_NAME.fullmatch(step):
        return f".{step}"
    return f"[{_shown(step)}]"


def _shown(value: object) -> str:
    """Write a value as the file has it, in a few words."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return "nothing" if value is None else _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 3]}..."
