"""One cluster with one real node for all tests of a session, and a namespace of its own for each test."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import manifests
from tests.e2e.release import NAMESPACE, Release
from tests.kubernetes.kubectl import Kubectl
from tests.kubernetes_node import images
from tests.kubernetes_node.node import Node, missing, node
from tests.kubernetes_node.prometheus import Prometheus, prometheus


@pytest.fixture(scope="session")
def root() -> None:
    """Skip where a machine inside this one cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("A node needs root: it makes namespaces, mounts and cgroups")
    if lack := missing():
        pytest.skip(lack)


@pytest.fixture(scope="session")
def cluster(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Run a cluster with the images of this very source."""
    layout = images.layout(*images.SUITE)
    with node(tmp_path_factory.mktemp("node"), layout) as made:
        yield made


@pytest.fixture
def namespace(cluster: Node) -> Iterator[str]:
    """Make a namespace that enforces restricted Pod Security; it goes with all that is in it."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.plane.kubectl().create(manifests.namespace(name))
    yield name
    cluster.plane.kubectl().delete("namespace", name)


@pytest.fixture
def kubectl(cluster: Node, namespace: str) -> Kubectl:
    """Return kubectl as the admin in the test's namespace."""
    return cluster.plane.kubectl(namespace=namespace)


@pytest.fixture
def models(kubectl: Kubectl, namespace: str, tmp_path: Path) -> str:
    """Return the name of a claim on a volume that holds model.onnx."""
    tmp_path.chmod(0o755)
    manifests.write_model(tmp_path / "model.onnx")
    kubectl.apply(manifests.claim(namespace, "models", tmp_path, "ReadOnlyMany"))
    return "models"


@pytest.fixture(scope="session")
def release(cluster: Node) -> Iterator[Release]:
    """Install the chart. A test that changes it puts it back."""
    made = Release(cluster.plane.kubectl(namespace=NAMESPACE))
    made.install()
    yield made
    made.uninstall()


@pytest.fixture(scope="session")
def scraper(cluster: Node) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the cluster every second."""
    with prometheus(cluster) as made:
        yield made
