"""`kubectl apply` on a real cluster: pods under restricted Pod Security, the answer in status and in Prometheus.

All benchmarks are applied at once, each in a namespace of its own; then a pod is deleted and the chart upgraded while
they run. Each test reads what became of one of them: what takes time here is waiting for pods, so they wait together.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests import documents
from tests.cluster.benchmarks import the_condition, the_status, until
from tests.e2e import manifests
from tests.e2e.conftest import a_namespace
from tests.kubernetes.client import eventually
from tests.kubernetes_node import demo
from tests.kubernetes_node.images import ROOT
from tests.kubernetes_node.prometheus import complaints

HAS_PYTHON_OF_IMAGES = f"{sys.version_info.major}.{sys.version_info.minor}" == demo.PYTHON_OF_BASE
"""Whether this machine's own packages fit into the images, which have Debian's Python and no torch."""

MINUTES = 240
"""A pod takes about three seconds; a machine with other work may need more."""

STAYS = {"realTime": True, "callMicroseconds": 50_000, "startSeconds": 600}
"""A cell that is still loading when the test has done what it came for."""


def slow(seconds):
    """Return the script of a cell that still loads when somebody gets at it, and then is measured."""
    return {"realTime": True, "callMicroseconds": 20_000, "startSeconds": seconds}


def a_benchmark(name, template=None, **said):
    """Return a scripted benchmark whose pods fit beside those of all others."""
    return documents.scripted(name=name, podTemplate=manifests.modest(**(template or {})), **said)


TWICE_AS_FAST = {"precisions": ["fp32", "fp16"], "batchSizes": [1, 8], "script": {"speedups": {"fp16": "2x"}}}

BENCHMARKS = (
    a_benchmark("fake", **TWICE_AS_FAST, measurement=documents.rounds(2)),
    a_benchmark("watched", script=STAYS),
    a_benchmark("late", {"activeDeadlineSeconds": 5}, script=STAYS, retries=0),
    a_benchmark("nowhere", image="localhost/no-such-image:1"),
    a_benchmark("deleted", script=slow(5), measurement=documents.rounds(2)),
    a_benchmark("doomed", script=STAYS),
    # These ask for what the chart's values say: limits that are requests, which also keep the kernel from killing the
    # runner in the place of whoever eats its memory.
    documents.scripted(name="eater", batchSizes=[1, 8], script=STAYS, retries=0),
    documents.scripted(name="upgraded", script=slow(8), measurement=documents.rounds(2)),
)


@pytest.fixture(scope="module")
def applied(cluster, release, scraper, folders):
    """Apply everything and let it happen; return kubectl in the namespace of each benchmark, by the name of that."""
    names = [document["metadata"]["name"] for document in (*BENCHMARKS, an_onnx_benchmark())]
    kubectls = {name: a_namespace(cluster) for name in (*names, TORCH[0])}
    for document in BENCHMARKS:
        kubectls[document["metadata"]["name"]].apply(document)
    apply_onnx(kubectls["onnx"], *folders)
    if HAS_PYTHON_OF_IMAGES:
        apply_torch(kubectls[TORCH[0]], folders[0], Path(np.__file__).parents[1])
    doomed_pod = running_pod(kubectls["deleted"], "deleted")["metadata"]["name"]
    kubectls["deleted"].run("delete", "pod", doomed_pod, "--wait=false")
    running_pod(kubectls["upgraded"], "upgraded")
    release.install("--set=podAnnotations.changed=yes")
    return kubectls


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folder of a model and one for the cache."""
    model, cache = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("cache")
    model.chmod(0o755)
    manifests.write_model(model / "model.onnx")
    return model, cache


def an_onnx_benchmark():
    return a_benchmark(
        "onnx",
        manifests.mounted_models("models"),
        model={"onnx": {"path": "model.onnx"}},
        backends=["onnxruntime"],
        backendOptions={},
        batchSizes=[1, 64],
        measurement=documents.rounds(2),
        cache={"persistentVolumeClaim": "cache"},
    )


def apply_onnx(kubectl, model, cache):
    """Apply the benchmark of an ONNX file, with claims for that and for its cache."""
    kubectl.apply(manifests.claim(kubectl.namespace, "models", model, "ReadOnlyMany"))
    kubectl.apply(manifests.claim(kubectl.namespace, "cache", cache))
    kubectl.apply(an_onnx_benchmark())


TORCH = ("torch", {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}})
"""Name, and what importing torch and preparing a model of it takes."""


def apply_torch(kubectl, model, python):
    """Apply the benchmark of the examples' own PyTorch model, with claims for that and for the packages with torch."""
    name, resources = TORCH
    shutil.copy(ROOT / "examples/tiny_resnet.py", model)
    template = manifests.with_python("python", resources)
    template["spec"]["volumes"] += manifests.mounted_models("models")["volumes"]
    said = yaml.safe_load((ROOT / "examples/python-factory.yaml").read_text(encoding="utf-8"))["spec"]
    said |= {"backends": ["torch-eager"], "batchSizes": [1], "measurement": documents.rounds(1)}
    kubectl.apply(manifests.claim(kubectl.namespace, "models", model, "ReadOnlyMany"))
    kubectl.apply(manifests.claim(kubectl.namespace, "python", python, "ReadOnlyMany"))
    kubectl.apply(documents.scripted(name=name, podTemplate=template, **said, backendOptions={}))


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


# ---- while they run ------------------------------------------------------------------------------


def test_a_gpu_that_no_node_has_is_named_within_seconds(release, kubectl):
    kubectl.apply(documents.scripted(name="no-gpu", device="gpu"))

    running = until(kubectl, "Running", "Unschedulable", "no-gpu", seconds=30)

    assert "Insufficient nvidia.com/gpu" in running["message"]


def test_prometheus_scrapes_a_runner_while_it_measures(applied, scraper):
    kubectl = applied["watched"]
    pod = running_pod(kubectl, "watched")["metadata"]["name"]

    page = kubectl.run("get", "--raw", f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}:9091/proxy/metrics")

    assert complaints(page) == ""
    assert eventually(lambda: scraper.query(f'up{{pod="{pod}"}} == 1'), 30, "a scrape of the runner")


def test_a_container_that_is_killed_whole_for_want_of_memory_makes_the_cell_in_flight_out_of_memory(cluster, applied):
    kubectl = applied["eater"]
    pod = running_pod(kubectl, "eater")

    cluster.kill_for_want_of_memory(pod)

    status = finish(kubectl, "eater")
    assert status["cells"]["failed"] == 2
    first, second = status["summary"]["firstFailures"]
    assert first["outcome"] == second["outcome"] == "OutOfMemory"
    assert "AfterOutOfMemory" in second["reason"]


def test_an_image_that_cannot_be_pulled_is_named_and_mending_it_needs_a_new_benchmark(applied):
    running = until(applied["nowhere"], "Running", "ImagePullFailed", "nowhere")

    assert "localhost/no-such-image:1" in running["message"]
    assert the_condition(applied["nowhere"], "Finished", "nowhere")["status"] == "False"


def test_a_namespace_that_is_deleted_takes_a_running_benchmark_along(applied):
    kubectl = applied["doomed"]
    running_pod(kubectl, "doomed")

    kubectl.delete("namespace", kubectl.namespace)

    eventually(lambda: kubectl.namespace not in kubectl.run("get", "namespaces"), 60, "the namespace to go")


# ---- how they end --------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_PYTHON_OF_IMAGES, reason=f"the images have Python {demo.PYTHON_OF_BASE}")
def test_a_real_pytorch_model_is_measured_in_a_pod_with_torch_from_a_volume(applied):
    status = finish(applied[TORCH[0]], TORCH[0])

    assert the_condition(applied[TORCH[0]], "Succeeded", TORCH[0])["status"] == "True"
    assert (status["best"], status["cells"]["measured"]) == ("torch-eager/fp32@1", 1)


def test_scripted_strategies_are_measured_in_rounds_and_the_faster_one_wins(applied):
    status = finish(applied["fake"], "fake")

    assert the_condition(applied["fake"], "Succeeded", "fake")["status"] == "True"
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


def test_prometheus_finds_the_winner_in_results_and_every_page_satisfies_promtool(applied, release, scraper):
    kubectl = applied["fake"]
    best = finish(kubectl, "fake")["summary"]["best"][0]

    about = f'benchmark="fake",namespace="{kubectl.namespace}",batch_size="1"'
    question = f"bottomk(1, inferbench_cell_latency_median_seconds{{{about}}})"
    ((labels, seconds),) = eventually(lambda: scraper.query(question), 60, "the results in Prometheus")

    assert (labels["backend"], labels["precision"]) == ("fake", "fp16")
    assert seconds == pytest.approx(best["latencyNanoseconds"] / 1e9)
    assert complaints(release.page("/results")) == ""
    assert complaints(release.page("/metrics")) == ""
    assert eventually(lambda: scraper.query("inferbench_operator_reconcile_duration_seconds_count"), 30)


def test_an_onnx_file_is_measured_by_onnx_runtime_and_prepared_once_for_all_pods(applied, folders):
    status = finish(applied["onnx"], "onnx")

    _, cache = folders
    assert the_condition(applied["onnx"], "Succeeded", "onnx")["status"] == "True"
    assert status["best"] == "onnxruntime/fp32@1"
    assert status["cells"]["measured"] == 2
    assert len(list((cache / "reference").iterdir())) == 1


def test_a_pod_beyond_its_deadline_ends_the_benchmark_and_says_so(applied):
    status = finish(applied["late"], "late")

    assert status["cells"]["failed"] == 1
    assert the_condition(applied["late"], "Succeeded", "late")["reason"] == "TooManyFailedCells"


def test_a_pod_that_is_deleted_by_hand_is_made_again_and_nothing_is_lost(applied):
    status = finish(applied["deleted"], "deleted")

    assert the_condition(applied["deleted"], "Succeeded", "deleted")["status"] == "True"
    assert status["sweeps"] == {"planned": 2, "finished": 2}


# ---- the chart -----------------------------------------------------------------------------------


def test_an_upgrade_in_the_middle_of_a_run_changes_nothing_of_it(applied, release):
    status = finish(applied["upgraded"], "upgraded")

    (operator,) = release.kubectl.get("pods")["items"]
    assert operator["metadata"]["annotations"]["changed"] == "yes"
    assert status["startTime"] < operator["metadata"]["creationTimestamp"] < status["completionTime"]
    assert the_condition(applied["upgraded"], "Succeeded", "upgraded")["status"] == "True"
    assert status["sweeps"] == {"planned": 2, "finished": 2}
    jobs = applied["upgraded"].get("jobs")["items"]
    assert [stage["job"] for stage in status["stages"]] == [job["metadata"]["name"] for job in jobs]
    assert len(jobs) == 1


def names_if_no_pod_is_left(release):
    """Return what there is in the operator's namespace; nothing while its pod ends: Helm does not wait for that."""
    kinds = "deployments,replicasets,pods,services,serviceaccounts,roles,rolebindings,configmaps,secrets"
    names = release.kubectl.run("get", kinds, "--output=name").split()
    return names if not any(name.startswith("pod/") for name in names) else None


def test_uninstalling_keeps_benchmarks_and_their_results_and_leaves_nothing_else(applied, release):
    before = finish(applied["fake"], "fake")

    release.uninstall()

    left = eventually(lambda: names_if_no_pod_is_left(release), 60, "the operator's pod to go")
    cluster_wide = release.kubectl.run("get", "clusterroles,clusterrolebindings,crds", "--output=name").split()
    assert left == ["serviceaccount/default", "configmap/kube-root-ca.crt"]
    assert [name for name in cluster_wide if "inferbench" in name] == [
        "customresourcedefinition.apiextensions.k8s.io/inferencebenchmarks.inferbench.dev"
    ]
    assert the_status(applied["fake"], "fake") == before
