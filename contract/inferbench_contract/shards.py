"""Shards: where results stay once the pods that measured them are gone. Each is the data of an immutable ConfigMap.

`results.jsonl` holds one result per line, as `result.encode` writes it; the first shard of a benchmark also holds
`plan.json`, so that the rows can be read when the Job that carried the plan is gone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract.errors import ResultError
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import SweepResult

PLAN = "plan.json"
RESULTS = "results.jsonl"

MAX_RESULTS = 128
"""In a shard: 128 results of 4,096 bytes are half of the 1 MiB that a ConfigMap may hold, beside a plan of 40 kB."""

Data = Mapping[str, str]


def pack(found: Iterable[SweepResult], plan: Plan | None = None) -> dict[str, str]:
    """Write results, ordered by sweep, and the plan where it is given. The same results give the same bytes."""
    lines = [results.encode(result).decode() for result in sorted(found, key=lambda result: result.sweep)]
    data = {RESULTS: "".join(f"{line}\n" for line in lines)}
    return data if plan is None else {PLAN: plan.dump(), **data}


def plan_of(data: Data, source: str) -> Plan | None:
    """Read the plan of a first shard; None in any other. `source` names it. Raises PlanError where it is none."""
    return plans.load(data[PLAN], source, "Run the benchmark again.") if PLAN in data else None


def unpack(data: Data, plan: Plan) -> tuple[SweepResult, ...]:
    """Read the results of a shard.

    Raises:
        ResultError: a line is no result of a sweep of this plan, or a cell in it cannot be read.
    """
    return tuple(_result(line, plan) for line in data.get(RESULTS, "").split("\n") if line)


def checksum(data: Data) -> str:
    """Return the sha256 of a shard's data, in hexadecimal; the order of its keys does not matter."""
    canonical = json.dumps(dict(data), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _result(line: str, plan: Plan) -> SweepResult:
    decoded = results.decode(line.encode(), plan, _sweep(line, plan))
    if decoded.problems:
        raise ResultError("WrongType", "; ".join(decoded.problems))
    return decoded.result


def _sweep(line: str, plan: Plan) -> Sweep:
    try:
        index = json.loads(line)["sweep"]
        return plan.sweeps[index if index >= 0 else len(plan.sweeps)]
    except (ValueError, TypeError, LookupError) as error:
        raise ResultError("WrongSweep", f"a line of {RESULTS} names no sweep of plan {plan.short_hash}") from error
