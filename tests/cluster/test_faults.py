"""What goes wrong around the operator: kills, restarts, a server that makes trouble, two operators, a crowd."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from urllib.error import HTTPError

import pytest

from inferbench_contract import shards
from inferbench_contract.words import Outcome, Strategy
from tests.cluster.benchmarks import a_benchmark, the_status, until
from tests.cluster.conftest import install_crds
from tests.kubernetes import odd_operator
from tests.kubernetes.client import eventually
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.nodes import SELECTOR, FakeNodes, a_node
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
    """Return benchmarks that differ in what they measure: no result of one could pass for another's."""
    return [
        a_benchmark(f"b{number}", **{"parallelism": 1 + number % 4, "batchSizes": [1, 2 + number], **spec})
        for number in range(count)
    ]


def are_finished(kubectl, count):
    def look():
        conditions = [(item.get("status") or {}).get("conditions") or [] for item in kubectl.get("ibench")["items"]]
        ended = sum(any(c["type"] == "Finished" and c["status"] == "True" for c in each) for each in conditions)
        assert ended == count, f"{ended} of {count} have ended"
        return True

    return look


def check_all(kubectl, count, sweeps=4):
    """Look whether every benchmark has the answer that follows from what the pods said, with nothing twice or lost."""
    items = kubectl.get("ibench")["items"]
    assert len(items) == count
    for item in items:
        status = item["status"]
        assert the_reason(item, "Succeeded") == ("True", "AllCellsMeasured"), (item["metadata"]["name"], status)
        assert status["sweeps"] == {"planned": sweeps, "finished": sweeps}
        assert status["best"] == "onnxruntime/fp32@1"
    jobs = Counter(job["metadata"]["labels"]["inferbench.dev/benchmark"] for job in kubectl.get("jobs")["items"])
    assert set(jobs.values()) == {1}
    maps = kubectl.get("configmaps", "--selector=inferbench.dev/benchmark")["items"]
    assert len(maps) == sum(len(item["status"]["shards"]) for item in items)
    for item in items:
        check_numbers(item, {each["metadata"]["name"]: each["data"] for each in maps})


def check_numbers(item, maps):
    """Compare every row, and the answer, with what the pods said: `sweeps.latency_ns`."""
    status, sizes = item["status"], item["spec"]["batchSizes"]
    stored = [maps[shard["configMap"]] for shard in status["shards"]]
    assert [shards.checksum(data) for data in stored] == [shard["sha256"] for shard in status["shards"]]
    plan = next(filter(None, (shards.plan_of(data, item["metadata"]["name"]) for data in stored)))
    results = [result for data in stored for result in shards.unpack(data, plan)]
    assert len(results) == sum(shard["sweeps"] for shard in status["shards"]) == len(plan.sweeps)
    assert {
        (result.sweep, cell.batch_size): (cell.outcome, cell.latency_median_ns)
        for result in results
        for cell in result.cells
    } == {
        (sweep.index, size): (Outcome.MEASURED, latency_ns(sweep.strategy, size))
        for sweep in plan.sweeps
        for size in sizes
    }
    strategies = {sweep.strategy for sweep in plan.sweeps}
    assert [
        (each["batchSize"], each["latencyNanoseconds"], each["strategy"]) for each in status["summary"]["best"]
    ] == [(size, *min((latency_ns(strategy, size), str(strategy)) for strategy in strategies)) for size in sizes]


def the_reason(item, kind):
    """Return the status and reason of a condition."""
    (found,) = [each for each in item["status"]["conditions"] if each["type"] == kind]
    return found["status"], found["reason"]


def asked_by_operators(cluster, namespace, since):
    """Return what the operators of a namespace have asked for; those of other tests run beside them."""
    asked = (request for request in cluster.audit(since) if request.agent.startswith("inferbench-operator/"))
    return [request for request in asked if request.namespace == namespace]


@pytest.fixture
def sweeps_of_half_a_second(kubelet, api):
    kubelet.ending = Sweeps(api, seconds=0.5)


@pytest.fixture
def sweeps_of_a_second(kubelet, api):
    kubelet.ending = Sweeps(api, seconds=1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.usefixtures("sweeps_of_half_a_second")
def test_an_operator_killed_again_and_again_loses_nothing_and_makes_nothing_twice(
    operator, kubectl, on_fake_nodes, seed
):
    drawn = random.Random(seed)
    kubectl.apply(many(FIFTY, on_nodes=on_fake_nodes))

    for _ in range(5):
        time.sleep(drawn.uniform(0.5, 3))
        operator.kill()
        operator.start(is_ready=False)

    eventually(are_finished(kubectl, FIFTY), SECONDS)
    eventually(lambda: all(job["spec"].get("ttlSecondsAfterFinished") for job in kubectl.get("jobs")["items"]))
    check_all(kubectl, FIFTY)
    assert "403 Forbidden" not in operator.said


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

    ends = Counter(the_reason(item, "Succeeded") for item in kubectl.get("ibench")["items"])
    assert ends == {("True", "AllCellsMeasured"): 200}
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
    audited, operator, kubectl, kubelet, namespace, on_fake_nodes
):
    kubectl.apply(many(10, on_nodes=on_fake_nodes))
    eventually(are_finished(kubectl, 10), SECONDS)
    eventually(lambda: all(job["spec"].get("ttlSecondsAfterFinished") for job in kubectl.get("jobs")["items"]))
    operator.kill()
    since = audited.audit_position()

    operator.start()
    eventually(lambda: all(f'benchmark="b{number}"' in operator.get("/results") for number in range(10)))

    assert [request for request in asked_by_operators(audited, namespace, since) if request.writes] == []


def test_results_are_told_once_all_that_had_ended_were_read_and_not_by_halves(
    cluster, kubectl, kubelet, namespace, api_proxy, on_fake_nodes
):
    with Operator(cluster, namespace, kubeconfig=through(api_proxy, cluster, namespace)) as operator:
        kubectl.apply(many(3, on_nodes=on_fake_nodes))
        eventually(are_finished(kubectl, 3), SECONDS)
        operator.kill()
        api_proxy.inject(Fault(verb="get", path="*/configmaps/*", delay=10))

        operator.start()

        with pytest.raises(HTTPError) as refused:
            operator.get("/results")
        assert refused.value.code == 503
        assert "of 3 benchmarks that had ended before the operator started" in refused.value.read().decode()
        page = eventually(lambda: operator.get("/results"), SECONDS)
        assert all(f'benchmark="b{number}"' in page for number in range(3))


def hour_of(text):
    return datetime.fromisoformat(text).timestamp() / 3600


@pytest.mark.usefixtures("sweeps_of_a_second")
@pytest.mark.parametrize("hours", [1, -1], ids=["an-hour-ahead", "an-hour-back"])
def test_a_clock_that_jumps_in_the_middle_of_a_run_costs_nothing(
    cluster, kubectl, namespace, on_fake_nodes, tmp_path, hours
):
    clock = tmp_path / "clock"
    odd_operator.turn(clock, hours=0)
    with Operator(cluster, namespace, program=odd_operator.with_clock(clock)) as operator:
        kubectl.apply(many(3, on_nodes=on_fake_nodes))
        eventually(lambda: all((item.get("status") or {}).get("startTime") for item in kubectl.get("ibench")["items"]))

        odd_operator.turn(clock, hours=hours)

        eventually(are_finished(kubectl, 3), 60)
        eventually(lambda: all(job["spec"].get("ttlSecondsAfterFinished") for job in kubectl.get("jobs")["items"]))
        assert "An error of the operator itself" not in operator.said
    check_all(kubectl, 3)
    for item in kubectl.get("ibench")["items"]:
        took = hour_of(item["status"]["completionTime"]) - hour_of(item["status"]["startTime"])
        assert took == pytest.approx(hours, abs=0.1), "its clock did jump"


def test_an_operator_that_would_plan_otherwise_keeps_the_plan_of_a_job_that_runs(
    cluster, operator, kubectl, kubelet, api, namespace, on_fake_nodes
):
    kubelet.ending = Sweeps(api, seconds=1)
    kubectl.apply(a_benchmark("b0", on_nodes=on_fake_nodes))
    eventually(lambda: kubectl.get("jobs")["items"])
    (before,) = kubectl.get("jobs")["items"]
    operator.kill()

    with Operator(cluster, namespace, name="upgraded", program=odd_operator.with_other_plans()):
        eventually(are_finished(kubectl, 1), SECONDS)
        check_all(kubectl, 1)
        assert [job["metadata"]["uid"] for job in kubectl.get("jobs")["items"]] == [before["metadata"]["uid"]]

        kubectl.apply(a_benchmark("b1", on_nodes=on_fake_nodes))
        eventually(are_finished(kubectl, 2), SECONDS)

    check_all(kubectl, 2)
    kept, new = (the_status(kubectl, name)["plan"]["hash"] for name in ("b0", "b1"))
    assert kept in before["metadata"]["name"]
    assert new != kept, "the same spec, planned by the other one"


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


def test_rows_that_somebody_deleted_while_it_runs_are_put_back_from_the_pods_that_have_them(
    cluster, kubectl, kubelet, api, namespace, on_fake_nodes
):
    kubelet.ending = Sweeps(api, seconds=2)
    quick = {"INFERBENCH_OPERATOR_SHARD_AFTER_SECONDS": "1", "INFERBENCH_OPERATOR_RESYNC_SECONDS": "10"}
    with Operator(cluster, namespace, settings=quick):
        kubectl.apply(a_benchmark("b0", on_nodes=on_fake_nodes, measurement={"rounds": 4}))
        (first, *_) = eventually(lambda: the_status(kubectl, "b0").get("shards"))
        kubectl.delete(f"configmap/{first['configMap']}")

        eventually(are_finished(kubectl, 1), SECONDS)

    check_all(kubectl, 1, sweeps=8)
    assert len(kubelet.indexes) == 8, "a sweep was measured twice"


def test_a_status_that_the_server_refuses_again_and_again_is_said_and_written_once_it_takes_it(
    cluster, kubectl, kubelet, api, namespace, api_proxy, on_fake_nodes
):
    kubelet.ending = Sweeps(api, seconds=1)
    with Operator(cluster, namespace, kubeconfig=through(api_proxy, cluster, namespace)):
        kubectl.apply(a_benchmark("b0", on_nodes=on_fake_nodes))
        until(kubectl, "Running", "SweepsRunning", "b0")
        too_large = Fault(status=422, verb="patch", path="*/status", containing='"sweeps"', count=-1)
        refused = api_proxy.inject(replace(too_large, message="status.summary: Too large"))

        told = until(kubectl, "Running", "StatusRefused", "b0")

        assert told["message"].startswith("status.summary: Too large. What is measured is kept.")
        eventually(lambda: refused.hits >= 3)
        api_proxy.clear()
        eventually(are_finished(kubectl, 1), SECONDS)
    check_all(kubectl, 1)


def test_a_job_that_the_server_refuses_for_good_ends_the_benchmark_with_its_words(
    cluster, kubectl, kubelet, namespace, api_proxy, on_fake_nodes
):
    api_proxy.inject(Fault(status=422, verb="create", path="*/jobs", message="spec.template: Invalid value"))
    with Operator(cluster, namespace, kubeconfig=through(api_proxy, cluster, namespace)):
        kubectl.apply(a_benchmark("b0", on_nodes=on_fake_nodes))

        told = until(kubectl, "Accepted", "JobRefused", "b0")

        assert "The API server refuses the Job: spec.template: Invalid value." in told["message"]
        assert the_reason(kubectl.get("ibench", "b0"), "Finished") == ("True", "JobRefused")
    assert not kubectl.get("jobs")["items"]


LONELY = "NVIDIA-Lonely"
RESERVED = {"key": "inferbench.dev/lonely", "value": "true", "effect": "NoSchedule"}


@pytest.fixture
def one_gpu(api, namespace) -> Iterator[dict[str, object]]:
    """What lets pods land on a node with a single GPU that nobody else uses."""
    node = a_node(f"lonely-{namespace}"[:60], gpus=1, product=LONELY)
    node["spec"]["taints"] = [RESERVED]
    with FakeNodes(api, node, gpus=1):
        yield {"nodeSelector": SELECTOR, "tolerations": [{"operator": "Exists", "key": RESERVED["key"]}]}


def test_two_benchmarks_that_wait_for_each_others_pods_say_so_once(audited, kubectl, kubelet, api, namespace, one_gpu):
    kubelet.ending = Sweeps(api, seconds=4)
    asked = {"device": "gpu", "gpu": {"products": [LONELY]}, "parallelism": 1, "on_nodes": one_gpu}
    since, began = audited.audit_position(), time.monotonic()
    with Operator(audited, namespace, settings={"INFERBENCH_OPERATOR_STATUS_INTERVAL_SECONDS": "5"}):
        kubectl.apply(many(2, **asked))
        eventually(are_finished(kubectl, 2), SECONDS)

    check_all(kubectl, 2)
    events = kubectl.get("events", "--field-selector=involvedObject.kind=InferenceBenchmark")["items"]
    told = Counter(event["reason"] for event in events)
    assert told["Unschedulable"] in {1, 2}
    assert told == {"Planned": 2, "Succeeded": 2, "Unschedulable": told["Unschedulable"]}
    asked_for = asked_by_operators(audited, namespace, since)
    written = [each for each in asked_for if (each.verb, each.resource) == ("patch", "inferencebenchmarks/status")]
    assert len(written) <= 2 * (3 + (time.monotonic() - began) / 5)


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
