"""What goes wrong around the operator: kills, restarts, a server that makes trouble, two operators, a crowd."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from inferbench_contract.words import Strategy
from tests.cluster.benchmarks import a_benchmark, the_status, until
from tests.cluster.conftest import install_crds
from tests.kubernetes.client import eventually
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.operators import RELEASE, Operator, give_rights
from tests.kubernetes.proxy import Fault
from tests.kubernetes.sweeps import Sweeps, latency_ns

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]

FIFTY = 50
SECONDS = 240

SEEDS = range(5)
"""Of the moments at which the operator is killed: that run is repeated with others."""


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


def asked_by_operators(cluster, namespace, since):
    """Return what the operators of a namespace have asked for; those of other tests run beside them."""
    asked = (request for request in cluster.audit(since) if request.agent.startswith("inferbench-operator/"))
    return [request for request in asked if request.namespace == namespace]


@pytest.fixture
def sweeps_of_half_a_second(kubelet, api):
    kubelet.ending = Sweeps(api, seconds=0.5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.usefixtures("sweeps_of_half_a_second")
def test_an_operator_killed_again_and_again_loses_nothing_and_makes_nothing_twice(
    cluster, operator, kubectl, namespace, on_fake_nodes, seed
):
    drawn = random.Random(seed)
    kubectl.apply(many(FIFTY, on_nodes=on_fake_nodes))
    since = cluster.audit_position()

    for _ in range(5):
        time.sleep(drawn.uniform(0.5, 3))
        operator.kill()
        operator.start(is_ready=False)

    eventually(are_finished(kubectl, FIFTY), SECONDS)
    eventually(lambda: all(job["spec"].get("ttlSecondsAfterFinished") for job in kubectl.get("jobs")["items"]))
    check_all(kubectl, FIFTY)
    assert not [request for request in asked_by_operators(cluster, namespace, since) if request.status == 403]


WRITES = "create,patch,delete"


def test_an_operator_that_dies_after_every_single_write_still_ends_with_the_answer(
    cluster, kubectl, kubelet, namespace, api_proxy, on_fake_nodes
):
    lives, allowed = 0, 1
    with Operator(cluster, namespace, kubeconfig=through(api_proxy, cluster, namespace)) as operator:
        operator.kill()
        kubectl.apply(a_benchmark("b0", on_nodes=on_fake_nodes))
        while not is_let_go(kubectl):
            lives += 1
            # What the life before wrote may be asked for once more: that it is there already is no progress.
            allowed = 1 if live(operator, api_proxy, kubectl, allowed) else 2

    check_all(kubectl, 1)
    assert 4 <= lives <= 20
    assert len(kubectl.get("events", "--field-selector=reason=Succeeded")["items"]) == 1


def live(operator, api_proxy, kubectl, writes):
    """Let an operator ask for so many writes, and kill it when it asks for another; return how many were done."""
    api_proxy.clear()
    before = len(api_proxy.requests)
    allowed = api_proxy.inject(Fault(verb=WRITES, count=writes))
    another = api_proxy.inject(Fault(verb=WRITES, count=-1, delay=SECONDS))
    operator.start(is_ready=False)
    eventually(lambda: another.hits or is_let_go(kubectl), SECONDS, "one write too many")
    operator.kill()
    return sum(each.fault is allowed and each.status < 300 for each in api_proxy.requests[before:])


def is_let_go(kubectl):
    """Tell whether the operator has done all that it does for a benchmark."""
    jobs = kubectl.get("jobs")["items"]
    return bool(jobs) and all(job["spec"].get("ttlSecondsAfterFinished") is not None for job in jobs)


def through(api_proxy, cluster, namespace):
    """Return the kubeconfig with which an operator speaks to the proxy."""
    give_rights(cluster, namespace)
    return api_proxy.kubeconfig(f"operator-{namespace}", cluster.api().token_of(namespace, RELEASE))


def test_two_operators_at_once_do_no_harm(cluster, operator, kubectl, kubelet, namespace, on_fake_nodes):
    with Operator(cluster, namespace, name="another"):
        kubectl.apply(many(20, on_nodes=on_fake_nodes))

        eventually(are_finished(kubectl, 20), SECONDS)

    check_all(kubectl, 20)


FAULTS = {
    "conflict": Fault(status=409, verb="patch", path="*/status", count=3),
    "errors": Fault(status=500, verb="create", count=5),
    "late-error-of-a-job": Fault(status=500, verb="create", path="*/jobs", count=2, is_late=True),
    "late-error-of-a-shard": Fault(status=504, verb="create", path="*/configmaps", count=2, is_late=True),
    "late-error-of-a-status": Fault(status=503, verb="patch", path="*/status", count=2, is_late=True),
    "busy": Fault(status=429, retry_after=1, count=5),
    "cut": Fault(cut=True, verb="create,patch", count=5),
    "slow": Fault(delay=2, verb="create", count=4),
    "every-watch-gone-after-a-second": Fault(status=410, verb="watch", in_stream=True, cut_after=1, count=-1),
    "every-watch-cut-after-a-second": Fault(verb="watch", cut=True, cut_after=1, count=-1),
    "no-watch-of-pods-at-all": Fault(status=503, verb="watch", path="*/pods", count=-1),
    "errors-in-every-watch-of-jobs-and-pods": Fault(
        status=500, verb="watch", path="*/[jp]o[bd]s", in_stream=True, cut_after=1, count=-1
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_server_that_makes_trouble_only_costs_time(
    cluster, kubectl, kubelet, namespace, api_proxy, fault, on_fake_nodes
):
    met = api_proxy.inject(replace(fault))
    kubectl.apply(many(3, on_nodes=on_fake_nodes))
    with Operator(cluster, namespace, kubeconfig=through(api_proxy, cluster, namespace)) as operator:
        eventually(are_finished(kubectl, 3), SECONDS)
        assert "An error of the operator itself" not in operator.said

    check_all(kubectl, 3)
    assert met.hits


def test_watches_that_are_cut_in_the_middle_of_it_all_are_opened_again(
    cluster, kubectl, kubelet, api, namespace, api_proxy, on_fake_nodes
):
    kubelet.ending = Sweeps(api, seconds=0.5)
    with Operator(cluster, namespace, kubeconfig=through(api_proxy, cluster, namespace)):
        kubectl.apply(many(3, on_nodes=on_fake_nodes))
        eventually(lambda: kubelet.started)

        assert api_proxy.cut_watches() == 3

        eventually(are_finished(kubectl, 3), SECONDS)

    check_all(kubectl, 3)


def test_an_error_in_the_watch_of_benchmarks_ends_the_operator_and_the_next_one_goes_on(
    cluster, kubectl, kubelet, namespace, api_proxy, on_fake_nodes
):
    fault = Fault(status=500, verb="watch", path="*/inferencebenchmarks", in_stream=True, cut_after=1, count=-1)
    with Operator(cluster, namespace, kubeconfig=through(api_proxy, cluster, namespace)) as operator:
        kubectl.apply(many(3, on_nodes=on_fake_nodes))
        met = api_proxy.inject(fault)

        def has_ended_by_an_error():
            if not met.hits:
                api_proxy.cut_watches()  # the next one meets the fault
            return operator.process.poll() not in {None, 0}

        eventually(has_ended_by_an_error, SECONDS)
        api_proxy.clear()
        operator.start()  # as the kubelet does

        eventually(are_finished(kubectl, 3), SECONDS)

    check_all(kubectl, 3)


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


def test_a_restart_among_finished_benchmarks_writes_nothing(
    cluster, operator, kubectl, kubelet, namespace, on_fake_nodes
):
    kubectl.apply(many(10, on_nodes=on_fake_nodes))
    eventually(are_finished(kubectl, 10), SECONDS)
    eventually(lambda: all(job["spec"].get("ttlSecondsAfterFinished") for job in kubectl.get("jobs")["items"]))
    operator.kill()
    since = cluster.audit_position()

    operator.start()
    eventually(lambda: all(f'benchmark="b{number}"' in operator.get("/results") for number in range(10)))

    assert [request for request in asked_by_operators(cluster, namespace, since) if request.writes] == []


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
    assert first["latencyNanoseconds"] == latency_ns(Strategy.parse("onnxruntime/fp32"), 1)


def test_rows_that_somebody_deleted_are_missed_at_the_next_start(operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    until(kubectl, "ResultsComplete", "EveryCellHasAnOutcome")
    (shard,) = the_status(kubectl)["shards"]
    kubectl.delete(f"configmap/{shard['configMap']}")
    operator.kill()

    operator.start()

    missed = until(kubectl, "ResultsComplete", "ShardMissing")
    assert shard["configMap"] in missed["message"]
    assert the_status(kubectl)["best"] == "onnxruntime/fp32@1"


def test_a_pod_whose_node_is_gone_is_named_and_its_sweep_is_measured_once_the_pod_has_ended(
    cluster, operator, kubectl, api, namespace, on_fake_nodes
):
    with FakeKubelet(cluster, Sweeps(api, seconds=3600), namespace) as node:
        kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
        eventually(lambda: node.started)
    pod = node.started[0].name
    kubectl.run("delete", "pod", pod, "--grace-period=1", "--wait=false")

    told = until(kubectl, "Running", "PodDoesNotEnd")

    assert f"kubectl delete pod {pod} --force" in told["message"]
    with FakeKubelet(cluster, Sweeps(api), namespace):  # the node is back
        until(kubectl, "Succeeded", "AllCellsMeasured")
