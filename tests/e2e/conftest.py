"""One cluster with one real node for all tests of a session, and a namespace of its own for each test."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.e2e import manifests
from tests.e2e.release import NAMESPACE, Release
from tests.kubernetes.kubectl import Kubectl
from tests.kubernetes_node import images
from tests.kubernetes_node.node import Node, missing, node
from tests.kubernetes_node.prometheus import Prometheus, prometheus

if TYPE_CHECKING:
    from xdist.remote import Producer


class OneNode(LoadScopeScheduling):
    """Gives these tests to one process, which has the node, and meanwhile the cluster's to the others, one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return "node" if nodeid.startswith("tests/e2e/") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneNode:
    """Distribute the tests so: xdist's groups, which are for this, do nothing under pytest 9."""
    return OneNode(config, log)


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


def a_namespace(cluster: Node) -> Kubectl:
    """Make a namespace that enforces restricted Pod Security, and return the admin's kubectl in it."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.plane.kubectl().create(manifests.namespace(name))
    return cluster.plane.kubectl(namespace=name)


@pytest.fixture
def kubectl(cluster: Node) -> Kubectl:
    """Return kubectl in a namespace for the test. It goes with the cluster, as all that is in it."""
    return a_namespace(cluster)


@pytest.fixture(scope="module")
def release(cluster: Node) -> Release:
    """Install the chart. A test that takes it away is the last of its file; what is left goes with the cluster."""
    made = Release(cluster.plane.kubectl(namespace=NAMESPACE))
    made.install()
    return made


@pytest.fixture(scope="session")
def scraper(cluster: Node) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the cluster every second."""
    with prometheus(cluster) as made:
        yield made
