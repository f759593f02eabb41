"""The real kubectl with the credentials of one user: tests that are about what a person types and reads use it.

To look at what is there, `get` asks the API server itself where it can: tests look again and again, and each start of
the program takes a tenth of a second of a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import urllib3

from tests.kubernetes import tools
from tests.kubernetes.client import Api, ApiError

PATIENCE_SECONDS = 120
"""Ends a kubectl that hangs."""

BENCHMARKS = "/apis/inferbench.dev/v1alpha1", "inferencebenchmarks"
COLLECTIONS: Mapping[str, tuple[str, str]] = {
    "ibench": BENCHMARKS,
    "inferencebenchmark": BENCHMARKS,
    "configmap": ("/api/v1", "configmaps"),
    "configmaps": ("/api/v1", "configmaps"),
    "events": ("/api/v1", "events"),
    "job": ("/apis/batch/v1", "jobs"),
    "jobs": ("/apis/batch/v1", "jobs"),
    "pods": ("/api/v1", "pods"),
}
"""What tests look at often, in the words that they use for it: the API's group and its name there."""

QUESTION = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
"""What is understood here of the arguments of `kubectl get`."""
QUESTION.add_argument("kind", nargs="?")
QUESTION.add_argument("name", nargs="?")
QUESTION.add_argument("--selector")
QUESTION.add_argument("--field-selector")

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
        found = self._asked(arguments)
        return json.loads(self.run("get", *arguments, "--output", "json")) if found is None else found

    def wait(self, *arguments: str, condition: str, seconds: float = 60) -> str:
        """Wait for a condition: `wait("job/mine", condition="Complete")`; what has a `=` stands as it is in `--for`."""
        wanted = condition if "=" in condition else f"condition={condition}"
        return self.run("wait", *arguments, f"--for={wanted}", f"--timeout={seconds}s")

    def delete(self, *arguments: str, wait: bool = False) -> str:
        """Delete something, and wait until it is gone only if told to."""
        return self.run("delete", *arguments, f"--wait={str(wait).lower()}", "--ignore-not-found")

    def _asked(self, arguments: Sequence[str]) -> dict[str, Any] | None:
        """Return what the API server itself says; nothing where it takes kubectl, which also has the words for a no."""
        path, query = _question(arguments, self.namespace)
        if not path:
            return None
        try:
            found = self._api().get(path, **query)
        except (ApiError, OSError, urllib3.exceptions.HTTPError):
            return None
        for each in found.get("items", [found]):
            each["metadata"].pop("managedFields", None)  # which kubectl hides
        return found

    def _api(self) -> Api:
        config = json.loads(self.kubeconfig.read_text(encoding="utf-8"))
        (cluster,), (user,) = ([each[kind] for each in config[f"{kind}s"]] for kind in ("cluster", "user"))
        return _connection(cluster["server"], Path(cluster["certificate-authority"]), user["token"])

    def _with(self, manifest: Manifest, verb: str, *flags: str) -> str:
        if isinstance(manifest, Path):
            return self.run(verb, *flags, "--filename", str(manifest))
        return self.run(verb, *flags, "--filename", "-", given=_yaml(manifest))


@cache
def _connection(server: str, authority: Path, token: str) -> Api:
    return Api(server, authority, token)


def _question(arguments: Sequence[str], namespace: str) -> tuple[str, dict[str, str]]:
    """Return the path and the query that ask what `kubectl get ARGUMENTS` asks; no path for what is not known here."""
    asked, unknown = QUESTION.parse_known_args(arguments)
    if unknown or not namespace or asked.kind not in COLLECTIONS:
        return "", {}
    group, plural = COLLECTIONS[asked.kind]
    path = "/".join([group, "namespaces", namespace, plural, *([asked.name] if asked.name else [])])
    selectors = {"labelSelector": asked.selector, "fieldSelector": asked.field_selector}
    return path, {name: value for name, value in selectors.items() if value}


def _yaml(manifest: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """JSON is YAML, and several objects are a list of them."""
    if isinstance(manifest, str):
        return manifest
    if isinstance(manifest, Mapping):
        return json.dumps(manifest)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifest)})
