"""The statements of a benchmark that the run judges, as its author writes them, and what is wrong with one.

Each field may be right by itself and say nothing together with the others, or nothing that the benchmark measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ModelWrapValidatorHandler, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from inferbench_contract.fields import (
    MAX_ITEMS,
    BatchSizes,
    Boolean,
    Factor,
    Model,
    Percent,
    ShortName,
    bounded,
    fraction,
)
from inferbench_contract.places import Place, choices, refuse
from inferbench_contract.words import Backend, Cell, Precision, Strategy

STRATEGY = "[a-z0-9-]+/[a-z0-9-]+"

Operand = Strategy | Cell


def operand(text: str) -> Operand:
    """Read `backend/precision` or `backend/precision@batchSize`. Raises ValueError that names the unknown part."""
    strategy, at, batch_size = text.partition("@")
    return Cell(Strategy.parse(strategy), int(batch_size)) if at else Strategy.parse(strategy)


def _known(text: str) -> str:
    backend, _, precision = text.partition("@")[0].partition("/")
    wrong = [
        f"instead of {word or 'nothing'} one of {', '.join(words)}"
        for word, words in ((backend, Backend), (precision, Precision))
        if word not in set(words)
    ]
    refuse({(): f'found "{text}", expected {", and ".join(wrong)}.'} if wrong else {})
    return text


StrategyText = Annotated[str, bounded(64, f"^{STRATEGY}$", "a strategy", "torch-eager/fp32"), AfterValidator(_known)]
OperandText = Annotated[
    str,
    bounded(64, f"^{STRATEGY}(@[1-9][0-9]{{0,4}})?$", "a strategy or a cell", "torch-eager/fp32", "torch-eager/fp32@8"),
    AfterValidator(_known),
]


def _pairs(left: Operand, right: Operand, batch_sizes: Sequence[int]) -> tuple[tuple[Cell, Cell], ...]:
    if isinstance(left, Cell) and isinstance(right, Cell):
        return ((left, right),)
    return tuple((_at(left, batch_size), _at(right, batch_size)) for batch_size in batch_sizes)


def _at(side: Operand, batch_size: int) -> Cell:
    return side if isinstance(side, Cell) else Cell(side, batch_size)


class Comparison(Model):
    """How much faster one strategy is than another."""

    faster: StrategyText
    """The strategy that is ahead."""
    than: StrategyText
    """The strategy that it is ahead of."""

    def pairs(self, batch_sizes: Sequence[int]) -> tuple[tuple[Cell, Cell], ...]:
        """Return the cells (faster, than) of each batch size."""
        return _pairs(operand(self.faster), operand(self.than), batch_sizes)


class ExpectationForm(StrEnum):
    """The statements that an expectation can make."""

    FASTER = "faster"
    """`faster` takes less time than `than`, at every batch size, by more than `by`."""
    EQUAL = "equal"
    """`equal` and `to` take the same time to within `within`, at every batch size."""
    LEAD_GROWS = "lead grows"
    """The lead of `faster` at the largest batch size is more than `by` times its lead at the smallest."""
    LEADS_MORE = "leads more"
    """The lead of `faster` is more than `by` times the lead in `byMoreThan`, at every batch size."""


class Expectation(Model):
    """A statement that the run judges: Holds, DoesNotHold or Undecided.

    Operands are strategies, compared at every batch size or those in batchSizes, or two cells like torch-eager/fp32@8.
    """

    name: ShortName
    """A short name of the statement."""
    faster: OperandText | None = None
    """What takes less time. Goes with `than`."""
    than: OperandText | None = None
    """What takes more time."""
    by: Factor | None = None
    """What the ratio has to be larger than; without it 1x."""
    grows_with_batch_size: Boolean = False
    """Instead says: the lead of `faster` is larger at the largest batch size than at the smallest."""
    by_more_than: Comparison | None = None
    """Instead says: the lead of `faster` is larger than this other lead."""
    equal: OperandText | None = None
    """What takes as long as `to`, to within `within`."""
    to: OperandText | None = None
    """The other one of the two."""
    within: Percent | None = None
    """How far apart the two may be."""
    batch_sizes: BatchSizes | None = None
    """The batch sizes that it speaks of; without them all. All must hold; any that fails decides."""

    @property
    def form(self) -> ExpectationForm:
        """Which statement it is."""
        if self.equal is not None:
            return ExpectationForm.EQUAL
        if self.grows_with_batch_size:
            return ExpectationForm.LEAD_GROWS
        return ExpectationForm.LEADS_MORE if self.by_more_than is not None else ExpectationForm.FASTER

    @property
    def operands(self) -> tuple[Operand, Operand]:
        """(faster, than), or (equal, to)."""
        return operand(self.faster or self.equal or ""), operand(self.than or self.to or "")

    @property
    def factor(self) -> Fraction:
        """`by` as a number: what the ratio (or the ratio of ratios) has to exceed."""
        return fraction(self.by) if self.by is not None else Fraction(1)

    @property
    def tolerance(self) -> Fraction:
        """`within` as a number."""
        return fraction(self.within or "0%")

    def sizes(self, planned: Sequence[int]) -> tuple[int, ...]:
        """Return the batch sizes that it speaks of, ascending; `planned` are all of the benchmark."""
        return tuple(sorted(self.batch_sizes or planned))

    def pairs(self, planned: Sequence[int]) -> tuple[tuple[Cell, Cell], ...]:
        """Return the cells that it compares: one pair for each batch size, or the two cells that it names."""
        return _pairs(*self.operands, self.sizes(planned))

    @model_validator(mode="wrap")
    @classmethod
    def _makes_one_statement(cls, given: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Look at the whole also where a field is wrong by itself, so that neither mistake hides the other."""
        try:
            expectation = read(given)
        except ValidationError as error:
            refuse(dict(_contradictions(_said(given))), error)
            raise
        refuse(dict(_contradictions(_said(expectation))))
        return expectation


OPERAND: TypeAdapter[str] = TypeAdapter(OperandText)

SIDES = (("faster", "than"), ("equal", "to"))

FORMS = (
    (frozenset({"faster", "than"}), frozenset({"by", "growsWithBatchSize", "byMoreThan"})),
    (frozenset({"equal", "to", "within"}), frozenset[str]()),
)
"""What each kind of statement needs, and what it may have."""


def _said(given: object) -> Mapping[str, Any]:
    """Return the fields of an expectation as the file has them: of one that was read, or of one that could not be."""
    if isinstance(given, Expectation):
        return given.model_dump(by_alias=True)
    return given if isinstance(given, Mapping) else {}


def _side(text: object) -> Operand | None:
    """Read one side; None where there is none, or where it is wrong by itself."""
    try:
        return operand(OPERAND.validate_python(text))
    except ValueError:
        return None


def _contradictions(said: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Find what the fields of an expectation, each right by itself, do not say together."""
    yield from _without_form(said)
    for left_name, right_name in SIDES:
        left, right = _side(said.get(left_name)), _side(said.get(right_name))
        if left is not None and right is not None and isinstance(left, Cell) is not isinstance(right, Cell):
            yield (right_name,), f"found {left} and {right}, expected two strategies or two cells."
        if left is not None and left == right:
            yield (right_name,), f"found {left} on both sides, expected two different ones."
        if isinstance(left, Cell):
            yield from _beside_cells(said)
    if said.get("growsWithBatchSize") is True and said.get("byMoreThan") is not None:
        yield ("byMoreThan",), "found growsWithBatchSize and byMoreThan, expected one of them: write two expectations."
    if isinstance(within := said.get("within"), str) and set(within) <= set("0.%"):
        yield ("within",), f"found {within}, expected more: no two measurements are the same."


def _without_form(said: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Find a field too many, or one too few: unless an unknown one may be meant for it, which is told anyway."""
    known = {to_camel(name) for name in Expectation.model_fields}
    given = {name for name in known - {"name", "batchSizes"} if said.get(name) not in (None, False)}
    needed, allowed = FORMS["equal" in given]
    strange, missing = sorted(given - needed - allowed), sorted(needed - given)
    if strange or (missing and said.keys() <= known):
        found = ", ".join(sorted(given)) or "none of them"
        yield (next(iter([*strange, *missing])),), f"found {found}, expected faster and than, or equal, to and within."


def _beside_cells(said: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for name in ("batchSizes", "growsWithBatchSize", "byMoreThan"):
        if said.get(name):
            yield (name,), "found it beside two cells, expected it beside two strategies."


# ---- beside what the benchmark measures ----------------------------------------------------------


def unmet(given: object, planned: Sequence[Strategy], sizes: Sequence[int]) -> Iterator[tuple[Place, str]]:
    """Find what a list of expectations says twice, or says of what the benchmark does not measure."""
    said = [_said(item) for item in _items(given)]
    names = [each.get("name") for each in said]
    for i, name in enumerate(names):
        if isinstance(name, str) and name in names[:i]:
            yield (i, "name"), f'found "{name}" a second time, expected each once.'
        yield from (((i, *place), sentence) for place, sentence in _unplanned(said[i], planned, sizes))


def _items(given: object) -> Sequence[Any]:
    """Return the items of what should be a list; a list that is too long is a mistake as a whole."""
    return given if isinstance(given, list | tuple) and len(given) <= MAX_ITEMS else ()


def _unplanned(
    said: Mapping[str, Any], planned: Sequence[Strategy], sizes: Sequence[int]
) -> Iterator[tuple[Place, str]]:
    """Find what an expectation names and the benchmark does not measure, as far as what that measures is known."""
    lead = said.get("byMoreThan")
    sides: dict[Place, object] = {(name,): said.get(name) for pair in SIDES for name in pair}
    sides |= {("byMoreThan", name): lead.get(name) for name in SIDES[0]} if isinstance(lead, Mapping) else {}
    for place, text in sides.items():
        yield from ((place, sentence) for sentence in _unmeasured(_side(text), planned, sizes))
    asked = _items(said.get("batchSizes"))
    for i, batch_size in enumerate(asked):
        if sizes and batch_size not in sizes:
            yield ("batchSizes", i), f"found {batch_size}, expected one of the benchmark's: {choices(sizes)}."
    if said.get("growsWithBatchSize") is True and len({*map(str, asked or sizes)}) == 1:
        yield ("growsWithBatchSize",), "found one batch size, expected at least two to grow with."


def _unmeasured(side: Operand | None, planned: Sequence[Strategy], sizes: Sequence[int]) -> Iterator[str]:
    if side is None:
        return
    strategy = side.strategy if isinstance(side, Cell) else side
    wrong = []
    if planned and strategy not in planned:
        wrong.append(f"found {strategy}, expected one of this benchmark: {choices(planned)}.")
    if sizes and isinstance(side, Cell) and side.batch_size not in sizes:
        wrong.append(f"found batch size {side.batch_size}, expected one of the benchmark's: {choices(sizes)}.")
    if wrong:
        yield " ".join(wrong)
