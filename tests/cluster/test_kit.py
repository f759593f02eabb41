"""The kit that the other tests stand on: it starts a real Kubernetes, plays its nodes, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from inferbench_contract import result
from inferbench_contract.evidence import geometric_mean
from inferbench_contract.words import Strategy
from tests.kubernetes import shared, tools
from tests.kubernetes.client import ApiError, eventually
from tests.kubernetes.control_plane import COMPONENTS, ControlPlane, ControlPlaneError, Settings, state_folder
from tests.kubernetes.fake_kubelet import Ending, FakeKubelet
from tests.kubernetes.kubectl import KubectlError
from tests.kubernetes.kwok import INDEX_HERE, Kwok, sweep_message
from tests.kubernetes.nodes import SELECTOR, TOLERATION
from tests.kubernetes.proxy import Fault, verb_of
from tests.kubernetes.sweeps import latency_ns
from tests.results import a_plan

ROOT = Path(__file__).resolve().parents[2]
ON_FAKE_NODES = {"nodeSelector": SELECTOR, "tolerations": [TOLERATION]}


def a_job(name="job", completions=3, parallelism=1, env=None, pod=None, **spec):
    """An Indexed Job as the operator makes one, less what a fake node does not look at."""
    variables = [{"name": key, "value": value} for key, value in (env or {}).items()]
    container = {"name": "runner", "image": "runner", "env": variables}
    told = {"completionMode": "Indexed", "completions": completions, "parallelism": parallelism}
    told |= {"backoffLimitPerIndex": 0, "maxFailedIndexes": completions, "podReplacementPolicy": "Failed"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container], **ON_FAKE_NODES, **(pod or {})}}
    head = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}}
    return {**head, "spec": {**told, "template": template, **spec}}


def jobs(namespace):
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def pods(namespace):
    return f"/api/v1/namespaces/{namespace}/pods"


def finished(api, namespace, name="job"):
    """The status of a Job that has ended."""
    job = api.get(f"{jobs(namespace)}/{name}")
    ends = {c["type"] for c in job["status"].get("conditions", []) if c["status"] == "True"}
    return job["status"] if ends & {"Complete", "Failed"} else None


def wait_finished(api, namespace, name="job", seconds=60):
    return eventually(lambda: finished(api, namespace, name), seconds, f"Job {name} to end")


def terminated(pod):
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]


def is_alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_programs_come_from_the_folder_that_a_variable_names(tmp_path, monkeypatch):
    monkeypatch.setenv("INFERBENCH_KUBE_BIN", str(tmp_path))
    (tmp_path / "kubectl").touch()

    assert tools.tool("kubectl") == tmp_path / "kubectl"
    with pytest.raises(tools.ToolError, match=f"INFERBENCH_KUBE_BIN is {tmp_path}, which has no etcd"):
        tools.tool("etcd")


def test_a_tool_is_kept_under_its_version_and_a_hash_of_all_that_it_is_built_from():
    assert re.fullmatch(r"kube-v1\.35\.\d+-[0-9a-f]{12}", tools.TOOLS["kube"].key)
    assert "-X k8s.io/component-base/version.gitMinor=35" in tools.TOOLS["kube"].linker_flags


def test_a_control_plane_is_ready_in_seconds_and_leaves_nothing_behind(kubernetes):
    with ControlPlane() as plane:
        nodes = plane.api().items("/api/v1/nodes")
        running = [plane.pid(component) for component in COMPONENTS]
        folder, port = plane.folder, int(plane.url.rpartition(":")[2])
        assert all(map(is_alive, running))

    assert nodes == []
    assert not any(map(is_alive, running))
    assert not folder.exists()
    socket.create_server(("127.0.0.1", port)).close()


def test_a_component_that_does_not_start_shows_the_end_of_its_log(kubernetes):
    settings = Settings(arguments={"kube-apiserver": ("--no-such-flag",)})

    with (
        pytest.raises(ControlPlaneError, match=r"(?s)kube-apiserver ended with status 1\..*no-such-flag"),
        ControlPlane(settings=settings),
    ):
        pass


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_control_plane_ends_with_the_process_that_started_it(kubernetes, how):
    """However that ends: a folder that a killed process leaves is removed by the next start."""
    program = (
        "import signal, time\nfrom tests.kubernetes.control_plane import COMPONENTS, ControlPlane\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nwith ControlPlane() as plane:\n"
        "    print(plane.folder, *map(plane.pid, COMPONENTS), flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        folder, *running = parent.stdout.readline().split()
        parent.send_signal(how)
        parent.communicate()

    eventually(lambda: not any(is_alive(int(pid)) for pid in running), 20, "the components to end")
    if how is not signal.SIGINT:
        with state_folder(None):  # with this every start begins
            pass
    assert not Path(folder).exists()


def test_an_indexed_job_with_parallelism_1_runs_its_indexes_in_order(cluster, api, namespace, kubelet):
    kubelet.ending = lambda pod: Ending(f"index {kubelet.indexes[-1] if kubelet.started else 'none'}", seconds=0.01)

    api.create(jobs(namespace), a_job(completions=5))
    status = wait_finished(api, namespace)

    assert status["succeeded"] == 5
    assert status["completedIndexes"] == "0-4"
    assert kubelet.indexes == [0, 1, 2, 3, 4]


def test_a_runner_hands_over_the_result_of_its_own_sweep(api, namespace, kubelet):
    plan = a_plan(backends=["torch-eager", "onnxruntime"], batch_sizes=[1, 8])

    api.create(
        jobs(namespace), a_job(completions=len(plan.sweeps), parallelism=8, env={"INFERBENCH_PLAN": plan.dump()})
    )
    wait_finished(api, namespace)

    ended = {int(p["metadata"]["labels"][INDEX_LABEL]): terminated(p) for p in api.items(pods(namespace))}
    assert ended.keys() == set(range(len(plan.sweeps)))
    for sweep in plan.sweeps:
        told = result.decode(ended[sweep.index]["message"].encode(), plan, sweep)
        assert told.problems == ()
        medians = {cell.batch_size: cell.latency_median_ns for cell in told.result.cells}
        assert medians == {size: latency_ns(sweep.strategy, size) for size in (1, 8)}


INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


def test_a_later_stage_counts_in_its_list_of_sweeps_and_a_long_plan_comes_from_its_config_map(api, namespace, kubelet):
    plan = a_plan(backends=["torch-eager", "onnxruntime"], batch_sizes=[1, 8])
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "it"}, "data": {"plan.json": plan.dump()}}
    api.create(f"/api/v1/namespaces/{namespace}/configmaps", body)
    volumes = {"volumes": [{"name": "plan", "configMap": {"name": "it"}}]}
    env = {"INFERBENCH_PLAN_FILE": "/etc/inferbench/plan.json", "INFERBENCH_SWEEPS": "1,3-4"}

    api.create(jobs(namespace), a_job(env=env, pod=volumes, parallelism=3))
    wait_finished(api, namespace)

    ended = {int(p["metadata"]["labels"][INDEX_LABEL]): terminated(p)["message"] for p in api.items(pods(namespace))}
    told = {index: result.decode(text.encode(), plan, plan.sweeps[[1, 3, 4][index]]) for index, text in ended.items()}
    assert {index: decoded.result.sweep for index, decoded in told.items()} == {0: 1, 1: 3, 2: 4}


def test_latencies_are_known_in_closed_form():
    """The first strategy of the list takes 12.5 ms for a batch of 1; no two strategies can tie."""
    eager, onnxruntime = Strategy.parse("torch-eager/fp32"), Strategy.parse("onnxruntime/fp32")

    assert latency_ns(eager, 1) == 12_500_000
    assert latency_ns(eager, 1) / latency_ns(onnxruntime, 1) == 1.25
    assert geometric_mean([latency_ns(eager, 8)] * 4).value == pytest.approx(30_000_000)


@pytest.mark.parametrize(
    ("ending", "phase", "reason", "code"),
    [
        pytest.param(Ending("said"), "Succeeded", "Completed", 0, id="ends well"),
        pytest.param(Ending("said", exit_code=1), "Failed", "Error", 1, id="fails"),
        pytest.param(Ending("said", exit_code=137, reason="OOMKilled"), "Failed", "OOMKilled", 137, id="memory"),
        pytest.param(Ending("x" * 9000 + "said", seconds=0.01), "Succeeded", "Completed", 0, id="too long a message"),
        pytest.param(Ending("no", seconds=60, so_far="said"), "Failed", "Error", 137, id="deadline"),
    ],
)
def test_a_pod_ends_as_on_a_node(api, namespace, kubelet, ending, phase, reason, code):
    kubelet.ending = lambda _: ending

    api.create(jobs(namespace), a_job(completions=1, pod={"activeDeadlineSeconds": 1}))
    wait_finished(api, namespace)

    (pod,) = api.items(pods(namespace))
    end = terminated(pod)
    assert (pod["status"]["phase"], end["reason"], end["exitCode"]) == (phase, reason, code)
    assert end["message"].endswith("said")
    assert len(end["message"]) <= 4096


def test_a_pod_whose_image_is_missing_waits_and_says_so(api, namespace, kubelet):
    kubelet.ending = lambda _: Ending("no such image", waiting="ImagePullBackOff")

    api.create(jobs(namespace), a_job(completions=1))

    (waiting,) = eventually(
        lambda: [
            status["state"]["waiting"]
            for pod in api.items(pods(namespace))
            for status in pod["status"].get("containerStatuses", [])
        ]
    )
    assert waiting == {"reason": "ImagePullBackOff", "message": "no such image"}


def test_a_pod_of_a_job_that_is_deleted_shows_its_end_before_it_goes(api, namespace, kubelet):
    """A watch sees what it had to say: the Job's finalizer holds it until it is counted."""
    kubelet.ending = lambda _: Ending("all", seconds=600, so_far="half")
    api.create(jobs(namespace), a_job(completions=1))
    pod = eventually(lambda: next((p for p in api.items(pods(namespace)) if p["status"]["phase"] == "Running"), None))
    version = pod["metadata"]["resourceVersion"]

    api.delete(f"{pods(namespace)}/{pod['metadata']['name']}")

    seen = []
    for event in api.watch(pods(namespace), resourceVersion=version):
        if event["object"]["metadata"]["name"] != pod["metadata"]["name"]:
            continue
        seen.append((event["type"], event["object"]["status"]["phase"]))
        if event["type"] == "DELETED":
            last = event["object"]
            break
    assert ("MODIFIED", "Failed") in seen
    assert terminated(last)["message"] == "half"


def test_an_api_server_that_was_killed_comes_back_with_everything(own_cluster):
    api = own_cluster.api()
    with FakeKubelet(own_cluster.access, lambda _: Ending(seconds=0.2)) as kubelet:
        api.create(jobs("default"), a_job(completions=6))
        eventually(lambda: kubelet.started)

        own_cluster.kill("kube-apiserver")
        with pytest.raises(Exception, match="refused"):
            api.get("/api/v1/nodes")
        own_cluster.start("kube-apiserver")
        own_cluster.wait_ready()

        assert wait_finished(api, "default")["completedIndexes"] == "0-5"
        assert sorted(set(kubelet.indexes)) == [0, 1, 2, 3, 4, 5]


def test_etcd_and_the_controllers_may_be_restarted_too(own_cluster):
    for component in ("etcd", "kube-controller-manager", "kube-scheduler"):
        own_cluster.stop(component)
        own_cluster.start(component)
    own_cluster.wait_ready()

    with FakeKubelet(own_cluster.access):
        own_cluster.api().create(jobs("default"), a_job(completions=2))

        assert wait_finished(own_cluster.api(), "default")["succeeded"] == 2


def test_the_audit_log_tells_who_asked_for_what(audited, api, namespace):
    since = audited.audit_position()

    for name in ("one", "two"):
        api.create(jobs(namespace), a_job(name, suspend=True))
    api.get(f"{jobs(namespace)}/one")

    def counted():
        mine = (r for r in audited.audit(since) if r.user.endswith("admin") and r.namespace == namespace)
        return Counter((r.verb, r.resource) for r in mine)

    expected = {("create", "jobs"): 2, ("get", "jobs"): 1}
    assert eventually(lambda: counted() if counted().total() >= 3 else None) == expected


def test_kubectl_is_the_real_one(kubectl, kubelet):
    kubectl.apply(a_job(completions=1))
    kubectl.wait("job/job", condition="Complete")

    assert kubectl.run("get", "job", "job", "--output=jsonpath={.status.succeeded}") == "1"
    with pytest.raises(KubectlError, match="NotFound"):
        kubectl.get("job", "other")


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(("job", "job"), id="one"),
        pytest.param(("jobs", "--selector=of=mine"), id="a list"),
        pytest.param(("serviceaccounts", "default"), id="what only the program knows"),
    ],
)
def test_kubectl_get_is_answered_as_the_program_answers_it(kubectl, asked):
    """It asks the API server without the program where it can."""
    kubectl.apply({**a_job(suspend=True), "metadata": {"name": "job", "labels": {"of": "mine"}}})
    kubectl.apply(a_job("other", suspend=True))
    eventually(lambda: kubectl.run("get", "job", "job", "--output=jsonpath={.status.conditions}"))

    found = kubectl.get(*asked)

    told = json.loads(kubectl.run("get", *asked, "--output=json"))
    assert contents(found) == contents(told)


def contents(found):
    """Return what is in an answer, less the kind, which kubectl repeats in every item of a list."""
    return [{name: each.get(name) for name in ("metadata", "spec", "status")} for each in found.get("items", [found])]


def test_a_service_account_may_do_what_its_role_allows(cluster, api, namespace):
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    api.create(path, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}})
    token = eventually(lambda: api.token_of(namespace, "reader"))

    mine = cluster.kubectl_with("reader", token, namespace)

    with pytest.raises(KubectlError, match="cannot get resource"):
        mine.get("job", "other")


def test_two_processes_of_a_run_share_a_cluster_that_goes_with_the_last(cluster, kubernetes):
    key = f"kit-{os.getpid()}"
    with shared.joined(key) as first:
        folder = first.folder
        with shared.joined(key) as second:
            assert second.url == first.url != cluster.url
        assert first.api().text("/readyz") == "ok"

    eventually(lambda: not folder.exists(), 30, "the keeper to take the cluster down")


def test_kwok_plays_nodes_and_pods(own_cluster):
    plan = a_plan(backends=["torch-eager", "onnxruntime"], batch_sizes=[1, 8])
    only = {"nodeSelector": {"kubernetes.io/hostname": "kwok-0"}}

    with Kwok(own_cluster.access, nodes=1, gpus=2, seconds=0.1, message=sweep_message(plan)):
        own_cluster.api().create(jobs("default"), a_job(completions=4, parallelism=4, pod=only))
        wait_finished(own_cluster.api(), "default")
        found = own_cluster.api().items(pods("default"))
        lease = own_cluster.api().get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/kwok-0")

    for pod in found:
        sweep = plan.sweeps[int(pod["metadata"]["labels"][INDEX_LABEL])]
        assert result.decode(terminated(pod)["message"].encode(), plan, sweep).problems == ()
    assert len(found) == 4
    assert lease["spec"]["leaseDurationSeconds"] == 40
    assert INDEX_HERE in sweep_message(plan)


def test_a_proxy_answers_as_it_is_told_and_then_passes_on(api_proxy, namespace):
    api = api_proxy.through().api()
    fault = api_proxy.inject(Fault(status=409, verb="create", path="*/jobs"))

    with pytest.raises(ApiError, match="409 Conflict"):
        api.create(jobs(namespace), a_job(suspend=True))
    created = api.create(jobs(namespace), a_job(suspend=True))

    assert created["metadata"]["name"] == "job"
    assert fault.hits == 1
    assert [(p.verb, p.status) for p in api_proxy.requests] == [("create", 409), ("create", 201)]


@pytest.mark.parametrize(
    ("fault", "exists"),
    [
        pytest.param(Fault(status=500, is_late=True), True, id="the answer is lost"),
        pytest.param(Fault(cut=True, is_late=True), True, id="the connection breaks after the work"),
        pytest.param(Fault(cut=True), False, id="the connection breaks before the work"),
        pytest.param(Fault(status=429, retry_after=1), False, id="too many requests"),
    ],
)
def test_a_request_that_fails_may_have_been_carried_out(api_proxy, api, namespace, fault, exists):
    api_proxy.inject(fault)

    with pytest.raises(Exception, match=r"429|500|[Cc]onnection"):
        api_proxy.through().api().create(jobs(namespace), a_job(suspend=True))

    assert (api.find(f"{jobs(namespace)}/job") is not None) is exists


def test_a_proxy_cuts_watches_and_tells_them_that_they_are_too_old(api_proxy, api, namespace):
    through = api_proxy.through().api()
    api_proxy.inject(Fault(status=410, verb="watch", in_stream=True))
    api.create(jobs(namespace), a_job(suspend=True))

    *_, last = through.watch(jobs(namespace))
    watch = through.watch(jobs(namespace))
    first = next(watch)
    cut = api_proxy.cut_watches()

    assert (last["type"], last["object"]["code"], last["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert first["object"]["metadata"]["name"] == "job"
    assert cut == 1
    with pytest.raises(Exception, match="ended prematurely"):
        list(watch)


def test_a_proxy_can_be_slow(api_proxy):
    api_proxy.inject(Fault(delay=0.2))

    started = time.monotonic()
    api_proxy.through().api().get("/api/v1/namespaces/default")

    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    ("method", "path", "query", "verb"),
    [
        pytest.param("GET", "/api/v1/pods", {}, "list", id="all pods"),
        pytest.param("GET", "/api/v1/namespaces", {}, "list", id="all namespaces"),
        pytest.param("GET", "/api/v1/namespaces/mine", {}, "get", id="a namespace"),
        pytest.param("GET", "/api/v1/namespaces/mine/pods", {}, "list", id="the pods of a namespace"),
        pytest.param("GET", "/apis/batch/v1/namespaces/mine/jobs/it", {}, "get", id="a Job"),
        pytest.param("GET", "/apis/batch/v1/jobs", {"watch": "true"}, "watch", id="a watch"),
        pytest.param("GET", "/apis/batch/v1", {}, "get", id="discovery"),
        pytest.param("PATCH", "/apis/batch/v1/namespaces/mine/jobs/it/status", {}, "patch", id="a status"),
    ],
)
def test_a_proxy_knows_the_verbs_of_rbac(method, path, query, verb):
    assert verb_of(method, path, query) == verb
