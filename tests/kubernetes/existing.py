"""A cluster that is there already, named by KUBECONFIG: tests get an account in it, and fake nodes of their own."""

from __future__ import annotations

import base64
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kubernetes.access import Access
from tests.kubernetes.kubectl import Kubectl
from tests.kubernetes.nodes import some_nodes

TOKEN_HOURS = 12


@contextmanager
def joined() -> Iterator[Access]:
    """Use the cluster of KUBECONFIG as cluster-admin; what was made in it for the tests is removed at the end."""
    name = f"inferbench-tests-{secrets.token_hex(3)}"
    kubectl = Kubectl(Path(os.environ["KUBECONFIG"]).absolute())
    with tempfile.TemporaryDirectory(prefix="inferbench-cluster-access-") as folder:
        kubectl.apply(_account(name))
        try:
            access = _access(kubectl, name, Path(folder))
            # Real pods must not land on fake nodes: these are tainted, and the tests' pods tolerate it.
            with some_nodes(access.api(), is_tainted=True, prefix=name, gpus=8):
                yield access
        finally:
            kubectl.delete("clusterrolebinding", name)
            kubectl.delete("namespace", name)


def _account(name: str) -> list[dict[str, Any]]:
    subject = {"kind": "ServiceAccount", "name": "admin", "namespace": name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "admin", "namespace": name}},
        {**binding, "roleRef": role, "subjects": [subject]},
    ]


def _access(kubectl: Kubectl, name: str, folder: Path) -> Access:
    config = json.loads(kubectl.run("config", "view", "--minify", "--raw", "--output", "json"))
    server: Mapping[str, str] = config["clusters"][0]["cluster"]
    token = kubectl.run("create", "token", "admin", "--namespace", name, f"--duration={TOKEN_HOURS}h").strip()
    return Access(server["server"], _authority(server, folder), {"admin": token, "fake-kubelet": token}, folder)


def _authority(server: Mapping[str, str], folder: Path) -> Path:
    if "certificate-authority" in server:
        return Path(server["certificate-authority"])
    if "certificate-authority-data" not in server:
        raise ValueError(
            "the cluster of KUBECONFIG names no certificate-authority, so its certificate cannot be checked"
        )
    file = folder / "ca.crt"
    file.write_bytes(base64.b64decode(server["certificate-authority-data"]))
    return file
