"""The Job of a stage, and what a podTemplate may change in it."""

from __future__ import annotations

import json

import pytest

from inferbench_contract import plan as plans
from inferbench_contract import rules
from inferbench_contract.spec import MAX_CELL_ROUNDS
from inferbench_operator import jobs, pods
from inferbench_operator.collect import MAX_STAGES
from inferbench_operator.settings import Settings
from tests.builders import a_benchmark
from tests.clusters import SETTINGS, UID, a_job, seen, wanted

CPU = {"device": "cpu"}


def the_job(stage=0, sweeps=None, settings=SETTINGS, **spec):
    asked = wanted(**spec)
    return jobs.job(seen(asked), asked.spec, plans.expand(asked), stage, sweeps, settings)


def the_pod(**spec):
    return the_job(**spec)["spec"]["template"]["spec"]


def the_runner(**spec):
    return next(each for each in the_pod(**spec)["containers"] if each["name"] == "runner")


def variables(container):
    return {entry["name"]: entry["value"] for entry in container["env"]}


def test_an_index_is_a_sweep_and_the_plan_travels_in_the_environment():
    asked = wanted()
    plan = plans.expand(asked)

    job = the_job()

    assert job["spec"]["completions"] == len(plan.sweeps)
    assert json.loads(variables(the_runner())["INFERBENCH_PLAN"])["hash"] == plan.hash


def test_a_long_plan_travels_in_a_config_map():
    strategies = {"backends": ["fake"], "batch_sizes": [1], "measurement": {"rounds": 100}}
    model = {"python": {"factory": "m:f", "kwargs": {"text": "x" * 8_000}}, "inputs": [{"name": "x", "shape": [3]}]}

    runner = the_runner(model=model, **strategies)

    assert variables(runner)["INFERBENCH_PLAN_FILE"] == "/etc/inferbench/plan.json"
    assert "INFERBENCH_PLAN" not in variables(runner)
    assert {"name": "plan", "mountPath": "/etc/inferbench", "readOnly": True} in runner["volumeMounts"]


def test_a_later_stage_names_its_sweeps():
    job = the_job(stage=1, sweeps=(0, 1, 3), measurement={"rounds": 4})

    assert job["spec"]["completions"] == 3
    assert variables(job["spec"]["template"]["spec"]["containers"][0])["INFERBENCH_SWEEPS"] == "0-1,3"


def test_names_follow_from_benchmark_plan_and_stage():
    asked = wanted()

    assert the_job(stage=1, sweeps=(0,))["metadata"]["name"] == f"example-{plans.expand(asked).short_hash}-1"


PLAN = plans.expand(wanted())
NAME = f"example-{PLAN.short_hash}"


@pytest.mark.parametrize(
    ("stage", "told", "is_stage"),
    [
        pytest.param(0, {}, True, id="all sweeps"),
        pytest.param(1, {"sweeps": (1,), "completions": 1}, True, id="what was lost"),
        pytest.param(0, {"name": "example-0123456789-0"}, False, id="of another plan"),
        pytest.param(0, {"name": f"{NAME}-1"}, False, id="under the name of another stage"),
        pytest.param(0, {"completions": 2**31 - 1}, False, id="of more sweeps than are planned"),
        pytest.param(0, {"sweeps": (0, 1)}, False, id="a first stage of some sweeps"),
        pytest.param(1, {}, False, id="a second stage of all sweeps"),
        pytest.param(1, {"sweeps": (2,), "completions": 1}, False, id="of a sweep that is not planned"),
        pytest.param(1, {"sweeps": (1,), "completions": 2}, False, id="of more pods than sweeps"),
        pytest.param(2, {"sweeps": (1,), "completions": 1}, False, id="of a third stage"),
    ],
)
def test_a_job_is_a_stage_where_its_name_and_its_sweeps_are_those_of_the_plan(stage, told, is_stage):
    assert jobs.is_stage(a_job(PLAN, stage, **told), seen(wanted()), PLAN) is is_stage


LONGEST = "a" * rules.MAX_NAME


def test_a_name_of_any_length_that_is_allowed_leaves_room_for_the_host_names_of_its_pods():
    """The API server wants `<job>-<index>` of an Indexed Job to be a name of at most 63 characters."""
    asked = a_benchmark(LONGEST, backends=["fake"], batch_sizes=[1])
    last_sweep = MAX_CELL_ROUNDS - 1

    name = jobs.job_name(seen(asked), plans.expand(asked), MAX_STAGES - 1)

    assert len(f"{name}-{last_sweep}") == 63


def test_it_goes_when_the_benchmark_goes():
    (owner,) = the_job()["metadata"]["ownerReferences"]

    assert (owner["kind"], owner["uid"], owner["controller"]) == ("InferenceBenchmark", UID, True)


def test_a_sweep_is_tried_again_as_often_as_the_spec_says():
    assert [the_job(retries=retries)["spec"]["backoffLimitPerIndex"] for retries in (0, 2)] == [0, 2]


def test_disruptions_are_ignored_faults_end_the_job_and_kills_end_the_index():
    rules = the_job()["spec"]["podFailurePolicy"]["rules"]

    assert [rule["action"] for rule in rules] == ["Ignore", "FailJob", "FailIndex"]
    assert rules[1]["onExitCodes"]["values"] == [44]
    assert rules[2]["onExitCodes"]["values"] == [43, 137]


def test_a_pod_fits_restricted_pod_security():
    pod, runner = the_pod(), the_runner()

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert runner["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_requests_are_limits_and_threads_are_cpus():
    resources = the_runner(cpu={"threads": 3})["resources"]

    assert resources["requests"] == resources["limits"] == {"cpu": "3", "memory": SETTINGS.runner_memory}


def test_a_gpu_is_asked_for_by_its_resource_and_product():
    pod = the_pod(device="gpu", gpu={"products": ["NVIDIA-L4"], "count": 2})

    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]} in terms[0]["matchExpressions"]
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_on_a_cpu_no_gpu_is_asked_for():
    pod = the_pod(**CPU)

    assert "affinity" not in pod
    assert "tolerations" not in pod
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]


def test_a_cache_claim_takes_the_place_of_the_empty_folder():
    volumes = the_pod(cache={"persistent_volume_claim": "inferbench-cache"})["volumes"]

    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "inferbench-cache"}} in volumes


def test_a_queue_gets_a_suspended_job_with_its_label():
    job = the_job(queue_name="gpu-queue")

    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu-queue"


def test_administrators_settings_reach_the_pod():
    settings = Settings(
        runner_image="runner:1",
        image_pull_secrets=("secret",),
        runner_priority_class="low",
        runner_node_selector={"disk": "ssd"},
    )

    pod = the_job(settings=settings)["spec"]["template"]["spec"]

    assert pod["containers"][0]["image"] == "runner:1"
    assert pod["imagePullSecrets"] == [{"name": "secret"}]
    assert (pod["priorityClassName"], pod["nodeSelector"]) == ("low", {"disk": "ssd"})


# ---- podTemplate ---------------------------------------------------------------------------------


def test_environment_volumes_and_mounts_of_a_template_are_added_by_name():
    template = {
        "spec": {
            "containers": [
                {
                    "name": "runner",
                    "env": [{"name": "HF_HOME", "value": "/models/hf"}],
                    "volumeMounts": [{"name": "extra", "mountPath": "/extra"}],
                }
            ],
            "volumes": [
                {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
                {"name": "extra", "emptyDir": {}},
            ],
        }
    }

    pod, runner = the_pod(pod_template=template), the_runner(pod_template=template)

    assert variables(runner)["HF_HOME"] == "/models/hf"
    assert "INFERBENCH_PLAN" in variables(runner)
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "models"}} in pod["volumes"]
    assert [mount["mountPath"] for mount in runner["volumeMounts"]][-1] == "/extra"
    assert len(pod["containers"]) == 1


def test_tolerations_are_added():
    template = {"spec": {"tolerations": [{"key": "team", "operator": "Exists"}]}}

    keys = [each["key"] for each in the_pod(device="gpu", pod_template=template)["tolerations"]]

    assert keys == ["nvidia.com/gpu", "team"]


def test_resources_of_a_template_replace_ours():
    limits = {"limits": {"memory": "64Gi"}}
    template = {"spec": {"containers": [{"name": "runner", "resources": limits}]}}

    assert the_runner(pod_template=template)["resources"] == limits


def test_half_a_security_context_leaves_the_other_half():
    template = {"spec": {"securityContext": {"runAsUser": 1000}}}

    context = the_pod(pod_template=template)["securityContext"]

    assert (context["runAsUser"], context["runAsNonRoot"]) == (1000, True)


@pytest.mark.parametrize("name", ["INFERBENCH_PLAN", "INFERBENCH_SWEEPS", "JOB_COMPLETION_INDEX"])
def test_a_template_cannot_change_what_a_pod_measures(name):
    template = {"spec": {"containers": [{"name": "runner", "env": [{"name": name, "value": "x"}]}]}}

    assert variables(the_runner(pod_template=template)).get(name) != "x"


def test_a_template_cannot_hide_a_pod_from_the_operator():
    template = {
        "metadata": {"labels": {"inferbench.dev/benchmark": "other", "team": "a"}},
        "spec": {
            "restartPolicy": "OnFailure",
            "containers": [{"name": "runner", "terminationMessagePath": "/elsewhere"}],
        },
    }

    pod = the_job(pod_template=template)["spec"]["template"]

    assert pod["metadata"]["labels"]["inferbench.dev/benchmark"] == "example"
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["containers"][0]["terminationMessagePath"] == "/dev/termination-log"


def test_merging_nothing_changes_nothing():
    own = the_job()["spec"]["template"]

    assert pods.merge(own, {}) == own
