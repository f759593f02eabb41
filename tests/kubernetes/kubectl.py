"""The real kubectl with the credentials of one user: tests that are about what a person types and reads use it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kubernetes import tools

PATIENCE_SECONDS = 120
"""Ends a kubectl that hangs."""

Manifest = str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""YAML, the path of a file or folder with YAML, an object, or several."""


class KubectlError(Exception):
    """kubectl said no; `said` is what it printed."""

    def __init__(self, command: Sequence[str], answer: subprocess.CompletedProcess[str]) -> None:
        self.said = answer.stderr.strip()
        super().__init__(f"{' '.join(command)} ended with status {answer.returncode}: {self.said}")


@dataclass(frozen=True)
class Kubectl:
    """`kubectl` with a kubeconfig, and with a namespace if one is given."""

    kubeconfig: Path
    namespace: str = ""

    def run(self, *arguments: str, given: str | None = None) -> str:
        """Run `kubectl ARGUMENTS` and return what it printed. Raises KubectlError if it failed."""
        command = ["kubectl", *(["--namespace", self.namespace] if self.namespace else []), *arguments]
        answer = subprocess.run(
            [str(tools.tool("kubectl")), *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            input=given,
            timeout=PATIENCE_SECONDS,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )
        if answer.returncode != 0:
            raise KubectlError(command, answer)
        return answer.stdout

    def apply(self, manifest: Manifest, *flags: str) -> str:
        """Apply a manifest, on the server's side unless flags say otherwise."""
        return self._with(manifest, "apply", *(flags or ("--server-side",)))

    def create(self, manifest: Manifest, *flags: str) -> str:
        """Create what a manifest says."""
        return self._with(manifest, "create", *flags)

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return what `kubectl get ARGUMENTS` finds: an object, or a list with `items`."""
        found: dict[str, Any] = json.loads(self.run("get", *arguments, "--output", "json"))
        return found

    def wait(self, *arguments: str, condition: str, seconds: float = 60) -> str:
        """Wait for a condition: `wait("job/mine", condition="Complete")`; what has a `=` stands as it is in `--for`."""
        wanted = condition if "=" in condition else f"condition={condition}"
        return self.run("wait", *arguments, f"--for={wanted}", f"--timeout={seconds}s")

    def delete(self, *arguments: str, wait: bool = False) -> str:
        """Delete something, and wait until it is gone only if told to."""
        return self.run("delete", *arguments, f"--wait={str(wait).lower()}", "--ignore-not-found")

    def _with(self, manifest: Manifest, verb: str, *flags: str) -> str:
        if isinstance(manifest, Path):
            return self.run(verb, *flags, "--filename", str(manifest))
        return self.run(verb, *flags, "--filename", "-", given=_yaml(manifest))


def _yaml(manifest: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """JSON is YAML, and several objects are a list of them."""
    if isinstance(manifest, str):
        return manifest
    if isinstance(manifest, Mapping):
        return json.dumps(manifest)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifest)})
