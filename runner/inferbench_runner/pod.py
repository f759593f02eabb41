"""One sweep inside a Kubernetes pod: the environment says which, the termination message takes its result.

The pod has no token and asks nobody. Nothing that it writes outlives it but that message, so it is opened first, holds
the cell in flight before that cell starts, and gets a sentence also where nothing can be measured.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from inferbench_contract import plan as plans
from inferbench_contract import ranges, sentences
from inferbench_contract import result as results
from inferbench_contract.errors import InferbenchError
from inferbench_contract.handshake import (
    INDEX_VARIABLE,
    METRICS_PORT,
    METRICS_PORT_VARIABLE,
    MODELS_FOLDER,
    MODELS_VARIABLE,
    PLAN_FILE_VARIABLE,
    PLAN_VARIABLE,
    SWEEPS_VARIABLE,
    TERMINATION_LOG_VARIABLE,
)
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import SweepResult
from inferbench_runner import artifacts, sweep, termination
from inferbench_runner.live import Live, Moment, printable
from inferbench_runner.termination import TerminationMessage

LAST_PORT: Final = 65_535

MAX_SENTENCE_CHARS: Final = 1_000
"""Of what is wrong with the environment; in UTF-8 it fits into the termination message whatever its letters are."""

Environment = Mapping[str, str]


class WrongEnvironment(InferbenchError):
    """The environment of the pod asks for nothing that can be done; a line for each mistake."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the environment of a pod asks for."""

    plan: str
    """As JSON."""
    plan_source: str
    """The variable or the file that holds it."""
    index: int
    sweeps: tuple[int, ...] | None
    """The sweeps that `index` counts in; None: those of the plan."""
    model_folder: Path
    cache: Path
    metrics_port: int
    """0: there are no metrics."""

    @property
    def sweep(self) -> int:
        """The index of the sweep in the plan. Raises WrongEnvironment where the list has none."""
        if self.sweeps is None:
            return self.index
        if self.index >= len(self.sweeps):
            listed, last = ranges.format_sweeps(self.sweeps), len(self.sweeps) - 1
            what = f"{SWEEPS_VARIABLE} is {listed}, expected an index from 0 to {last}"
            raise WrongEnvironment(f"{INDEX_VARIABLE} is {self.index} and {what}")
        return self.sweeps[self.index]


def run(environment: Environment, is_asked_to_stop: Callable[[], bool]) -> None:
    """Measure the sweep that the environment names, and leave its result in the termination message.

    Raises:
        InferbenchError: the environment or the plan is wrong.
        EnvironmentFault: the machine cannot do it, and no retry would help; the message says so too.
        AskedToStop: somebody asked; the message holds what was measured.
    """
    path = Path(environment.get(TERMINATION_LOG_VARIABLE) or termination.KUBERNETES_FILE)
    with TerminationMessage(path) as message:
        asked, plan = _understood(environment, message)
        wanted = _sweep(asked, plan, message)
        _say(_place_in(plan, wanted))
        live = Live(wanted, SweepResult(plan.short_hash, wanted.index))
        if asked.metrics_port:
            threading.Thread(target=_export, args=(live, asked.metrics_port), daemon=True).start()
        _measure(plan, wanted, message, live, _place(asked, live, is_asked_to_stop))


def read(environment: Environment) -> Asked:
    """Read the environment. Raises WrongEnvironment with every mistake in it."""
    found = [_mistake(parse, environment) for parse in (_plan, _index, _sweeps, _port)]
    if mistakes := [mistake for mistake in found if mistake is not None]:
        raise WrongEnvironment("\n".join(mistakes))
    plan, source = _plan(environment)
    return Asked(
        plan=plan,
        plan_source=source,
        index=_index(environment),
        sweeps=_sweeps(environment),
        model_folder=Path(environment.get(MODELS_VARIABLE) or MODELS_FOLDER).absolute(),
        cache=artifacts.default_folder(environment),
        metrics_port=_port(environment),
    )


def _mistake(parse: Callable[[Environment], object], environment: Environment) -> str | None:
    try:
        parse(environment)
    except ValueError as error:
        return str(error)
    return None


def _plan(environment: Environment) -> tuple[str, str]:
    """Return the plan's text and where it was found."""
    text, file = environment.get(PLAN_VARIABLE), environment.get(PLAN_FILE_VARIABLE)
    if bool(text) is bool(file):
        count = "both are" if text else "none is"
        where = f"in {PLAN_VARIABLE} or in the file that {PLAN_FILE_VARIABLE} names"
        raise ValueError(f"expected the plan {where}, and {count} set")
    if text:
        return text, PLAN_VARIABLE
    try:
        return Path(str(file)).read_text(encoding="utf-8"), str(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{PLAN_FILE_VARIABLE} names {file}, which cannot be read: {error}") from error


def _index(environment: Environment) -> int:
    text = environment.get(INDEX_VARIABLE, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        what = f"is {text!r}" if text else "is not set"
        wanted = "expected a whole number, as Kubernetes gives it to pods of an Indexed Job"
        raise ValueError(f"{INDEX_VARIABLE} {what}, {wanted}")
    return int(text)


def _sweeps(environment: Environment) -> tuple[int, ...] | None:
    text = environment.get(SWEEPS_VARIABLE)
    try:
        return ranges.parse_sweeps(text) if text else None
    except ValueError as error:
        raise ValueError(f"{SWEEPS_VARIABLE}: {error}") from error


def _port(environment: Environment) -> int:
    text = environment.get(METRICS_PORT_VARIABLE) or str(METRICS_PORT)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= LAST_PORT):
        wanted = f"expected a port from 1 to {LAST_PORT}, or 0 for no metrics"
        raise ValueError(f"{METRICS_PORT_VARIABLE} is {text!r}, {wanted}")
    return int(text)


def _understood(environment: Environment, message: TerminationMessage) -> tuple[Asked, Plan]:
    """Read the environment and the plan in it. What is wrong becomes the message, for there is no result to hold it."""
    try:
        asked = read(environment)
        return asked, plans.load(asked.plan, asked.plan_source, "Use the runner image of the operator's version.")
    except InferbenchError as error:
        message.write(results.cut_in_the_middle(str(error), MAX_SENTENCE_CHARS).encode(errors="replace"))
        raise


def _sweep(asked: Asked, plan: Plan, message: TerminationMessage) -> Sweep:
    """Find the sweep that is asked for. Where the plan has none, the message says so as a result of that plan."""
    try:
        if asked.sweep >= len(plan.sweeps):
            raise WrongEnvironment(f"sweep {asked.sweep} is asked for; the plan has sweeps 0 to {len(plan.sweeps) - 1}")
        return plan.sweeps[asked.sweep]
    except WrongEnvironment as error:
        message.write(results.encode(SweepResult(plan.short_hash, asked.index, fault=str(error))))
        raise


def _measure(plan: Plan, wanted: Sweep, message: TerminationMessage, live: Live, place: sweep.Place) -> None:
    def deliver(result: SweepResult) -> None:
        message.write(results.encode(result))
        live.deliver(result)

    try:
        sweep.run(plan, wanted, deliver, place)
    except sweep.AskedToStop:
        _say("asked to stop; what was measured is kept")
        raise
    except InferbenchError as error:
        deliver(replace(live.result, in_flight=None, fault=str(error)))
        raise


def _place(asked: Asked, live: Live, is_asked_to_stop: Callable[[], bool]) -> sweep.Place:
    log = Log()

    def tell(said: Mapping[str, Any]) -> None:
        log.hear(said)
        if said.get("event") == "progress":
            live.hear(said)

    return sweep.Place(
        model_folder=asked.model_folder,
        cache=asked.cache,
        samples=None,
        logs=None,
        tell=tell,
        is_asked_to_stop=is_asked_to_stop,
        see=live.see,
    )


class Log:
    """Tells the people who read the pod's log what happens: a line for each new stage, a line for each cell's end."""

    def __init__(self) -> None:
        self._last = ""

    def hear(self, said: Mapping[str, Any]) -> None:
        """Print what is new. A cell reports twice a second, mostly the same stage again.

        That a model fails for all sweeps is for who runs them all; here the cells' reasons say it.
        """
        if said.get("event") not in {"cell", "progress"}:
            return
        line = _cell(said) if said.get("event") == "cell" else _stage(Moment.heard(said))
        if line != self._last:
            _say(line)
        self._last = line


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (it is the pod's log)


def _stage(moment: Moment) -> str:
    return moment.stage if moment.batch_size is None else f"batch {moment.batch_size}: {moment.stage}"


def _cell(said: Mapping[str, Any]) -> str:
    latency_ns, reason = said.get("latencyNanoseconds"), printable(said.get("reason"))
    numbers = f", {sentences.duration(latency_ns)}" if isinstance(latency_ns, int) else ""
    return f"batch {said['batchSize']}: {said['outcome']}{numbers}" + (f". {reason}" if reason else "")


def _place_in(plan: Plan, wanted: Sweep) -> str:
    number, of = wanted.index + 1, len(plan.sweeps)
    sizes = ", ".join(map(str, wanted.batch_sizes))
    return f"sweep {number} of {of}, {wanted.strategy}, round {wanted.round + 1} of {plan.rounds}, batch {sizes}"


def _export(live: Live, port: int) -> None:
    """Serve the metrics. It has a thread of its own so that no sweep waits for its imports, or for a name server."""
    try:
        from inferbench_runner import exporter

        exporter.serve(live, port)
    except (ImportError, OSError) as error:
        why = f"There are no metrics at port {port} ({error}); the sweep is measured all the same."
        sys.stderr.write(f"{why} Set {METRICS_PORT_VARIABLE} to a port that is free, or to 0.\n")
