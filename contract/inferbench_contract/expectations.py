"""Judges what a benchmark's author expects: `Holds`, `DoesNotHold` or `Undecided`, with the ratio that decided.

Every statement is about ratios of latencies, paired by round. All of its ratios must hold, so for `Holds` none is
corrected for being one of many (an intersection-union test); for `DoesNotHold` each is: any one of them decides. One
that fails decides, else one that is open, else the closest one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferbench_contract import evidence
from inferbench_contract.cells import Table
from inferbench_contract.evidence import Estimate
from inferbench_contract.statements import Expectation, ExpectationForm
from inferbench_contract.words import Cell, Judgement

Logs = Mapping[int, float]
"""Logarithm of a ratio by round."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of an expectation. `ratio` decided, at `place`; `missing` names cells that lack numbers for it."""

    name: str
    statement: str
    judgement: Judgement
    place: str
    ratio: Estimate | None
    missing: tuple[Cell, ...]
    one_of: int = 1
    """How many ratios had to be allowed for, where that alone kept it open: by itself this one fails."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """One ratio that a statement is about."""

    place: str
    logs: Logs
    cells: tuple[Cell, ...]

    @property
    def ratio(self) -> Estimate | None:
        return evidence.from_logs([self.logs[round_] for round_ in sorted(self.logs)])


def judge(expectation: Expectation, table: Table) -> Judged:
    """Judge one expectation by the rounds that have all the cells which it names."""
    claims = _claims(expectation, table)
    judged = [(_judge(claim.ratio, expectation, len(claims)), claim) for claim in claims]
    order = (Judgement.DOES_NOT_HOLD, Judgement.UNDECIDED, Judgement.HOLDS)
    judgement, claim = min(judged, key=lambda pair: (order.index(pair[0]), _room(pair[1].ratio, expectation)))
    missing = tuple(cell for cell in claim.cells if not table.medians(cell))
    alone = _judge(claim.ratio, expectation, 1)
    one_of = len(claims) if judgement is not alone else 1
    return Judged(expectation.name, statement(expectation), judgement, claim.place, claim.ratio, missing, one_of)


def statement(expectation: Expectation) -> str:
    """Say an expectation in words."""
    left, right = expectation.operands
    sizes = expectation.batch_sizes
    where = "" if not sizes else f" at batch {', '.join(map(str, sorted(sizes)))}"
    by = "" if expectation.by is None else f" by more than {expectation.by}"
    match expectation.form:
        case ExpectationForm.EQUAL:
            return f"{left} takes as long as {right}, to within {expectation.within}{where}"
        case ExpectationForm.LEAD_GROWS:
            return f"the lead of {left} over {right} grows with the batch size{by}{where}"
        case ExpectationForm.LEADS_MORE:
            other = expectation.by_more_than
            lead = f"{other.faster} over {other.than}" if other else ""
            return f"the lead of {left} over {right} is larger than that of {lead}{by}{where}"
        case ExpectationForm.FASTER:
            return f"{left} is faster than {right}{by}{where}"


def document(judged: Judged) -> dict[str, Any]:
    """Return it as the summary's JSON holds it."""
    entry: dict[str, Any] = {"name": judged.name, "judgement": str(judged.judgement), "at": judged.place}
    if judged.ratio is not None:
        bounds = (("ratioMilli", judged.ratio.value), ("lowMilli", judged.ratio.low), ("highMilli", judged.ratio.high))
        entry |= {name: evidence.milli(value) for name, value in bounds if value is not None}
    return entry


def _judge(ratio: Estimate | None, expectation: Expectation, claims: int) -> Judgement:
    if expectation.form is ExpectationForm.EQUAL:
        return evidence.lies_within(ratio, expectation.tolerance, claims)
    return evidence.exceeds(ratio, expectation.factor, claims)


def _room(ratio: Estimate | None, expectation: Expectation) -> float:
    """Order claims of one judgement: one without a ratio, then the one that has least room, or is farthest off.

    That is the lowest ratio; where two are to be equal, the one that is farthest from 1 in either direction.
    """
    if ratio is None:
        return -math.inf
    return -abs(math.log(ratio.value)) if expectation.form is ExpectationForm.EQUAL else ratio.value


def _claims(expectation: Expectation, table: Table) -> Sequence[_Claim]:
    pairs = expectation.pairs(table.batch_sizes)
    leads = [_lead(faster, than, table) for faster, than in pairs]
    match expectation.form:
        case ExpectationForm.LEAD_GROWS:
            first, last = leads[0], leads[-1]
            place = f"batch {pairs[-1][0].batch_size} over batch {pairs[0][0].batch_size}"
            return [_over(last, first, place)]
        case ExpectationForm.LEADS_MORE:
            other = expectation.by_more_than
            sizes = expectation.sizes(table.batch_sizes)
            others = [_lead(faster, than, table) for faster, than in other.pairs(sizes)] if other else []
            return [_over(lead, other_lead, lead.place) for lead, other_lead in zip(leads, others, strict=True)]
        case _:
            return leads


def _lead(faster: Cell, than: Cell, table: Table) -> _Claim:
    """Return the latency of `than` over that of `faster`."""
    ahead, behind = table.medians(faster), table.medians(than)
    logs = {r: math.log(behind[r] / ahead[r]) for r in ahead.keys() & behind.keys()}
    same_size = faster.batch_size == than.batch_size
    place = f"batch {faster.batch_size}" if same_size else f"batch {faster.batch_size} and {than.batch_size}"
    return _Claim(place, logs, (faster, than))


def _over(lead: _Claim, other: _Claim, place: str) -> _Claim:
    """Return the ratio of two leads, in the rounds that have both."""
    logs = {r: lead.logs[r] - other.logs[r] for r in lead.logs.keys() & other.logs.keys()}
    return _Claim(place, logs, (*lead.cells, *other.cells))
