"""Builds and runs a Kubernetes by hand: `python -m tests.kubernetes build | path TOOL | up | clean`."""

# ruff: noqa: T201 - the terminal is this program's output

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.kubernetes import shared, tools
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.nodes import some_nodes
from tests.kubernetes.sweeps import Sweeps


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the first argument says."""
    options = _parser().parse_args(arguments)
    try:
        options.act(options)
    except tools.ToolError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes", description=(__doc__ or "").strip())
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("build", help="build Kubernetes, Helm and kwok, those that are missing")
    build.add_argument("names", nargs="*", metavar="TOOL", help=f"only these of {', '.join(tools.TOOLS)}")
    build.set_defaults(act=_build)
    path = commands.add_parser("path", help="print the path of a tool, building it if it is missing")
    path.add_argument("name", choices=[*tools.TOOLS, *tools.PARTS])
    path.set_defaults(act=lambda options: print(tools.tool(options.name)))
    up = commands.add_parser("up", help="run a control plane with fake nodes that answer like runners, until Ctrl-C")
    up.add_argument("--folder", type=Path, help="where its state is kept (default: a temporary folder)")
    up.add_argument("--bare", action="store_true", help="no nodes, and nobody who plays them")
    up.set_defaults(act=_up)
    clean = commands.add_parser("clean", help="remove everything that was built and downloaded")
    clean.set_defaults(act=lambda _: shutil.rmtree(tools.cache(), ignore_errors=True))
    keep = commands.add_parser("keep", help="keep the shared cluster of a test run; started by the tests")
    keep.add_argument("place", type=Path)
    keep.set_defaults(act=lambda options: shared.keep(options.place))
    return parser


def _build(options: argparse.Namespace) -> None:
    for name in options.names or tools.TOOLS:
        tools.tool(name)


def _up(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(options.folder))
        if not options.bare:
            stack.enter_context(some_nodes(plane.api(), gpus=8))
            stack.enter_context(FakeKubelet(plane.access, Sweeps(plane.api(), seconds=1)))
        print(f"export KUBECONFIG={plane.kubeconfig()} PATH={tools.tool('kubectl').parent}:$PATH", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
