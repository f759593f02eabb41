"""The runner program: `sweep` and `pod` measure a sweep of a plan; `backends` and `environment` tell of this machine.

`export` hands a measured cell over, `look` looks at a model's files.

Exit statuses: 0 every cell has an outcome; 43 the plan or the arguments are wrong; 44 an environment fault;
143 it was asked to stop (SIGTERM) and delivered what it had.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract.capabilities import support
from inferbench_contract.errors import EnvironmentFault, InferbenchError, ResultError
from inferbench_contract.handshake import ASKED_TO_STOP_STATUS, BAD_CONFIGURATION_STATUS, ENVIRONMENT_FAULT_STATUS
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import SweepResult
from inferbench_contract.spec import WeightsFile
from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy
from inferbench_runner import artifacts, backends, environment, garbage, lifeline, pod, privacy, sinks, sweep

MODEL_FOLDER_HELP = "what relative paths of the model start from"


def main() -> int:
    """Run the program; errors become one sentence on standard error and their exit status."""
    lifeline.hold()
    garbage.search_rarely()
    os.environ.update(privacy.VARIABLES)
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except EnvironmentFault as fault:
        print(fault, file=sys.stderr)
        return ENVIRONMENT_FAULT_STATUS
    except sweep.AskedToStop:
        return ASKED_TO_STOP_STATUS
    except InferbenchError as error:
        print(error, file=sys.stderr)
        return BAD_CONFIGURATION_STATUS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inferbench-runner", description=__doc__)
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("sweep", help="measure one sweep of a plan")
    measure.add_argument("--plan", type=Path, required=True)
    measure.add_argument("--index", type=int, required=True)
    measure.add_argument("--output", type=Path, required=True, help="folder for results/, samples/ and logs/")
    measure.add_argument("--model-folder", type=Path, required=True, help=MODEL_FOLDER_HELP)
    measure.add_argument("--model-sha256", help="of the model's files; nothing is measured where they have another")
    measure.set_defaults(run=_sweep)
    commands.add_parser("pod", help="measure the sweep that a pod's environment names").set_defaults(run=_pod)
    tell = commands.add_parser("backends", help="what works on this machine, as JSON")
    tell.add_argument("--device", type=Device, choices=list(Device), default=Device.CPU)
    tell.set_defaults(run=_backends)
    commands.add_parser("export", help="hand a measured cell over; reads JSON").set_defaults(run=_export)
    commands.add_parser("look", help="what is wrong with a model's files; reads JSON").set_defaults(run=_look)
    describe = commands.add_parser("environment", help="this machine, as JSON; with a plan what it means for it too")
    describe.add_argument("--plan", type=Path)
    describe.add_argument("--model-folder", type=Path, default=Path(), help=MODEL_FOLDER_HELP)
    describe.set_defaults(run=_environment)
    return parser


def _sweep(arguments: argparse.Namespace) -> int:
    plan = plans.load(arguments.plan.read_text(), str(arguments.plan))
    if not 0 <= arguments.index < len(plan.sweeps):
        raise InferbenchError(f"--index is {arguments.index}; the plan has sweeps 0 to {len(plan.sweeps) - 1}")
    wanted = plan.sweeps[arguments.index]
    _require_same_model(plan, arguments)
    file = arguments.output / "results" / f"{wanted.index}.json"

    def deliver(result: SweepResult) -> None:
        sinks.write_whole(file, results.encode(result))

    sweep.run(plan, wanted, deliver, _place(arguments), _previous(file, plan, wanted))
    if plan.work.model.python is not None:  # each of its cells has imported it anew
        _drop_if_changed(plan, arguments, file)
    return 0


def _drop_if_changed(plan: Plan, arguments: argparse.Namespace, file: Path) -> None:
    """Take back what a sweep delivered while somebody worked on its model: nobody knows which cell measured what."""
    try:
        _require_same_model(plan, arguments)
    except InferbenchError:
        file.unlink(missing_ok=True)
        raise


def _require_same_model(plan: Plan, arguments: argparse.Namespace) -> None:
    """Refuse to put rounds of one model beside those of another: somebody may work on it while it is measured."""
    begun_with = arguments.model_sha256
    if begun_with is not None and _model_digest(plan, arguments.model_folder.absolute()) != begun_with:
        raise EnvironmentFault(
            f"The model in {arguments.model_folder.absolute()} was changed while it was measured, so the run ends "
            "here. What is kept is of the old one: put that back and run again to go on, or start over with --fresh."
        )


def _model_digest(plan: Plan, folder: Path) -> str | None:
    """Hash a model's files.

    Where torchvision has them all, NumPy is not loaded for finding none; a factory that nothing imports, because the
    backend is scripted, may be anywhere.
    """
    model = plan.work.model
    if model.torchvision is not None and not isinstance(model.torchvision.weights, WeightsFile):
        return None
    if model.python is not None and all(each.strategy.backend is Backend.FAKE for each in plan.sweeps):
        return None
    from inferbench_runner import models

    return models.digest(model, folder)


def _pod(_: argparse.Namespace) -> int:
    pod.run(os.environ, _heed())
    return 0


def _heed() -> Callable[[], bool]:
    """Listen to SIGTERM from now on; the function tells whether it came."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    return asked.is_set


def _place(arguments: argparse.Namespace) -> sweep.Place:
    return sweep.Place(
        model_folder=arguments.model_folder.absolute(),
        cache=artifacts.default_folder(os.environ),
        samples=arguments.output.absolute() / "samples",
        logs=arguments.output.absolute() / "logs",
        tell=_tell,
        is_asked_to_stop=_heed(),
    )


def _tell(said: Mapping[str, Any]) -> None:
    print(json.dumps(said), flush=True)


def _previous(file: Path, plan: Plan, wanted: Sweep) -> SweepResult | None:
    """Read what an earlier, interrupted run of this sweep delivered; what cannot be read is measured again."""
    try:
        return results.decode(file.read_bytes(), plan, wanted).result
    except (OSError, ResultError):
        return None


def _backends(arguments: argparse.Namespace) -> int:
    table = [_availability(backend, precision, arguments.device) for backend in Backend for precision in Precision]
    print(json.dumps(table))
    return 0


def _availability(backend: Backend, precision: Precision, device: Device) -> dict[str, str | None]:
    strategy = Strategy(backend, precision)
    return {"strategy": str(strategy), "device": device, "reason": _reason(strategy, device)}


def _reason(strategy: Strategy, device: Device) -> str | None:
    """Say why a strategy does not work on this machine: never, or not with what is installed. None when it does."""
    never = support(strategy, device, ModelSource.TORCHVISION)
    if never is not None:
        return never
    try:
        return backends.find(strategy.backend).missing(strategy.precision, device)
    except EnvironmentFault as fault:
        return f"EnvironmentFault: {fault}"


def _export(_: argparse.Namespace) -> int:
    from inferbench_runner import bundle

    asked = json.load(sys.stdin)
    request = bundle.Request.model_validate({**asked, "cache": str(artifacts.default_folder(os.environ))})
    print(json.dumps(bundle.make(request)))
    return 0


def _look(_: argparse.Namespace) -> int:
    from inferbench_runner import model_faults, onnx_faults

    found = model_faults.find(onnx_faults.Request.model_validate_json(sys.stdin.read()))
    print(found.model_dump_json())
    return 0


def _environment(arguments: argparse.Namespace) -> int:
    told = environment.describe().as_dict()
    if arguments.plan is not None:
        plan = plans.load(arguments.plan.read_text(), str(arguments.plan))
        told["modelSha256"] = _model_digest(plan, arguments.model_folder.absolute())
        told["unsupportedHere"] = dict(_unsupported_here(plan))
    print(json.dumps(told))
    return 0


def _unsupported_here(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield what this machine cannot do of a plan, each strategy with its reason, in the order of the plan."""
    for strategy, wanted in {each.strategy: each for each in plan.sweeps}.items():
        with suppress(EnvironmentFault):  # without the device nothing works: the first sweep says so, and ends the run
            if (reason := sweep.unsupported_here(plan, wanted)) is not None:
                yield str(strategy), reason


if __name__ == "__main__":
    sys.exit(main())
