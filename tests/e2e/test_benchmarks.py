"""`kubectl apply` on a real cluster: pods under restricted Pod Security, the answer in status and in Prometheus."""

from __future__ import annotations

import pytest

from tests import documents
from tests.cluster.benchmarks import the_condition, the_status, until
from tests.e2e import manifests
from tests.kubernetes.client import eventually
from tests.kubernetes_node.prometheus import complaints

pytestmark = pytest.mark.usefixtures("release")

MINUTES = 240
"""A pod takes about three seconds; a machine with other work may need more."""

STAYS = {"realTime": True, "callMicroseconds": 50_000, "startSeconds": 600}
"""A cell that is still loading when the test has done what it came for."""


def running_pod(kubectl, name):
    """Wait for a pod of a benchmark whose runner has a cell in flight, and return it."""

    def look():
        pods = kubectl.get("pods", "--selector", f"inferbench.dev/benchmark={name}")["items"]
        pod = next((pod for pod in pods if pod["status"]["phase"] == "Running"), None)
        return pod if pod and "batch 1" in kubectl.run("logs", pod["metadata"]["name"]) else None

    return eventually(look, MINUTES, f"a running pod of {name}")


def finish(kubectl, name):
    kubectl.wait(f"ibench/{name}", condition="condition=Finished", seconds=MINUTES)
    return the_status(kubectl, name)


# ---- good days -----------------------------------------------------------------------------------


def test_scripted_strategies_are_measured_in_rounds_and_the_faster_one_wins(kubectl):
    precisions = {"precisions": ["fp32", "fp16"], "batchSizes": [1, 8], "measurement": documents.rounds(2)}
    kubectl.apply(documents.scripted(name="fake", script={"speedups": {"fp16": "2x"}}, **precisions))

    status = finish(kubectl, "fake")

    assert the_condition(kubectl, "Succeeded", "fake")["status"] == "True"
    assert status["best"] == "fake/fp16@1"
    assert float(status["speedup"].removesuffix("x")) == pytest.approx(2, rel=0.1)
    assert status["cells"] == {
        "planned": 4,
        "measured": 4,
        "unsupported": 0,
        "inaccurate": 0,
        "failed": 0,
        "missing": 0,
    }
    assert status["sweeps"] == {"planned": 4, "finished": 4}


@pytest.fixture
def an_onnx_benchmark(kubectl, namespace, models, tmp_path_factory):
    """Apply a benchmark of an ONNX file, with a claim for its cache."""
    cache = tmp_path_factory.mktemp("cache")
    kubectl.apply(manifests.claim(namespace, "cache", cache))
    kubectl.apply(
        documents.scripted(
            name="onnx",
            model={"onnx": {"path": "model.onnx"}},
            backends=["onnxruntime"],
            backendOptions={},
            batchSizes=[1, 64],
            measurement=documents.rounds(2),
            cache={"persistentVolumeClaim": "cache"},
            podTemplate=manifests.mounted_models(models),
        )
    )
    return cache


def test_an_onnx_file_is_measured_by_onnx_runtime_and_prepared_once_for_all_pods(kubectl, an_onnx_benchmark):
    status = finish(kubectl, "onnx")

    assert the_condition(kubectl, "Succeeded", "onnx")["status"] == "True"
    assert status["best"] == "onnxruntime/fp32@1"
    assert status["cells"]["measured"] == 2
    assert len(list((an_onnx_benchmark / "reference").iterdir())) == 1


def test_prometheus_finds_the_winner_in_results_and_every_page_satisfies_promtool(kubectl, release, scraper):
    precisions = {"precisions": ["fp32", "fp16"], "measurement": documents.rounds(2)}
    kubectl.apply(documents.scripted(name="told", script={"speedups": {"fp16": "2x"}}, **precisions))
    finish(kubectl, "told")

    question = f'bottomk(1, inferbench_cell_latency_median_seconds{{benchmark="told",namespace="{kubectl.namespace}"}})'
    ((labels, seconds),) = eventually(lambda: scraper.query(question), 60, "the results in Prometheus")

    assert (labels["backend"], labels["precision"]) == ("fake", "fp16")
    best = the_status(kubectl, "told")["summary"]["best"][0]
    assert seconds == pytest.approx(best["latencyNanoseconds"] / 1e9)
    assert complaints(release.page("/results")) == ""
    assert complaints(release.page("/metrics")) == ""
    assert eventually(lambda: scraper.query("inferbench_operator_reconcile_duration_seconds_count"), 30)


def test_prometheus_scrapes_a_runner_while_it_measures(kubectl, scraper):
    kubectl.apply(documents.scripted(name="watched", script=STAYS))
    pod = running_pod(kubectl, "watched")["metadata"]["name"]

    page = kubectl.run("get", "--raw", f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}:9091/proxy/metrics")

    assert complaints(page) == ""
    assert eventually(lambda: scraper.query(f'up{{pod="{pod}"}} == 1'), 30, "a scrape of the runner")


# ---- bad days ------------------------------------------------------------------------------------


def test_a_container_that_is_killed_whole_for_want_of_memory_makes_the_cell_in_flight_out_of_memory(cluster, kubectl):
    kubectl.apply(documents.scripted(name="eater", batchSizes=[1, 8], script=STAYS, retries=0))
    pod = running_pod(kubectl, "eater")

    cluster.kill_for_want_of_memory(pod)

    status = finish(kubectl, "eater")
    assert status["cells"]["failed"] == 2
    first, second = status["summary"]["firstFailures"]
    assert first["outcome"] == second["outcome"] == "OutOfMemory"
    assert "AfterOutOfMemory" in second["reason"]


def test_a_pod_beyond_its_deadline_ends_the_benchmark_and_says_so(kubectl):
    deadline = {"spec": {"activeDeadlineSeconds": 5}}
    kubectl.apply(documents.scripted(name="late", script=STAYS, retries=0, podTemplate=deadline))

    status = finish(kubectl, "late")

    assert status["cells"]["failed"] == 1
    assert the_condition(kubectl, "Succeeded", "late")["reason"] == "TooManyFailedCells"


def test_an_image_that_cannot_be_pulled_is_named_and_mending_it_needs_a_new_benchmark(kubectl):
    kubectl.apply(documents.scripted(name="nowhere", image="localhost/no-such-image:1"))

    running = until(kubectl, "Running", "ImagePullFailed", "nowhere")

    assert "localhost/no-such-image:1" in running["message"]
    assert the_condition(kubectl, "Finished", "nowhere")["status"] == "False"


def test_a_gpu_that_no_node_has_is_named_within_seconds(kubectl):
    kubectl.apply(documents.scripted(name="no-gpu", device="gpu"))

    running = until(kubectl, "Running", "Unschedulable", "no-gpu", seconds=30)

    assert "Insufficient nvidia.com/gpu" in running["message"]


def test_a_pod_that_is_deleted_by_hand_is_made_again_and_nothing_is_lost(kubectl):
    slow = {"realTime": True, "callMicroseconds": 20_000, "startSeconds": 5}
    kubectl.apply(documents.scripted(name="deleted", script=slow, measurement=documents.rounds(2)))
    pod = running_pod(kubectl, "deleted")

    kubectl.run("delete", "pod", pod["metadata"]["name"], "--wait=false")

    status = finish(kubectl, "deleted")
    assert the_condition(kubectl, "Succeeded", "deleted")["status"] == "True"
    assert status["sweeps"] == {"planned": 2, "finished": 2}


def test_a_namespace_that_is_deleted_takes_a_running_benchmark_along(cluster, kubectl, namespace):
    kubectl.apply(documents.scripted(name="doomed", script=STAYS))
    running_pod(kubectl, "doomed")

    kubectl.delete("namespace", namespace)

    eventually(lambda: namespace not in kubectl.run("get", "namespaces"), 60, "the namespace to go")


# ---- the chart -----------------------------------------------------------------------------------


def test_an_upgrade_in_the_middle_of_a_run_changes_nothing_of_it(kubectl, release):
    slow = {"realTime": True, "callMicroseconds": 20_000, "startSeconds": 2}
    kubectl.apply(documents.scripted(name="upgraded", script=slow, measurement=documents.rounds(4)))
    running_pod(kubectl, "upgraded")

    release.install("--set=podAnnotations.changed=yes")

    status = finish(kubectl, "upgraded")
    assert the_condition(kubectl, "Succeeded", "upgraded")["status"] == "True"
    assert status["sweeps"] == {"planned": 4, "finished": 4}
    assert [stage["job"] for stage in status["stages"]] == [kubectl.get("jobs")["items"][0]["metadata"]["name"]]


def names_if_no_pod_is_left(release):
    """Return what there is in the operator's namespace; nothing while its pod ends: Helm does not wait for that."""
    kinds = "deployments,replicasets,pods,services,serviceaccounts,roles,rolebindings,configmaps,secrets"
    names = release.kubectl.run("get", kinds, "--output=name").split()
    return names if not any(name.startswith("pod/") for name in names) else None


def test_uninstalling_keeps_benchmarks_and_their_results_and_leaves_nothing_else(kubectl, release):
    kubectl.apply(documents.scripted(name="kept"))
    before = finish(kubectl, "kept")

    release.uninstall()
    try:
        left = eventually(lambda: names_if_no_pod_is_left(release), 60, "the operator's pod to go")
        cluster_wide = release.kubectl.run("get", "clusterroles,clusterrolebindings,crds", "--output=name").split()
        status = the_status(kubectl, "kept")
    finally:
        release.install()

    assert left == ["serviceaccount/default", "configmap/kube-root-ca.crt"]
    assert [name for name in cluster_wide if "inferbench" in name] == [
        "customresourcedefinition.apiextensions.k8s.io/inferencebenchmarks.inferbench.dev"
    ]
    assert status == before
