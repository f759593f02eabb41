"""What each command does. Every function takes the parsed arguments and returns the exit status."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from inferbench_cli import cluster, folder, forecast, machine, matrix, progress, resource, statuses, table, validation
from inferbench_cli import export as exports
from inferbench_cli import run as runs
from inferbench_cli.folder import Folder
from inferbench_cli.kubectl import Kubectl
from inferbench_cli.progress import Progress
from inferbench_cli.resource import Found
from inferbench_cli.validation import ModelFile
from inferbench_contract import __version__, crd, document, schema
from inferbench_contract import plan as plans
from inferbench_contract.errors import PlanError, SpecError
from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.sentences import counted
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.summary import Summary
from inferbench_contract.words import Device

PROGRAM = "inferbench"


def run(arguments: Namespace) -> int:
    """Measure a benchmark on this machine."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what ends a service ends it like Ctrl-C
    console = _console()
    is_silent = arguments.quiet or arguments.json

    def progress_of(plan: Plan, missing: Sequence[Sweep], opened: Folder) -> Progress:
        if is_silent:
            return progress.Silent()
        _announce(console, plan, missing, opened)
        return progress.Spoken(console, plan, len(plan.sweeps) - len(missing))

    output = Path(arguments.output) if arguments.output else None
    benchmark, ended = runs.run(Path(arguments.file), output, progress_of, fresh=arguments.fresh)
    if arguments.json:
        print(ended.summary.dump(), end="")
    elif ended.summary.best or ended.fault is None:  # else the fault is all there is to say
        if ended.interrupted:
            done, sweeps = ended.summary.sweeps_finished, counted(len(ended.summary.plan.sweeps), "sweep")
            console.print(f"\nInterrupted after {done} of {sweeps}.")
        table.show(console, ended.summary, is_all=arguments.all)
        _say_where(console, ended.folder)
    _say_how_it_ended(ended, arguments)
    return runs.exit_status(ended, benchmark)


def _console() -> Console:
    """Return a terminal that prints what it is given: the brackets of `inferbench[runner]` are no markup."""
    return Console(highlight=False, markup=False, emoji=False)


def plan(arguments: Namespace) -> int:
    """Show what would be measured."""
    expanded = plans.expand(document.read(Path(arguments.file)))
    if arguments.json:
        print(expanded.dump())
    else:
        _show_plan(_console(), expanded)
    return 0


def report(arguments: Namespace) -> int:
    """Show the answer of a folder again, and write its files anew."""
    opened = Folder(Path(arguments.folder))
    expanded = opened.plan()
    benchmark = document.read(opened.benchmark_file)
    _require_same_plan(benchmark, expanded, opened)
    found = runs.write_answer(opened, benchmark, expanded)
    if arguments.json:
        print(found.dump(), end="")
    else:
        table.show(_console(), found, is_all=arguments.all)
        print(f"\nWritten: {opened.path / folder.REPORT}")
    if found.has_measurements:
        return 0
    _say_what_is_there_instead(opened, found)
    return statuses.FAILED


def _say_what_is_there_instead(opened: Folder, found: Summary) -> None:
    print(f"inferbench: {_what_is_there_instead(opened, found)}", file=sys.stderr)


def _what_is_there_instead(opened: Folder, found: Summary) -> str:
    """Say what a folder holds in which no cell was measured, and what to do."""
    sweeps, command = len(found.plan.sweeps), f"`inferbench run FILE --output {shlex.quote(str(opened.path))}`"
    nothing = f"{opened.path} holds no measurement"
    if not sweeps:
        return f"{nothing}: no strategy of the benchmark can be measured. The answer says why; change the file."
    if found.sweeps_finished < sweeps:
        done = f"{found.sweeps_finished} of {counted(sweeps, 'sweep')} finished"
        return f"{nothing}: {done}. {command} goes on with the file that it was begun with."
    why = f"each of {counted(found.counts.planned, 'cell')} ended otherwise"
    return f"{nothing}: {why}. The answer says why; once that is mended, {command} with --fresh measures again."


def _require_same_plan(benchmark: InferenceBenchmark, measured: Plan, opened: Folder) -> None:
    """Refuse a copy of the YAML that asks for something else; what only judges the numbers may be changed in it."""
    asked = plans.expand(benchmark)
    if asked.hash != measured.hash:
        raise PlanError(
            f"{opened.benchmark_file} was changed: its plan is {asked.short_hash}, and what was measured is plan "
            f"{measured.short_hash}. Run the changed file with an --output folder of its own."
        )


def export(arguments: Namespace) -> int:
    """Hand a measured strategy over."""
    output = Path(arguments.output)
    start = None if arguments.model_folder is None else Path(arguments.model_folder)
    wanted = exports.Wanted(Path(arguments.folder), arguments.batch_size, arguments.strategy, start, output)
    row, told = exports.export(wanted)
    if arguments.json:
        print(json.dumps(told, indent=1))
    else:
        print(f"{row.cell} is in {output}: {told['artifact']}, model.json says what it is, load.py runs it.")
        print(f"To install what it needs: {shlex.join(['pip', 'install', '-r', str(output / 'requirements.txt')])}")
        print(f"To see that it answers as it should: {shlex.join(['python', str(output / 'check.py')])}")
    return 0


def get(arguments: Namespace) -> int:
    """Show the answer of a benchmark in a cluster."""
    console = _console()
    asked = Kubectl(arguments.namespace, arguments.context, arguments.kubeconfig)
    if arguments.watch:
        cluster.follow(partial(asked.benchmark, arguments.name), partial(_say, console, as_json=arguments.json))
    found = cluster.read(asked, arguments.name)
    opened, answer = cluster.keep(found, Path(arguments.output)) if arguments.output else (None, found.summarize())
    _show_found(console, found, answer, arguments)
    if opened is not None and not arguments.json:
        _say_where(console, opened)
    return resource.exit_status(found, answer)


def _show_found(console: Console, found: Found, answer: Summary, arguments: Namespace) -> None:
    for problem in found.problems:
        print(f"inferbench: {problem}", file=sys.stderr)
    for sentence in (*resource.state(found.status, found.name), *resource.lag(found.status, answer)):
        _say(console, sentence, as_json=arguments.json)
    if arguments.json:
        print(answer.dump(), end="")
    elif answer.best or found.is_finished:  # else there is nothing yet that a table could show
        table.show(console, answer, is_all=arguments.all)


def _say(console: Console, sentence: str, *, as_json: bool) -> None:
    """Say how far it is; beside JSON, where other programs do not read it."""
    if as_json:
        print(f"inferbench: {sentence}", file=sys.stderr)
    else:
        console.print(sentence, soft_wrap=not console.is_terminal)


def validate(arguments: Namespace) -> int:
    """Check files; all mistakes of all of them."""
    is_wrong = False
    for file in arguments.files:
        model = ModelFile(Path(file))
        try:
            _say_what_is_valid(file, document.read(model.file, model.mistakes))
        except SpecError as error:
            is_wrong = True
            print(error, file=sys.stderr)
        for note in model.notes:
            print(f"{file}: warning: {note}", file=sys.stderr)
    return SpecError.exit_status if is_wrong else 0


def _say_what_is_valid(file: str, benchmark: InferenceBenchmark) -> None:
    planned, is_default = plans.expand(benchmark), "device" not in benchmark.spec.model_fields_set
    print(f"{file}: valid, {benchmark.name}, {counted(len(planned.sweeps), 'sweep')}")
    for line in validation.left_out(planned, is_default_device=is_default):
        print(line)


def backends(arguments: Namespace) -> int:
    """Show what works here."""
    devices = [Device(arguments.device)] if arguments.device else [Device.CPU, Device.GPU]
    rows = {device: machine.ask("backends", "--device", device) for device in devices}
    if arguments.json:
        print(json.dumps([row for told in rows.values() for row in told], indent=1))
    else:
        texts = [matrix.text(device, matrix.read(told, with_fake=arguments.all)) for device, told in rows.items()]
        print("\n\n".join(texts))
    return 0


def print_schema(arguments: Namespace) -> int:
    """Print the JSON schema or the CustomResourceDefinition, or compare that with a file."""
    if arguments.check is not None:
        return _check_crd(Path(arguments.check) / crd.FILE)
    if arguments.crd:
        allowed = arguments.allow_privileged_pod_templates
        print(crd.dump(crd.definition(allow_privileged_pod_templates=allowed)), end="")
    else:
        print(json.dumps(schema.document_schema(), indent=1))
    return 0


def _check_crd(file: Path) -> int:
    """Say whether a file is what would be generated now."""
    if file.is_file() and file.read_text(encoding="utf-8") == crd.dump(crd.definition()):
        return 0
    print(f"{file} is not what this version generates: run `inferbench schema --crd >{file}`.", file=sys.stderr)
    return 1


def version(arguments: Namespace) -> int:  # noqa: ARG001 (every command takes them)
    """Print versions."""
    print(f"inferbench {__version__}")
    libraries: Mapping[str, str] = machine.ask("environment")["libraries"]
    for name, found in libraries.items():
        if name != "inferbench":
            print(f"  {name} {found}")
    return 0


def _announce(console: Console, plan: Plan, missing: Sequence[Sweep], opened: Folder) -> None:
    sweeps, done = counted(len(plan.sweeps), "sweep"), len(plan.sweeps) - len(missing)
    cells = len(plan.measurable_cells) + len(plan.unsupported_cells)
    here: Mapping[str, str] = opened.environment().get("unsupportedHere", {})
    measured = [cell for cell in plan.measurable_cells if str(cell.strategy) not in here]
    some = f"{len(measured)} of " if len(measured) < cells else ""
    rounds = f"{some}{counted(cells, 'cell')} in {counted(plan.rounds, 'round')}"
    console.print(f"{rounds}, {sweeps}, to {opened.path}/", soft_wrap=True)
    for strategy, reason in {**plan.unsupported, **here}.items():
        console.print(f"not measured: {strategy}: {reason}", soft_wrap=True)
    if not missing:
        told = f"Nothing is left to measure: an earlier run finished {done} of {sweeps} (--fresh starts over)."
        console.print(told if done else "Nothing can be measured.", soft_wrap=True)
        return
    if done:
        console.print(f"going on: an earlier run finished {done} of {sweeps} (--fresh starts over)", soft_wrap=True)
    measurable = [sweep for sweep in missing if str(sweep.strategy) not in here]
    _foretell(console, forecast.likely(measurable, plan.work.measurement), plan)
    if (warning := forecast.busy(os.getloadavg()[0], os.cpu_count() or 1)) is not None:
        console.print(Text(warning, "yellow"), soft_wrap=True)


def _foretell(console: Console, how_long: str, plan: Plan) -> None:
    """Say how long it takes, and what so few rounds or so many threads cannot tell."""
    crowded = forecast.crowded(plan.work.threads, _usable_cpus())
    for sentence in filter(None, (how_long, forecast.few_rounds(plan.rounds), crowded)):
        console.print(sentence, soft_wrap=True)


def _say_where(console: Console, opened: Folder) -> None:
    console.print(f"\nEverything is in {opened.path}/ (open report.html in a browser).", soft_wrap=True)
    if opened.has_logs:
        console.print(f"What processes printed that went wrong is in {opened.path}/{folder.LOGS}/.", soft_wrap=True)


def _usable_cpus() -> int:
    """Count the CPUs that this process may use; where only Linux could tell, those that there are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _say_how_it_ended(ended: runs.Ended, arguments: Namespace) -> None:
    if ended.fault is not None:
        print(f"inferbench: {ended.fault}", file=sys.stderr)
    if ended.interrupted:
        output = ["--output", arguments.output] if arguments.output else []
        command = shlex.join([*_called(sys.argv[0], shutil.which(PROGRAM)), "run", arguments.file, *output])
        kept = "; what was measured is kept" if ended.summary.has_measurements else " before anything was measured"
        print(f"Interrupted{kept}. To go on: {command}", file=sys.stderr)
    if ended.fault is None and not ended.interrupted and not ended.summary.has_measurements:
        _say_what_is_there_instead(ended.folder, ended.summary)


def _called(path: str, found: str | None) -> Sequence[str]:
    """Name this program so that a shell finds it: its path, where the name leads nowhere or to another one."""
    if Path(path).name == "__main__.py":
        return sys.executable, "-m", __package__
    return (PROGRAM if found is not None and Path(found).resolve() == Path(path).resolve() else path,)


def _show_plan(console: Console, plan: Plan) -> None:
    shown = Table(title=f"Plan {plan.short_hash}: {counted(len(plan.sweeps), 'sweep')}", title_justify="left")
    for name in ("Sweep", "Round", "Strategy", "Batch sizes"):
        shown.add_column(name, justify="right" if name in {"Sweep", "Round"} else "left")
    for sweep in plan.sweeps:
        sizes = ", ".join(map(str, sweep.batch_sizes))
        shown.add_row(str(sweep.index + 1), str(sweep.round + 1), str(sweep.strategy), sizes)
    console.print(shown)
    for strategy, reason in plan.unsupported.items():
        console.print(f"Unsupported: {strategy}: {reason}")
    _foretell(console, forecast.how_long(plan), plan)


COMMANDS = {
    "run": run,
    "plan": plan,
    "report": report,
    "export": export,
    "get": get,
    "validate": validate,
    "backends": backends,
    "schema": print_schema,
    "version": version,
}
