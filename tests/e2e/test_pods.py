"""The runner's image in real pods, without an operator: what a Job's pod measures and hands over by itself."""

from __future__ import annotations

import pytest

from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.words import Outcome
from tests import documents
from tests.e2e import manifests

MINUTES = 180


def pods_of(kubectl, job):
    """Return the pods of a Job in the order of their indexes."""
    found = kubectl.get("pods", "--selector", f"batch.kubernetes.io/job-name={job}")["items"]
    index = "batch.kubernetes.io/job-completion-index"
    return sorted(found, key=lambda pod: int(pod["metadata"]["annotations"][index]))


def ended(pod):
    """Return how the runner ended: exit code, reason, message."""
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]


def delivered(document, pod, index=0):
    """Decode what a pod left in its termination message."""
    plan = plans.expand(InferenceBenchmark.model_validate(document))
    return results.decode(ended(pod)["message"].encode(), plan, plan.sweeps[index]).result


def test_a_sweep_of_scripted_cells_runs_under_restricted_pod_security_and_leaves_its_result(kubectl):
    document = documents.scripted(name="fake", batchSizes=[1, 8])

    kubectl.create(manifests.plain_job(document))
    kubectl.wait("job/fake", condition="condition=Complete", seconds=MINUTES)

    (pod,) = pods_of(kubectl, "fake")
    cells = delivered(document, pod).cells
    assert [cell.outcome for cell in cells] == [Outcome.MEASURED, Outcome.MEASURED]


def test_an_onnx_file_on_the_models_volume_is_measured_and_judged_without_torch(kubectl, models):
    document = documents.scripted(
        name="onnx",
        model={"onnx": {"path": "model.onnx"}},
        backends=["onnxruntime"],
        backendOptions={},
        podTemplate=manifests.mounted_models(models),
    )

    kubectl.create(manifests.plain_job(document))
    kubectl.wait("job/onnx", condition="condition=Complete", seconds=MINUTES)

    (pod,) = pods_of(kubectl, "onnx")
    (cell,) = delivered(document, pod).cells
    assert cell.outcome is Outcome.MEASURED
    assert cell.latency_median_ns > 0


@pytest.mark.parametrize("how", ["index", "plan"])
def test_a_wrong_environment_ends_the_pod_with_43_and_says_what_is_wrong(kubectl, how):
    job = manifests.plain_job(documents.scripted(name="wrong"))
    variable = next(
        v for v in job["spec"]["template"]["spec"]["containers"][0]["env"] if v["name"] == "INFERBENCH_PLAN"
    )
    variable["value"] = "{}" if how == "plan" else ""

    kubectl.create(job)
    kubectl.wait("job/wrong", condition="condition=Failed", seconds=MINUTES)

    (pod,) = pods_of(kubectl, "wrong")
    assert ended(pod)["exitCode"] == 43
    assert "INFERBENCH_PLAN" in ended(pod)["message"]
