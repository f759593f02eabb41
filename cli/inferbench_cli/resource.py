"""A resource and its shards -> what local mode reads from its folder: benchmark, plan, results. And its state in words.

Pure: JSON objects in, as the API server hands them out. `kubectl` fetches them, `cluster` puts both together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from inferbench_cli import statuses
from inferbench_contract import document, shards, summary
from inferbench_contract import plan as plans
from inferbench_contract.errors import InferbenchError, PlanError, ResultError, SpecError
from inferbench_contract.plan import Plan
from inferbench_contract.result import SweepResult, printable
from inferbench_contract.shards import Data
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.status import Condition, ShardRef, Status
from inferbench_contract.summary import Summary
from inferbench_contract.words import Judgement

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Where `kubectl apply` keeps a copy of the object inside the object."""

AUTHORED = ("name", "namespace", "labels", "annotations")
"""The metadata that a person writes."""

WHY_NOTHING_RUNS = (
    ("Accepted", "False", "Refused"),
    ("Suspended", "True", "Suspended"),
    ("QuotaReserved", "False", "Waiting for quota"),
    ("Running", "False", "Not running"),
)
"""Condition, status and what to call it: the first that applies is the reason behind those that follow."""

WHAT_WENT_WRONG = (
    ("HardwareUniform", "False", "Not comparable"),
    ("ResultsComplete", "False", "Results are missing"),
    ("Succeeded", "False", "Failed"),
)


class RefusedError(InferbenchError):
    """The cluster answered, and does not hand out what was asked for."""

    exit_status = 2


@dataclass(frozen=True)
class Found:
    """What a cluster knows of a benchmark. `problems`: a sentence for each shard that cannot be used."""

    benchmark: InferenceBenchmark
    manifest: Mapping[str, Any]
    status: Status
    plan: Plan
    results: tuple[SweepResult, ...]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its namespace and name."""
        return called(self.manifest)

    @property
    def is_finished(self) -> bool:
        """Tell whether the operator has ended with it."""
        return is_finished(self.status)

    def summarize(self) -> Summary:
        """Return the answer so far."""
        return summary.summarize(self.benchmark, self.plan, self.results)


def status_of(item: Mapping[str, Any]) -> Status:
    """Read the status of a resource; empty where no operator has looked at it."""
    try:
        return Status.model_validate(item.get("status") or {})
    except ValidationError as error:
        where = ".".join(str(step) for step in error.errors()[0]["loc"])
        raise PlanError(
            f"{called(item)} has a status that this version of inferbench cannot read (status.{where}: "
            f"{error.errors()[0]['msg']}). Use the version that the operator has."
        ) from error


def called(item: Mapping[str, Any]) -> str:
    """Name a resource as people do: `team/resnet50`."""
    metadata = item["metadata"]
    return f"{metadata.get('namespace', 'default')}/{metadata['name']}"


def understand(item: Mapping[str, Any], stored: Mapping[str, Data]) -> Found:
    """Put a resource and its shards together; `stored` is the data of ConfigMaps by their names.

    Raises:
        RefusedError: the operator did not accept the benchmark and has measured nothing, so there is nothing to show.
        SpecError: this version of inferbench does not understand its spec.
        PlanError: its plan cannot be known, or its status cannot be read.
    """
    status = status_of(item)
    refused = _condition(status, "Accepted", "False")
    if refused is not None and not status.shards:
        raise RefusedError(f"{called(item)} is refused ({refused.reason}): {printable(refused.message)}")
    manifest, benchmark = _read(_authored(item), called(item))
    sound, problems = _checked(status.shards, stored)
    plan = _plan(benchmark, status, sound, called(item))
    results, unreadable = _results(sound, plan)
    return Found(benchmark, manifest, status, plan, results, (*problems, *unreadable))


def is_finished(status: Status) -> bool:
    """Tell whether it has ended, in whatever way."""
    return _condition(status, "Finished", "True") is not None


def is_over(status: Status) -> bool:
    """Tell whether waiting brings nothing more."""
    return is_finished(status) or _condition(status, "Accepted", "False") is not None


def state(status: Status, name: str) -> tuple[str, ...]:
    """Say how far a benchmark is and why it goes no further; a finished one says only what went wrong."""
    return (*_progress(status, name), *_in_words(status))


def lag(status: Status, answer: Summary) -> tuple[str, ...]:
    """Say that the operator has counted more sweeps than there are results of in shards, which it writes in bulk."""
    behind = 0 if status.sweeps is None else status.sweeps.finished - answer.sweeps_finished
    if behind <= 0 or is_finished(status) or not answer.best:
        return ()
    return (
        f"The table is of {answer.sweeps_finished} sweeps; the results of {behind} more are stored in some minutes.",
    )


def exit_status(found: Found, answer: Summary) -> int:
    """Return 1 before 4, as `inferbench run` does; one that is not finished has not failed yet."""
    failed = found.problems or (found.is_finished and (_has_failed(found, answer) or not answer.has_measurements))
    if failed:
        return statuses.FAILED
    broken = any(judged.judgement is Judgement.DOES_NOT_HOLD for judged in answer.judged)
    return statuses.EXPECTATION if found.is_finished and broken else 0


def benchmark_yaml(manifest: Mapping[str, Any]) -> str:
    """Write a benchmark as its author would."""
    return yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=True, width=100)


def environment(results: Sequence[SweepResult]) -> dict[str, Any]:
    """Return what results tell of the machines that they come from; empty when they tell nothing."""
    prints = sorted({result.fingerprint for result in results if result.fingerprint})
    hardware = sorted({result.hardware for result in results if result.hardware})
    if not prints:
        return {}
    return {"schemaVersion": 1, "hardware": "; ".join(hardware), "fingerprint": ",".join(prints)}


def _authored(item: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the server and kubectl add."""
    metadata = {key: item["metadata"][key] for key in AUTHORED if item["metadata"].get(key)}
    noted = {key: text for key, text in metadata.pop("annotations", {}).items() if key != LAST_APPLIED}
    metadata |= {"annotations": noted} if noted else {}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata, "spec": item["spec"]}


def _read(manifest: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], InferenceBenchmark]:
    """Read a benchmark. A podTemplate that only a privileged operator takes is left out: it decides no number."""
    try:
        return manifest, document.from_object(manifest, name)
    except SpecError:
        spec = {key: value for key, value in manifest["spec"].items() if key != "podTemplate"}
        manifest = {**manifest, "spec": spec}
        return manifest, document.from_object(manifest, name)


def _checked(told: Sequence[ShardRef], stored: Mapping[str, Data]) -> tuple[Mapping[str, Data], Sequence[str]]:
    """Keep the shards that hold what the operator wrote, in their order."""
    wrong = {ref.config_map: problem for ref in told if (problem := _problem(ref, stored.get(ref.config_map)))}
    return {ref.config_map: stored[ref.config_map] for ref in told if ref.config_map not in wrong}, [*wrong.values()]


def _problem(ref: ShardRef, data: Data | None) -> str | None:
    lost = f"the results of {ref.sweeps} sweeps are missing here."
    if data is None:
        return f"ConfigMap {ref.config_map} is gone: {lost}"
    if (found := shards.checksum(data)) != ref.sha256:
        told = f"its sha256 is {found[:12]}, the status says {ref.sha256[:12]}"
        return f"ConfigMap {ref.config_map} is not what the operator stored ({told}): {lost}"
    return None


def _plan(benchmark: InferenceBenchmark, status: Status, sound: Mapping[str, Data], name: str) -> Plan:
    """Read the plan that was carried out. Without a shard that holds it, it is the one that follows from the spec."""
    stored = (shards.plan_of(data, f"ConfigMap {shard}") for shard, data in sound.items())
    plan = next((plan for plan in stored if plan is not None), None) or plans.expand(benchmark)
    if status.plan is not None and status.plan.hash != plan.short_hash and sound:
        raise PlanError(
            f"{name} was measured by plan {status.plan.hash}, and its spec is plan {plan.short_hash} for this version "
            "of inferbench, so its results cannot be read. Use the version that the operator has."
        )
    return plan


def _results(sound: Mapping[str, Data], plan: Plan) -> tuple[tuple[SweepResult, ...], Sequence[str]]:
    """Read all results, one per sweep: of several the last, as the operator does."""
    found: dict[int, SweepResult] = {}
    problems = []
    for name, data in sound.items():
        try:
            found |= {result.sweep: result for result in shards.unpack(data, plan)}
        except ResultError as error:
            problems.append(f"ConfigMap {name} cannot be read: {error}.")
    return tuple(found[sweep] for sweep in sorted(found)), problems


def _progress(status: Status, name: str) -> Iterator[str]:
    if not status.conditions:
        yield (
            f"No operator has looked at {name} yet. Does one run in this cluster, and does it watch this namespace? "
            "kubectl get deployments --all-namespaces --selector app.kubernetes.io/name=inferbench"
        )
    elif not is_finished(status):
        yield f"{name} is not finished: {_counted(status)}."


def _counted(status: Status) -> str:
    if status.sweeps is None or status.cells is None:
        return "nothing is measured yet"
    failed = f", {status.cells.failed} of {status.cells.planned} cells failed" if status.cells.failed else ""
    best = f", best so far {status.best}" if status.best else ""
    return f"{status.sweeps.finished} of {status.sweeps.planned} sweeps{failed}{best}"


def _in_words(status: Status) -> Iterator[str]:
    table = WHAT_WENT_WRONG if is_finished(status) else WHY_NOTHING_RUNS
    told = [(words, found) for kind, value, words in table if (found := _condition(status, kind, value))]
    for words, found in told if is_finished(status) else told[:1]:
        yield f"{words} ({printable(found.reason)}): {printable(found.message) or 'no more is known.'}"


def _condition(status: Status, kind: str, value: str) -> Condition | None:
    return next((found for found in status.conditions if (found.type, found.status) == (kind, value)), None)


def _has_failed(found: Found, answer: Summary) -> bool:
    spec = found.benchmark.spec
    too_many = summary.failed_cells(answer, spec) > spec.max_failed_cells
    return too_many or _condition(found.status, "Succeeded", "False") is not None
