"""How to reach a cluster, whoever runs it: its address, who may do what there, and what it has been asked so far."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kubernetes.client import Api
from tests.kubernetes.kubectl import Kubectl

FILE = "access.json"


@dataclass(frozen=True)
class Request:
    """One request as the API server's audit log has it; a watch counts when it begins."""

    user: str
    agent: str
    verb: str
    """get, list, watch, create, update, patch, delete, deletecollection."""
    resource: str
    """With its subresource, as in RBAC: `jobs`, `jobs/status`."""
    namespace: str
    name: str
    status: int
    record: Mapping[str, Any]
    """The record as it was written."""

    @property
    def writes(self) -> bool:
        """Whether it asks for a change."""
        return self.verb not in {"get", "list", "watch"}


@dataclass(frozen=True)
class Access:
    """The address and the credentials of a cluster. Users are named by short words: `admin`, `fake-kubelet`."""

    url: str
    ca_file: Path
    tokens: Mapping[str, str]
    folder: Path
    """Where kubeconfigs are written."""
    audit_file: Path | None = None

    def token(self, user: str = "admin") -> str:
        """Return the bearer token of a user."""
        if user not in self.tokens:
            raise KeyError(f"there is no user {user}; there are {', '.join(self.tokens)}")
        return self.tokens[user]

    def kubeconfig(self, user: str = "admin") -> Path:
        """Write the kubeconfig of a user and return its path."""
        return self.kubeconfig_with(user, self.token(user))

    def kubeconfig_with(self, name: str, token: str) -> Path:
        """Write a kubeconfig with any token, for example a service account's, and return its path."""
        return write_kubeconfig(self.folder / f"{name}.kubeconfig", self.url, self.ca_file, token)

    def api(self, user: str = "admin") -> Api:
        """Return a client that acts as a user."""
        return Api(self.url, self.ca_file, self.token(user))

    def kubectl(self, user: str = "admin", namespace: str = "") -> Kubectl:
        """Return the real kubectl, acting as a user."""
        return Kubectl(self.kubeconfig(user), namespace)

    def kubectl_with(self, name: str, token: str, namespace: str = "") -> Kubectl:
        """Return the real kubectl with any token; `name` is that of the kubeconfig."""
        return Kubectl(self.kubeconfig_with(name, token), namespace)

    def audit_position(self) -> int:
        """Return where the audit log ends now, for `audit(since=...)`."""
        return self._audit_file().stat().st_size

    def audit(self, since: int = 0) -> Iterator[Request]:
        """Read what the API server was asked, in the order in which it answered.

        A record is written just after its answer was sent: whoever counts looks until the count stands still.
        """
        with self._audit_file().open("rb") as file:
            file.seek(since)
            for line in file:
                if line.endswith(b"\n"):  # a line that is being written comes the next time
                    yield _request(json.loads(line))

    def save(self) -> None:
        """Write it down for another process, which reads it with `load`."""
        audit_file = str(self.audit_file) if self.audit_file else None
        told = {"url": self.url, "ca_file": str(self.ca_file), "tokens": dict(self.tokens), "audit_file": audit_file}
        half = self.folder / f".{FILE}"
        half.write_text(json.dumps(told), encoding="utf-8")
        half.rename(self.folder / FILE)

    def _audit_file(self) -> Path:
        if self.audit_file is None:
            raise RuntimeError(f"the audit log of {self.url} cannot be read: it is not a cluster of ours, or has none")
        return self.audit_file


def load(folder: Path) -> Access:
    """Read what `save` wrote into a folder."""
    told = json.loads((folder / FILE).read_text(encoding="utf-8"))
    audit_file = Path(told["audit_file"]) if told["audit_file"] else None
    return Access(told["url"], Path(told["ca_file"]), told["tokens"], folder, audit_file)


def write_kubeconfig(file: Path, url: str, ca_file: Path, token: str) -> Path:
    """Write a kubeconfig with one cluster and one user. JSON is YAML."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": url, "certificate-authority": str(ca_file)}}],
        "users": [{"name": "me", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me"}}],
        "current-context": "it",
    }
    half = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    half.write_text(json.dumps(content, indent=1), encoding="utf-8")
    half.chmod(0o600)
    return half.rename(file)  # another process may be reading it


def _request(record: Mapping[str, Any]) -> Request:
    about = record.get("objectRef", {})
    subresource = about.get("subresource")
    return Request(
        user=record["user"].get("username", ""),
        agent=record.get("userAgent", ""),
        verb=record["verb"],
        resource=about.get("resource", "") + (f"/{subresource}" if subresource else ""),
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        status=record.get("responseStatus", {}).get("code", 0),
        record=record,
    )
