"""The operator on a real Kubernetes: `kubectl apply`, and the answer in the status. Only the node is played."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from inferbench_contract import document, shards, summary
from tests.bad_specs import BY_OPERATOR
from tests.cluster.benchmarks import SECONDS, a_benchmark, the_condition, the_status, until
from tests.kubernetes.client import eventually
from tests.kubernetes.fake_kubelet import Ending
from tests.kubernetes.nodes import GPU
from tests.kubernetes.operators import Operator
from tests.kubernetes.sweeps import Sweeps, latency_ns

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]


@pytest.fixture
def place(crew) -> Iterator[tuple[Operator, str]]:
    with crew.place() as found:
        yield found


@pytest.fixture
def operator(place) -> Operator:
    return place[0]


@pytest.fixture
def namespace(place) -> str:
    return place[1]


# ---- a good day ----------------------------------------------------------------------------------


def test_a_benchmark_is_measured_and_its_status_has_the_answer(operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)

    status = the_status(kubectl)
    assert status["best"] == "onnxruntime/fp32@1"
    assert status["sweeps"] == {"planned": 4, "finished": 4}
    assert status["cells"]["measured"] == 4
    (best, _) = status["summary"]["best"]
    eager, ort = (latency_ns(strategy, 1) for strategy in strategies(kubectl))
    assert best["speedupMilli"] == round(1000 * eager / ort)


def read(kubectl):
    return document.from_object(kubectl.get("ibench", "resnet50"), "resnet50")


def strategies(kubectl):
    return read(kubectl).spec.strategies


def test_sweeps_run_in_the_order_of_the_plan(operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, measurement={"rounds": 4}))

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)

    assert kubelet.indexes == list(range(8))


def test_kubectl_get_shows_what_a_person_looks_for(operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    kubectl.wait("ibench/resnet50", condition="Finished", seconds=SECONDS)

    header, row = kubectl.run("get", "ibench").splitlines()

    assert header.split() == ["NAME", "SUCCEEDED", "REASON", "DONE", "TOTAL", "FAILED", "GPU", "BEST", "SPEEDUP", "AGE"]
    assert row.split()[:6] == ["resnet50", "True", "AllCellsMeasured", "4", "4", "0"]


def test_every_row_is_in_a_shard_that_nobody_can_change(operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    kubectl.wait("ibench/resnet50", condition="Finished", seconds=SECONDS)

    (named,) = the_status(kubectl)["shards"]
    stored = kubectl.get("configmap", named["configMap"])
    found = shards.plan_of(stored["data"], "the shard")

    assert found is not None
    assert stored["immutable"] is True
    assert shards.checksum(stored["data"]) == named["sha256"]
    results = shards.unpack(stored["data"], found)
    expected = summary.summarize(read(kubectl), found, results).document()
    assert the_status(kubectl)["summary"] == {key: value for key, value in expected.items() if value is not None}


def asked_by_the_operator(cluster, namespace, since):
    """What the test's own operator has asked the API server for; others may run beside it."""
    asked = (request for request in cluster.audit(since) if request.agent.startswith("inferbench-operator/"))
    return [request for request in asked if request.namespace == namespace]


def test_a_benchmark_side_by_side_costs_at_most_ten_writes_and_no_list_of_pods(
    audited, operator, kubectl, kubelet, namespace, on_fake_nodes
):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, parallelism=4))
    since = audited.audit_position()
    kubectl.wait("ibench/resnet50", condition="Finished", seconds=SECONDS)

    asked = asked_by_the_operator(audited, namespace, since)

    assert len([request for request in asked if request.writes]) <= 10
    assert not [request for request in asked if (request.verb, request.resource) == ("list", "pods")]


def test_nothing_of_the_framework_stays_on_the_objects(operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    kubectl.wait("ibench/resnet50", condition="Finished", seconds=SECONDS)

    stored = kubectl.run("get", "ibench,jobs,pods", "-o", "json")

    assert "kopf" not in stored
    assert "finalizers" not in kubectl.get("ibench", "resnet50")["metadata"]


def test_its_metrics_tell_the_winner(operator, kubectl, kubelet, namespace, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    kubectl.wait("ibench/resnet50", condition="Finished", seconds=SECONDS)

    mine = f'namespace="{namespace}"'
    page = eventually(lambda: mine in (text := operator.get("/results")) and text)

    latency = latency_ns(strategies(kubectl)[1], 8) / 1e9
    line = next(
        line
        for line in page.splitlines()
        if line.startswith("inferbench_cell_latency_median_seconds{")
        and mine in line
        and 'backend="onnxruntime"' in line
        and 'batch_size="8"' in line
    )
    assert float(line.split()[-1]) == pytest.approx(latency)


def test_a_benchmark_that_is_deleted_while_it_runs_takes_everything_along(
    operator, kubectl, kubelet, api, namespace, on_fake_nodes
):
    kubelet.ending = Sweeps(api, seconds=5)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    eventually(lambda: kubectl.get("pods")["items"])

    kubectl.delete("ibench/resnet50")

    eventually(lambda: not kubectl.get("jobs")["items"] and not kubectl.get("pods")["items"], 60, "Jobs and pods to go")


# ---- changes while it runs -----------------------------------------------------------------------


def test_suspending_keeps_what_is_done_and_resuming_goes_on(operator, kubectl, kubelet, api, on_fake_nodes):
    kubelet.ending = Sweeps(api, seconds=0.5)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, measurement={"rounds": 4}))
    eventually(lambda: the_status(kubectl).get("sweeps", {}).get("finished", 0) >= 2)

    kubectl.run("patch", "ibench", "resnet50", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    until(kubectl, "Suspended", "SuspendedBySpec")
    eventually(lambda: all(job["spec"]["suspend"] for job in kubectl.get("jobs")["items"]))
    kubectl.run("patch", "ibench", "resnet50", "--type=merge", "-p", '{"spec": {"suspend": false}}')

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)
    assert len(kubectl.get("jobs")["items"]) == 1


def test_parallelism_changes_while_it_runs(operator, kubectl, kubelet, api, on_fake_nodes):
    kubelet.ending = Sweeps(api, seconds=2)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, measurement={"rounds": 4}))
    eventually(lambda: kubectl.get("jobs")["items"])

    kubectl.run("patch", "ibench", "resnet50", "--type=merge", "-p", '{"spec": {"parallelism": 4}}')

    eventually(lambda: kubectl.get("jobs")["items"][0]["spec"]["parallelism"] == 4)
    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)


# ---- bad days ------------------------------------------------------------------------------------


def test_a_gpu_that_no_node_has_is_named_within_seconds(operator, kubectl, kubelet, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, device="gpu", gpu={"products": ["NVIDIA-Imaginary"]}))

    running = until(kubectl, "Running", "Unschedulable", seconds=15)

    assert "didn't match Pod's node affinity" in running["message"] or "Insufficient" in running["message"]


def test_sweeps_run_on_nodes_with_the_gpu_that_is_asked_for(operator, kubectl, kubelet, api, namespace, on_fake_nodes):
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, device="gpu", gpu={"products": ["NVIDIA-Imaginary", GPU]}))

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)

    pods = kubectl.get("pods")["items"]
    nodes = {node["metadata"]["name"]: node["metadata"]["labels"] for node in api.items("/api/v1/nodes")}
    assert len(pods) == 4
    assert {nodes[pod["spec"]["nodeName"]].get("nvidia.com/gpu.product") for pod in pods} == {GPU}
    assert {pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in pods} == {"1"}


def test_an_image_that_cannot_be_pulled_is_named(operator, kubectl, kubelet, on_fake_nodes):
    kubelet.ending = lambda _: Ending(waiting="ImagePullBackOff", message='Back-off pulling image "nowhere"')
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, image="nowhere:1"))

    assert 'pulling image "nowhere"' in until(kubectl, "Running", "ImagePullFailed")["message"]


def test_a_quota_for_pods_is_named(operator, kubectl, kubelet, on_fake_nodes):
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"cpu": "500m"}},
    }
    kubectl.apply(quota)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    running = until(kubectl, "Running", "QuotaExceeded")

    assert "exceeded quota: few" in running["message"]
    kubectl.delete("resourcequota/few")
    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=90)


def test_a_quota_for_jobs_is_named_and_waited_for(operator, kubectl, kubelet, on_fake_nodes):
    hard = {"count/jobs.batch": "0"}
    kubectl.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": hard}})
    eventually(lambda: kubectl.get("resourcequota", "none").get("status", {}).get("hard"))
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    assert "exceeded quota: none" in until(kubectl, "Running", "QuotaExceeded")["message"]

    kubectl.delete("resourcequota/none")
    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=90)


def test_a_quota_for_config_maps_is_named_and_waited_for(operator, kubectl, kubelet, on_fake_nodes):
    hard = {"count/configmaps": "0"}
    kubectl.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": hard}})
    eventually(lambda: kubectl.get("resourcequota", "none").get("status", {}).get("hard"))
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    assert "exceeded quota: none" in until(kubectl, "ResultsComplete", "QuotaExceeded")["message"]
    assert the_condition(kubectl, "Running")["reason"] == "QuotaExceeded"
    assert the_status(kubectl)["sweeps"] == {"planned": 4, "finished": 4}

    kubectl.delete("resourcequota/none")
    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=90)


def test_a_limit_range_is_named(operator, kubectl, kubelet, on_fake_nodes):
    limits = {"limits": [{"type": "Container", "max": {"cpu": "500m"}}]}
    kubectl.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": limits})
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    assert "maximum cpu usage per Container is 500m" in until(kubectl, "Running", "LimitRangeDenied")["message"]


def test_runner_pods_pass_restricted_pod_security(operator, kubectl, kubelet, namespace, on_fake_nodes):
    kubectl.run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")

    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)


def test_a_template_that_pod_security_refuses_is_named(operator, kubectl, kubelet, namespace, on_fake_nodes):
    kubectl.run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    template = {"spec": {**on_fake_nodes, "securityContext": {"runAsNonRoot": False, "runAsUser": 0}}}

    kubectl.apply(a_benchmark(podTemplate=template))

    assert "restricted" in until(kubectl, "Running", "PodSecurityDenied")["message"]


def test_a_job_deleted_by_hand_is_followed_by_one_with_the_rest(operator, kubectl, kubelet, api, on_fake_nodes):
    kubelet.ending = Sweeps(api, seconds=1)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, measurement={"rounds": 4}))
    eventually(lambda: the_status(kubectl).get("sweeps", {}).get("finished", 0) >= 2)

    kubectl.run("delete", "jobs", "--all", "--wait=false")

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)
    assert [stage["sweeps"] < 8 for stage in the_status(kubectl)["stages"]] == [False, True]


def test_pods_that_outlive_their_job_are_waited_for_and_heard(operator, kubectl, kubelet, api, on_fake_nodes):
    kubelet.ending = Sweeps(api, seconds=1)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, measurement={"rounds": 4}))
    eventually(lambda: the_status(kubectl).get("sweeps", {}).get("finished", 0) >= 2)
    (job,) = kubectl.get("jobs")["items"]

    kubectl.run("delete", "job", job["metadata"]["name"], "--cascade=orphan")

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)
    assert [stage["reason"] for stage in the_status(kubectl)["stages"]] == ["Deleted", "Complete"]
    assert len(kubelet.indexes) == 8, "a sweep was measured twice"


def test_a_pod_deleted_by_hand_costs_a_try_and_nothing_else(operator, kubectl, kubelet, api, on_fake_nodes):
    kubelet.ending = Sweeps(api, seconds=2)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    pod = eventually(lambda: (kubectl.get("pods")["items"] or [None])[0])

    kubectl.delete(f"pod/{pod['metadata']['name']}")

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=90)


@pytest.mark.parametrize("message", ["", "{]", "x" * 5000], ids=["nothing", "garbage", "too-much"])
def test_a_message_that_is_no_result_is_measured_once_more(operator, kubectl, kubelet, api, message, on_fake_nodes):
    sweeps, spoiled = Sweeps(api), set()

    def ending(pod):
        _, sweep = sweeps.of(pod)
        if sweep.index == 1 and not spoiled:
            spoiled.add(1)
            return Ending(message=message)
        return sweeps(pod)

    kubelet.ending = ending
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    kubectl.wait("ibench/resnet50", condition="Succeeded", seconds=SECONDS)
    assert [stage["sweeps"] for stage in the_status(kubectl)["stages"]] == [4, 1]


def test_somebody_elses_result_is_not_taken(operator, kubectl, kubelet, api, on_fake_nodes):
    sweeps = Sweeps(api)
    last = []

    def ending(pod):
        own = sweeps(pod)
        last.append(own)
        return replace(own, message=last[0].message)

    kubelet.ending = ending
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    failed = until(kubectl, "Succeeded", "TooManyFailedCells")

    assert "ResultLost" in failed["message"]
    assert "WrongSweep" in failed["message"]


def test_a_container_killed_for_memory_is_an_outcome_of_its_cell(operator, kubectl, kubelet, api, on_fake_nodes):
    sweeps = Sweeps(api)
    kubelet.ending = lambda pod: Ending(message=sweeps(pod).so_far, exit_code=137, reason="OOMKilled")
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes, maxFailedCells=2))

    kubectl.wait("ibench/resnet50", condition="Finished", seconds=SECONDS)

    failures = the_status(kubectl)["summary"]["firstFailures"]
    assert {(each["cell"], each["outcome"]) for each in failures} == {
        ("torch-eager/fp32@8", "OutOfMemory"),
        ("onnxruntime/fp32@8", "OutOfMemory"),
    }
    assert len(kubelet.started) == 4


def test_an_environment_fault_ends_the_benchmark_with_its_words(operator, kubectl, kubelet, api, on_fake_nodes):
    sweeps = Sweeps(api)

    def ending(pod):
        found, sweep = sweeps.of(pod)
        told = {
            "v": 1,
            "plan": found.short_hash,
            "sweep": sweep.index,
            "fault": "There is no NVIDIA driver.",
            "cells": {"b": [], "o": []},
        }
        return Ending(message=json.dumps(told), exit_code=44)

    kubelet.ending = ending
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

    assert "There is no NVIDIA driver." in until(kubectl, "Succeeded", "EnvironmentFault")["message"]
    assert len(kubelet.started) == 1


def test_a_namespace_that_is_being_deleted_ends_quietly(operator, kubectl, kubelet, api, namespace, on_fake_nodes):
    kubelet.ending = Sweeps(api, seconds=1)
    kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))
    eventually(lambda: kubectl.get("pods")["items"])

    api.delete(f"/api/v1/namespaces/{namespace}")

    eventually(lambda: api.find(f"/api/v1/namespaces/{namespace}") is None, 90, "the namespace to go")
    assert "An error of the operator itself" not in operator.said


@pytest.mark.parametrize("bad", BY_OPERATOR, ids=lambda bad: bad.name)
def test_what_only_the_operator_can_know_is_not_accepted(operator, kubectl, bad):
    kubectl.apply(bad.document)

    found = until(kubectl, "Accepted", "InvalidSpec", bad.document["metadata"]["name"])

    for told in bad.told_by_operator:
        assert told in found["message"]
