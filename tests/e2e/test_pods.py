"""The runner's image in real pods, without an operator: what a Job's pod measures and hands over by itself."""

from __future__ import annotations

import pytest

from inferbench_contract import plan as plans
from inferbench_contract import result as results
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.words import Outcome
from tests import documents
from tests.e2e import manifests
from tests.e2e.conftest import a_namespace

MINUTES = 180


FAKE = documents.scripted(name="fake", batchSizes=[1, 8], podTemplate=manifests.modest())
ONNX = documents.scripted(
    name="onnx",
    model={"onnx": {"path": "model.onnx"}},
    backends=["onnxruntime"],
    backendOptions={},
    podTemplate=manifests.modest(**manifests.mounted_models("models")),
)
WRONG_PLANS = {"no-plan": "", "empty-plan": "{}"}


@pytest.fixture(scope="module")
def kubectl(cluster, tmp_path_factory):
    """Create the Jobs of all tests, whose pods then run side by side, and return kubectl in their namespace."""
    made, folder = a_namespace(cluster), tmp_path_factory.mktemp("model")
    folder.chmod(0o755)
    manifests.write_model(folder / "model.onnx")
    made.apply(manifests.claim(made.namespace, "models", folder, "ReadOnlyMany"))
    made.create([*map(manifests.plain_job, (FAKE, ONNX)), *(a_wrong_job(*wrong) for wrong in WRONG_PLANS.items())])
    return made


def a_wrong_job(name, plan):
    job = manifests.plain_job(documents.scripted(name=name, podTemplate=manifests.modest()))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    next(each for each in container["env"] if each["name"] == "INFERBENCH_PLAN")["value"] = plan
    return job


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
    kubectl.wait("job/fake", condition="condition=Complete", seconds=MINUTES)

    (pod,) = pods_of(kubectl, "fake")
    cells = delivered(FAKE, pod).cells
    assert [cell.outcome for cell in cells] == [Outcome.MEASURED, Outcome.MEASURED]


def test_an_onnx_file_on_the_models_volume_is_measured_and_judged_without_torch(kubectl):
    kubectl.wait("job/onnx", condition="condition=Complete", seconds=MINUTES)

    (pod,) = pods_of(kubectl, "onnx")
    (cell,) = delivered(ONNX, pod).cells
    assert cell.outcome is Outcome.MEASURED
    assert cell.latency_median_ns > 0


@pytest.mark.parametrize("name", WRONG_PLANS)
def test_a_wrong_environment_ends_the_pod_with_43_and_says_what_is_wrong(kubectl, name):
    kubectl.wait(f"job/{name}", condition="condition=Failed", seconds=MINUTES)

    (pod,) = pods_of(kubectl, name)
    assert ended(pod)["exitCode"] == 43
    assert "INFERBENCH_PLAN" in ended(pod)["message"]
