"""The `inferbench` program: arguments in, exit status out.

What each command does stands in `commands`, which is imported when one is called, so that `--help` is there at once.
"""

from __future__ import annotations

import argparse
import locale
import os
import sys

from inferbench_cli import statuses

EXIT_STATUSES = """exit status:
  0    everything was measured
  1    more cells failed than maxFailedCells allows, nothing was measured, a sweep was lost, or the
       model cannot be prepared
  2    the file is wrong: every mistake is listed with its line
  3    this machine cannot do it (no GPU, disk full, something not installed, folder in use)
  4    an expectation does not hold; one that is undecided does not change the status
  130  interrupted; the same command goes on from there
"""

DESCRIPTION = """Which inference backend, at which precision and batch size, is best for this model on this machine?

  inferbench backends              what works on this machine, and what to install for the rest
  inferbench run bench.yaml        measure, and say which is best and how sure that is
  inferbench plan bench.yaml       what would be measured, in which order, and how long it may take
  inferbench report DIR            the answer again, from a folder of results
  inferbench export DIR ...        the winner as a folder that runs without inferbench
  inferbench get NAME              the answer of a benchmark in a cluster
"""

GET_EXIT_STATUSES = """exit status:
  0    everything was measured; also of a benchmark that is not finished (--watch waits for the end)
  1    more cells failed than maxFailedCells allows, nothing was measured, or results were lost
  2    there is no such benchmark, it may not be read, or the operator refuses it
  3    the cluster gives no answer, or kubectl is not installed
  4    an expectation does not hold; one that is undecided does not change the status
  130  interrupted
"""

EXPORT_EXIT_STATUSES = """exit status:
  0    the folder is written
  1    --output holds something already, the model's files are gone or are others now, or what was
       measured cannot be handed over
  2    DIR is no folder of results, or has no such cell that may be recommended
  3    this machine cannot do it (not the one that measured, disk full, something not installed)
  130  interrupted
"""

BROKEN_PIPE_STATUS = 1
"""As rich has it, which prints most of our output."""

JSON_HELP = "print JSON instead"
ALL_HELP = "show every strategy, not only the best of each batch size"


def main(arguments: list[str] | None = None) -> int:
    """Run the program; every error becomes a sentence on standard error and an exit status."""
    if arguments is None:
        _begin_in_utf8()
    parsed = parser().parse_args(arguments)
    if parsed.command is None:
        parser().print_help()
        return 0
    try:
        return _do(parsed)
    except KeyboardInterrupt:
        print("inferbench: interrupted", file=sys.stderr)
        return statuses.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough. What is still buffered would raise again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_STATUS


def _begin_in_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale is another one: an ASCII one has no µ and no ±.

    Then names of files, too, are the same text here, in files, and in the processes that are started.
    """
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 (this very program)


def _do(parsed: argparse.Namespace) -> int:
    from inferbench_cli import commands
    from inferbench_contract.errors import InferbenchError, SpecError

    try:
        status = int(commands.COMMANDS[parsed.command](parsed))
        sys.stdout.flush()
        return status
    except SpecError as error:  # a line for each mistake that begins with its place in the file, as editors read it
        print(error, file=sys.stderr)
        return error.exit_status
    except InferbenchError as error:
        print(f"inferbench: {error}", file=sys.stderr)
        return error.exit_status


def parser() -> argparse.ArgumentParser:
    """Describe the commands; imports nothing, so that `--help` is there at once."""
    top = argparse.ArgumentParser(
        prog="inferbench",
        description=DESCRIPTION,
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    said = "the same as the command version"
    top.add_argument("--version", action="store_const", const="version", dest="command", help=said)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    _add_run(commands)
    _add_plan(commands)
    _add_report(commands)
    _add_export(commands)
    _add_get(commands)
    validate = commands.add_parser("validate", help="check files, and list every mistake with its line")
    validate.add_argument("files", nargs="+", metavar="FILE", help="an InferenceBenchmark in YAML")
    _add_backends(commands)
    _add_schema(commands)
    commands.add_parser("version", help="the version of inferbench and of what it measures with")
    return top


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="measure on this machine, and say which is best",
        description="Measure every cell of a benchmark on this machine, each in a process of its own, in interleaved\n"
        "rounds. Finished sweeps are kept: after an interruption the same command goes on where it stopped.\n"
        "Models and what was made of them are kept in ~/.cache/inferbench (or INFERBENCH_CACHE).",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("file", metavar="FILE", help="an InferenceBenchmark in YAML")
    run.add_argument(
        "--output", metavar="DIR", help="folder for the results (default: inferbench-results/NAME-PLANHASH)"
    )
    run.add_argument("--fresh", action="store_true", help="throw away what is in the folder and start over")
    run.add_argument("--all", action="store_true", help=ALL_HELP)
    shown = run.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="no progress, only the answer")
    shown.add_argument("--json", action="store_true", help="no progress, and summary.json instead of the table")


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser("plan", help="what would be measured, in which order, and how long it may take")
    plan.add_argument("file", metavar="FILE", help="an InferenceBenchmark in YAML")
    plan.add_argument("--json", action="store_true", help=JSON_HELP)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report",
        help="the answer again, from a folder of results; writes report.html anew",
        description="Show the answer of a folder again, and write its files anew. The exit status is 0, also where\n"
        "cells failed or an expectation does not hold; 1 where nothing was measured; 2 where it is no such folder.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("folder", metavar="DIR", help="a folder that `inferbench run` wrote")
    report.add_argument("--all", action="store_true", help=ALL_HELP)
    report.add_argument("--json", action="store_true", help="print summary.json instead of the table")


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export",
        help="hand a measured strategy over: the model as it ran, its settings, and a program that runs it",
        description="Write a folder with what was measured at a batch size: the artefact, model.json, load.py, which\n"
        "runs it without inferbench, check.py, which compares its answers with fp32, and for ONNX a Triton\n"
        "repository.",
        epilog=EXPORT_EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("folder", metavar="DIR", help="a folder that `inferbench run` wrote")
    export.add_argument("--batch-size", type=int, required=True, metavar="N", help="a batch size that was measured")
    export.add_argument("--strategy", metavar="S", help="such as onnxruntime/fp32 (default: the best at this size)")
    export.add_argument(
        "--output", required=True, metavar="FOLDER", help="a folder that does not exist yet, or is empty"
    )
    export.add_argument(
        "--model-folder", metavar="FOLDER", help="what paths of the model start from (default: as when it was measured)"
    )
    export.add_argument("--json", action="store_true", help="print model.json")


def _add_get(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    get = commands.add_parser(
        "get",
        help="the answer of a benchmark in a cluster, as `run` shows it",
        description="Show what a cluster has measured, from the resource and the ConfigMaps that hold its results.\n"
        "The cluster is asked through kubectl, which knows how you sign in. Also: kubectl inferbench get NAME",
        epilog=GET_EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    get.add_argument("name", metavar="NAME", help="name of the InferenceBenchmark")
    get.add_argument("-n", "--namespace", help="its namespace (default: the one of kubectl's context)")
    get.add_argument("--context", help="a context of the kubeconfig (default: the current one)")
    get.add_argument("--kubeconfig", metavar="FILE", help="a kubeconfig (default: the one that kubectl takes)")
    get.add_argument("--output", metavar="DIR", help="also write a folder as `run` does, for `inferbench report DIR`")
    get.add_argument("--watch", "-w", action="store_true", help="follow it until it is finished")
    get.add_argument("--all", action="store_true", help=ALL_HELP)
    get.add_argument("--json", action="store_true", help="print summary.json instead of the table")


def _add_backends(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    backends = commands.add_parser(
        "backends",
        help="what works on this machine, and if not, why and what to install",
        description="Show what works on this machine: for each device a row per backend and a column per precision.\n"
        "What does not work has the number of its reason, told below with the line that installs what is missing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    backends.add_argument("--device", choices=("cpu", "gpu"), help="only this device (default: both)")
    backends.add_argument("--all", action="store_true", help="with the backend fake, whose latencies are scripted")
    backends.add_argument("--json", action="store_true", help="print JSON instead: every strategy, with its reason")


def _add_schema(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    schema = commands.add_parser("schema", help="the JSON schema of the file, or the CustomResourceDefinition")
    schema.add_argument("--crd", action="store_true", help="print the CustomResourceDefinition for a cluster")
    schema.add_argument(
        "--allow-privileged-pod-templates",
        action="store_true",
        help="with --crd: without the rules on podTemplate, for an operator that allows what they refuse",
    )
    schema.add_argument(
        "--check", nargs="?", const="crds", metavar="DIR", help="compare DIR (default: crds) with what --crd prints"
    )


if __name__ == "__main__":
    sys.exit(main())
