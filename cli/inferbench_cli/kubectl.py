"""Asks a cluster through kubectl, which knows every way of signing in that its user has set up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from inferbench_cli.resource import RefusedError
from inferbench_contract import crd
from inferbench_contract.errors import EnvironmentFault, InferbenchError
from inferbench_contract.result import printable

TOOL = "kubectl"

REQUEST_TIMEOUT = "30s"
"""Without it a cluster that does not answer holds its user up for ever."""

CONFIG_MAPS = "configmaps"

NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
"""What the API server takes for a name (RFC 1123, subdomain). kubectl takes anything else for something else."""

COMPLAINT = re.compile(r"[Ee]rror\b|Unable to connect|The connection to the server|[EWIF]\d{4} ")
"""How what kubectl itself has to complain about begins; the rest comes from a program that signs its user in."""

UNKNOWN_KIND = re.compile(r"the server doesn't have a resource type|no matches for kind|could not find the requested")
REFUSAL = re.compile(
    r"\((NotFound|Forbidden|Unauthorized|BadRequest|Invalid|MethodNotAllowed)\)"
    r"|must be logged in|context\b.* (does not exist|was not found)|no such file or directory|invalid configuration"
)
"""An answer, and it is no. Whatever else goes wrong means that there was none."""


class UnreachableError(EnvironmentFault):
    """There was no answer; asking again later may help."""


@dataclass(frozen=True)
class Kubectl:
    """A cluster and a namespace, as kubectl's own options name them; None is what kubectl takes by itself."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    def benchmark(self, name: str) -> Mapping[str, Any]:
        """Read a benchmark.

        Raises:
            RefusedError: there is none of this name, it is no name, or it may not be read.
            UnreachableError: the cluster gave no answer.
            EnvironmentFault: kubectl is not installed.
        """
        if not NAME.fullmatch(name):
            raise RefusedError(
                f"{name!r} is no name of a benchmark: expected small letters, digits and hyphens, like resnet50. "
                "kubectl get ibench lists those that are there."
            )
        return _object(self._get(f"{crd.NAME}/{name}"))

    def config_maps(self, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Read the data of ConfigMaps by their names; one that is not there is left out. Raises as `benchmark` does."""
        if not names:
            return {}
        answer = self._get("--ignore-not-found", *(f"{CONFIG_MAPS}/{name}" for name in names))
        if not answer.strip():
            return {}
        found = _object(answer)
        return {each["metadata"]["name"]: each.get("data") or {} for each in found.get("items", [found])}

    def within(self, namespace: str) -> Kubectl:
        """Return the same cluster with a namespace."""
        return Kubectl(namespace, self.context, self.kubeconfig)

    def _get(self, *what: str) -> str:
        command = [TOOL, "get", *what, "--output=json", f"--request-timeout={REQUEST_TIMEOUT}", *self._options()]
        status, answer, complaints = _run(command)
        if status != 0:
            raise _refusal(complaints, self.namespace)
        return answer

    def _options(self) -> Iterator[str]:
        """Write each with its value in one word, so that no value is taken for an option."""
        options = {"namespace": self.namespace, "context": self.context, "kubeconfig": self.kubeconfig}
        return (f"--{name}={value}" for name, value in options.items() if value is not None)


def _run(command: Sequence[str]) -> tuple[int, str, str]:
    """Run kubectl; return its exit status, its answer and its complaints.

    Its standard input is ours, and what is no complaint is passed on at once: it may be a program that signs its user
    in and says which page to open.
    """
    with TemporaryFile("w+", encoding="utf-8") as answer:
        try:
            started = subprocess.Popen(
                command, stdout=answer, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
            )
        except OSError as error:
            raise EnvironmentFault(
                f"{TOOL} cannot be started ({error.strerror}). Install it and put it on the PATH: a cluster is read "
                "through it, because it knows how you sign in."
            ) from error
        with started as process:
            complaints = _complaints(process.stderr)
        answer.seek(0)
        return process.returncode, answer.read(), complaints


def _complaints(stream: IO[str] | None) -> str:
    heard: list[str] = []
    for line in stream or ():
        if heard or COMPLAINT.match(line):
            heard.append(line.strip())
        else:
            print(line, end="", file=sys.stderr, flush=True)
    return " ".join(line for line in heard if not re.match(r"[EWIF]\d{4} ", line)) or " ".join(heard)


def _refusal(complaints: str, namespace: str | None) -> InferbenchError:
    said = printable(complaints) or "it gave no reason"
    if UNKNOWN_KIND.search(said):
        return RefusedError(
            f"kubectl: {said} This cluster does not know InferenceBenchmark: install charts/inferbench there, or name "
            "another cluster with --context."
        )
    if "(NotFound)" in said:
        where = f"the namespace {namespace}" if namespace else "the namespace that kubectl takes by itself"
        return RefusedError(f"kubectl: {said} ({where}). Name the right one with --namespace.")
    if REFUSAL.search(said):
        return RefusedError(f"kubectl: {said}")
    return UnreachableError(f"The cluster gave no answer. kubectl: {said}")


def _object(answer: str) -> Mapping[str, Any]:
    try:
        content = json.loads(answer)
    except ValueError as error:
        raise UnreachableError(f"kubectl answered with what is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UnreachableError(f"kubectl answered with a JSON {type(content).__name__}, expected an object.")
    return content
