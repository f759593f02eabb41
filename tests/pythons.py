"""Plans every example under other Pythons (`make test-pythons`): program, operator and runner need not have the same.

    python -m tests.pythons NAME...

NAME is a Python, such as python3.13. Each that works here gets what the contract needs, at the versions of the lock,
into a folder of its own below .venv. Exit status 1 where it hashes a plan otherwise than this Python does, 3 where no
other Python works.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PLAN = """
import json, sys
from pathlib import Path
from inferbench_contract import document, plan
print(json.dumps({path.name: plan.expand(document.read(path)).hash for path in map(Path, sys.argv[1:])}))
"""

VERSION = "import platform; print(platform.python_version())"


def said(python: str, *arguments: object, path: str = "") -> str:
    """Run a Python that knows our contract and the folder, and nothing else of ours; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'contract'}{os.pathsep}{path}"}
    command = [python, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def found(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the Pythons that work here and have another version than this one, with their versions."""
    for name in names:
        try:
            version = said(name, "-c", VERSION)
        except (OSError, subprocess.CalledProcessError):
            continue
        if version != said(sys.executable, "-c", VERSION):
            yield name, version


def hashes(python: str, path: str = "") -> Mapping[str, str]:
    """Plan every example under a Python; return the hashes."""
    told = json.loads(said(python, "-c", PLAN, *sorted((ROOT / "examples").glob("*.yaml")), path=path))
    return {str(name): str(value) for name, value in told.items()}


def equipped(python: str, version: str) -> str:
    """Install what the contract needs for a Python; return the folder."""
    folder = ROOT / ".venv/pythons" / version
    uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--python", python, "--target", folder]
    subprocess.run([*uv, "--constraints", ROOT / "locks/dev.txt", "pydantic", "PyYAML"], check=True)
    return str(folder)


def judged(python: str, version: str, ours: Mapping[str, str]) -> bool:
    """Tell whether a Python has the same hashes as this one, and say so."""
    theirs = hashes(python, equipped(python, version))
    others = ", ".join(name for name, value in ours.items() if theirs[name] != value)
    print(f"Python {version}: {f'other hashes of {others}' if others else f'the same {len(ours)} hashes'}")  # noqa: T201 - the result
    return not others


def main() -> int:
    """Judge each Python; return the exit status."""
    names, ours = sys.argv[1:], hashes(sys.executable)
    verdicts = [judged(python, version, ours) for python, version in found(names)]
    if not verdicts:
        print(f"No other Python works here; looked for {', '.join(names)}.", file=sys.stderr)  # noqa: T201 - the reason
        return 3
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
