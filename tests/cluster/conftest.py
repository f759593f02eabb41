"""Fixtures of the tests that have a real Kubernetes: one cluster for the whole run, a namespace for each test.

pytest tests/cluster                                        # a control plane of our own, built if it is missing
INFERBENCH_KUBE_BIN=/opt/kube pytest tests/cluster          # of these programs
KUBECONFIG=... pytest tests/cluster --existing-cluster      # a cluster that is there already
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.kubernetes import existing, shared, tools
from tests.kubernetes.access import Access
from tests.kubernetes.client import Api, ApiError, Object, eventually
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.kubectl import Kubectl
from tests.kubernetes.nodes import SELECTOR, TOLERATION, some_nodes
from tests.kubernetes.operators import SHOWN_CHARS, Operator
from tests.kubernetes.proxy import FaultProxy
from tests.kubernetes.sweeps import Sweeps

CRDS = Path(__file__).resolve().parents[2] / "crds"
UNBUILT = pytest.StashKey[str]()
"""Why there are no programs, if there are none."""

ESTABLISHED_SECONDS = 60

FILES = (
    "test_faults.py",
    "test_rights.py",
    "test_operator.py",
    "test_kit.py",
    "test_readme.py",
    "test_chart.py",
    "test_get.py",
    "test_crd.py",
)
"""From tests of half a minute to tests of milliseconds."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests run against a cluster that is there."""
    text = (
        "run the cluster tests against the cluster of KUBECONFIG; they make and remove namespaces and fake nodes in it"
    )
    parser.addoption("--existing-cluster", action="store_true", help=text)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take longest, so that at the end no process waits long for another."""
    places = {Path(__file__).with_name(name): place for place, name in enumerate(FILES)}
    items.sort(key=lambda item: places.get(item.path, -1))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before the first test, whose time it would take; what is built is there in milliseconds."""
    if session.config.option.collectonly or not any(item.get_closest_marker("cluster") for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            tools.tool("kubectl")
        except tools.ToolError as error:
            session.config.stash[UNBUILT] = str(error)


@pytest.fixture(scope="session")
def kubernetes(pytestconfig: pytest.Config) -> None:
    """Skip where Kubernetes could not be built; in CI that is a failure."""
    if reason := pytestconfig.stash.get(UNBUILT, None):
        pytest.skip(f"There is no Kubernetes to test with: {reason}")


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config, kubernetes: None) -> Iterator[Access]:
    """The cluster that all tests of the run share, with two nodes of eight GPUs each. Nobody may harm it."""
    if pytestconfig.getoption("--existing-cluster"):
        with existing.joined() as access:
            yield access
    else:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
        with shared.joined(run) as access:
            yield access


@pytest.fixture(scope="session")
def audited(pytestconfig: pytest.Config, cluster: Access) -> Access:
    """The shared cluster, for tests that read its audit log, which somebody else's cluster does not show."""
    if pytestconfig.getoption("--existing-cluster"):
        pytest.skip("The audit log of an existing cluster cannot be read.")
    return cluster


@pytest.fixture
def own_cluster(kubernetes: None) -> Iterator[ControlPlane]:
    """A control plane of the test's own, whose parts may be stopped and killed, with one node of eight GPUs."""
    with ControlPlane() as plane, some_nodes(plane.api(), 1, gpus=8):
        yield plane


@pytest.fixture(scope="session")
def crds(cluster: Access) -> None:
    """What crds/ defines, known to the shared cluster."""
    install_crds(cluster.kubectl())


@pytest.fixture
def api(cluster: Access) -> Api:
    """The shared cluster's API server, as its administrator."""
    return cluster.api()


@pytest.fixture
def namespace(api: Api, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for the test; it goes afterwards, and nobody waits for that."""
    name = new_namespace(api, request.node.name)
    yield name
    drop_namespace(api, name)


@pytest.fixture(scope="module")
def crew(cluster: Access) -> Iterator[Crew]:
    """Operators that tests of a file share, for those that do nothing to theirs."""
    with Crew(cluster) as made:
        yield made


@pytest.fixture
def kubectl(cluster: Access, namespace: str) -> Kubectl:
    """The real kubectl as the administrator, in the test's namespace."""
    return cluster.kubectl(namespace=namespace)


@pytest.fixture
def kubelet(cluster: Access, api: Api, namespace: str) -> Iterator[FakeKubelet]:
    """Plays the pods of the test's namespace: runners hand over the results of their sweeps, others just end well.

    A test that wants other endings sets `kubelet.ending`.
    """
    with FakeKubelet(cluster, Sweeps(api), namespace) as played:
        yield played


@pytest.fixture
def api_proxy(cluster: Access) -> Iterator[FaultProxy]:
    """A proxy before the shared cluster's API server that makes trouble when it is told to."""
    with FaultProxy(cluster) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def on_fake_nodes() -> dict[str, object]:
    """What a pod needs in its spec to land on the fake nodes, also in a cluster that has real ones."""
    return {"nodeSelector": SELECTOR, "tolerations": [TOLERATION]}


class Crew:
    """Operators that serve several tests each, one after the other: to start one costs a second of a CPU.

    Each test has a namespace of its own, which goes with the operator.
    """

    TESTS = 8
    """So many namespaces are made for an operator, whether a test comes or not."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._api = access.api()
        self._free: list[str] = []
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        """Start none yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the last one."""
        self._exit.close()

    @contextmanager
    def place(self) -> Iterator[tuple[Operator, str]]:
        """Return an operator, and a namespace that it watches and nobody has used."""
        if not self._free:
            self._start()
        namespace, since = self._free.pop(), len(self._operator.said)
        yield self._operator, namespace
        print(self._operator.said[since:][-SHOWN_CHARS:], file=sys.stderr)  # noqa: T201 (pytest keeps it)
        if namespace in map(_name, self._api.items("/api/v1/namespaces", fieldSelector="status.phase=Active")):
            _empty(self._api, namespace)
        else:  # the test has deleted it, and the operator watches it still
            self._free.clear()

    def _start(self) -> None:
        self._exit.close()
        self._free = [new_namespace(self._api, "crew") for _ in range(self.TESTS)]
        for name in self._free:
            self._exit.callback(drop_namespace, self._api, name)
        first, *more = self._free
        self._operator = self._exit.enter_context(Operator(self._access, first, more=tuple(more)))


def _name(found: Object) -> str:
    name: str = found["metadata"]["name"]
    return name


def _empty(api: Api, namespace: str) -> None:
    """Delete the benchmarks of a test and their pods, which nobody plays any more."""
    api.delete(f"/apis/inferbench.dev/v1alpha1/namespaces/{namespace}/inferencebenchmarks")
    api.delete(f"/api/v1/namespaces/{namespace}/pods", gracePeriodSeconds=0)


def install_crds(kubectl: Kubectl) -> None:
    """Apply all of crds/ and wait until the API server serves it."""
    if not list(CRDS.glob("*.yaml")):
        return
    kubectl.apply(CRDS, "--server-side", "--force-conflicts")
    eventually(lambda: _are_established(kubectl), ESTABLISHED_SECONDS, f"what {CRDS} defines to be served")


def _are_established(kubectl: Kubectl) -> bool:
    """Look for the condition; `kubectl wait` fails on a definition so new that it has no conditions at all."""
    found = kubectl.get("--filename", str(CRDS))
    told = [each.get("status", {}).get("conditions") or [] for each in found.get("items", [found])]
    return all(any(c["type"] == "Established" and c["status"] == "True" for c in each) for each in told)


def new_namespace(api: Api, told: str = "test") -> str:
    """Create a namespace and wait until pods may be created in it: they need its account `default`."""
    words = re.sub(r"[^a-z0-9]+", "-", told.lower().removeprefix("test_")).strip("-")[:40].strip("-")
    name = f"{words or 'test'}-{secrets.token_hex(3)}"
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    eventually(lambda: api.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 30, f"the accounts of {name}")
    return name


def drop_namespace(api: Api, name: str) -> None:
    """Delete a namespace. Nobody plays its pods any more, so they go without a kubelet's word."""
    try:
        api.delete(f"/api/v1/namespaces/{name}")
        api.delete(f"/api/v1/namespaces/{name}/pods", gracePeriodSeconds=0)
    except ApiError as error:
        if error.status not in {404, 409}:  # the test has deleted it
            raise
