"""What goes wrong around the operator: kills, restarts, a server that makes trouble, two operators, a crowd."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.cluster.benchmarks import a_benchmark, the_status, until
from tests.cluster.conftest import install_crds
from tests.kubernetes.client import eventually
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.operators import Operator
from tests.kubernetes.proxy import Fault
from tests.kubernetes.sweeps import Sweeps, latency_ns

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]

FIFTY = 50
SECONDS = 240


@pytest.fixture
def operator(cluster, namespace) -> Iterator[Operator]:
    with Operator(cluster, namespace) as started:
        yield started


def many(count, **spec):
    return [a_benchmark(f"b{number}", parallelism=1 + number % 4, **spec) for number in range(count)]


def are_finished(kubectl, count):
    def look():
        conditions = [(item.get("status") or {}).get("conditions") or [] for item in kubectl.get("ibench")["items"]]
        ended = sum(any(c["type"] == "Finished" and c["status"] == "True" for c in each) for each in conditions)
        assert ended == count, f"{ended} of {count} have ended"
        return True

    return look


def check_all(kubectl, count):
    """Look whether every benchmark has the answer that follows from what the pods said, with nothing twice or lost."""
    items = kubectl.get("ibench")["items"]
    assert len(items) == count
    for item in items:
        status = item["status"]
        (succeeded,) = [each for each in status["conditions"] if each["type"] == "Succeeded"]
        assert (succeeded["status"], succeeded["reason"]) == ("True", "AllCellsMeasured"), (
            item["metadata"]["name"],
            succeeded,
        )
        assert status["sweeps"] == {"planned": 4, "finished": 4}
        assert status["best"] == "onnxruntime/fp32@1"
        assert sum(shard["sweeps"] for shard in status["shards"]) == 4
    jobs = Counter(job["metadata"]["labels"]["inferbench.dev/benchmark"] for job in kubectl.get("jobs")["items"])
    assert set(jobs.values()) == {1}
    maps = kubectl.get("configmaps", "--selector=inferbench.dev/benchmark")["items"]
    assert len(maps) == sum(len(item["status"]["shards"]) for item in items)


def test_an_operator_killed_again_and_again_loses_nothing_and_makes_nothing_twice(
    cluster, operator, kubectl, kubelet, api, on_fake_nodes
):
    kubelet.ending = Sweeps(api, seconds=0.5)
    drawn = random.Random(20261125)
    kubectl.apply(many(FIFTY, on_nodes=on_fake_nodes))
    since = cluster.audit_position()

    for _ in range(5):
        time.sleep(drawn.uniform(0.5, 3))
        operator.kill()
        operator.start(is_ready=False)

    eventually(are_finished(kubectl, FIFTY), SECONDS)
    eventually(lambda: all(job["spec"].get("ttlSecondsAfterFinished") for job in kubectl.get("jobs")["items"]))
    check_all(kubectl, FIFTY)
    asked = [request for request in cluster.audit(since) if request.agent.startswith("inferbench-operator/")]
    assert not [request for request in asked if request.status == 403]


def test_two_operators_at_once_do_no_harm(cluster, operator, kubectl, kubelet, namespace, on_fake_nodes):
    with Operator(cluster, namespace, name="another"):
        kubectl.apply(many(20, on_nodes=on_fake_nodes))

        eventually(are_finished(kubectl, 20), SECONDS)

    check_all(kubectl, 20)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=409, verb="patch", path="*/status", count=3),
        Fault(status=500, verb="create", count=5),
        Fault(status=500, verb="create", path="*/jobs", count=2, is_late=True),
        Fault(status=503, verb="patch", path="*/status", count=2, is_late=True),
        Fault(status=429, retry_after=1, count=5),
        Fault(cut=True, verb="create,patch", count=5),
        Fault(status=410, verb="watch", count=3, in_stream=True),
        Fault(verb="watch", cut=True, cut_after=1, count=6),
        Fault(delay=2, verb="create", count=4),
    ],
    ids=[
        "conflict",
        "errors",
        "late-error-of-a-job",
        "late-error-of-a-status",
        "busy",
        "cut",
        "gone",
        "watches-cut",
        "slow",
    ],
)
def test_a_server_that_makes_trouble_only_costs_time(
    cluster, kubectl, kubelet, namespace, api_proxy, fault, on_fake_nodes
):
    with Operator(cluster, namespace) as first:
        token = first.token
    kubeconfig = api_proxy.kubeconfig(f"operator-{namespace}", token)
    with Operator(cluster, namespace, kubeconfig=kubeconfig):
        api_proxy.inject(fault)
        kubectl.apply(many(3, on_nodes=on_fake_nodes))

        eventually(are_finished(kubectl, 3), SECONDS)

    check_all(kubectl, 3)
    assert fault.hits


def test_benchmarks_go_on_after_the_api_server_and_etcd_were_restarted(own_cluster):
    install_crds(own_cluster.kubectl())
    kubectl = own_cluster.kubectl(namespace="default")
    with (
        FakeKubelet(own_cluster.access, Sweeps(own_cluster.api(), seconds=1), "default"),
        Operator(own_cluster.access, "default"),
    ):
        kubectl.apply(many(5))
        eventually(lambda: kubectl.get("pods")["items"])
        for component in ("kube-apiserver", "etcd"):
            own_cluster.kill(component)
            time.sleep(1)
            own_cluster.start(component)
            own_cluster.wait_ready()
            time.sleep(2)

        eventually(are_finished(kubectl, 5), SECONDS)

    check_all(kubectl, 5)


def test_two_hundred_applied_at_once_all_end(operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(many(200, on_nodes=on_fake_nodes, backends=["fake"], batchSizes=[1], measurement={"rounds": 1}))

    eventually(are_finished(kubectl, 200), 2 * SECONDS)

    assert "An error of the operator itself" not in operator.said


def test_a_benchmark_above_the_limit_of_cells_is_refused_with_arithmetic(kubectl, operator):
    sizes = list(range(1, 65))
    wrong = a_benchmark(
        backends=["torch-eager", "torch-compile", "onnxruntime", "openvino"],
        precisions=["fp32", "fp16", "bf16", "int8-static"],
        batchSizes=sizes,
    )

    with pytest.raises(Exception, match=r"1,?024 cells|1000|1,000"):
        kubectl.apply(wrong)


def test_a_backlog_is_worked_off_when_an_operator_comes(cluster, kubectl, kubelet, namespace, on_fake_nodes):
    kubectl.apply(many(10, on_nodes=on_fake_nodes))

    with Operator(cluster, namespace):
        eventually(are_finished(kubectl, 10), SECONDS)

    check_all(kubectl, 10)


def test_a_restart_among_finished_benchmarks_writes_nothing(cluster, operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(many(10, on_nodes=on_fake_nodes))
    eventually(are_finished(kubectl, 10), SECONDS)
    eventually(lambda: all(job["spec"].get("ttlSecondsAfterFinished") for job in kubectl.get("jobs")["items"]))
    operator.kill()
    since = cluster.audit_position()

    operator.start()
    eventually(lambda: all(f'benchmark="b{number}"' in operator.get("/results") for number in range(10)))

    asked = [request for request in cluster.audit(since) if request.agent.startswith("inferbench-operator/")]
    assert [request for request in asked if request.writes] == []


def test_the_plan_inside_a_running_job_stays_the_plan(cluster, operator, kubectl, kubelet, api, on_fake_nodes):
    kubelet.ending = Sweeps(api, seconds=1)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    eventually(lambda: kubectl.get("jobs")["items"])
    (before,) = kubectl.get("jobs")["items"]
    operator.kill()

    operator.start()

    until(kubectl, "Succeeded", "AllCellsMeasured")
    assert [job["metadata"]["uid"] for job in kubectl.get("jobs")["items"]] == [before["metadata"]["uid"]]
    first = the_status(kubectl)["summary"]["best"][0]
    assert first["latencyNanoseconds"] == latency_ns(*_winner())


def _winner():
    from inferbench_contract.words import Strategy

    return Strategy.parse("onnxruntime/fp32"), 1
