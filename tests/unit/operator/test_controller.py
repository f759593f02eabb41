"""One benchmark in the hands of the controller: in which order it writes, and what follows a write that failed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from inferbench_contract import plan as plans
from inferbench_contract import shards
from inferbench_operator import observed as observing
from inferbench_operator import paths
from inferbench_operator.api_errors import ApiError, Cause
from inferbench_operator.cache import Cache
from inferbench_operator.controller import BlockedError, Controller
from inferbench_operator.metrics import Metrics
from inferbench_operator.observed import Key
from inferbench_operator.results_page import Published, ResultsPage
from inferbench_operator.workqueue import Queue
from tests.clusters import NOW, SETTINGS, UID, a_message, wanted
from tests.results import a_result, measured
from tests.stores import Store

KEY = Key("default", "example")
PATH = paths.benchmarks("default", "example")
BEGINNING = ["create jobs", "patch inferencebenchmarks/status", "create events"]
END = ["create configmaps", "patch inferencebenchmarks/status", "create events", "patch jobs"]


@dataclass
class Life:
    """A cluster with one benchmark, and the operator that looks at it."""

    asked: object = field(default_factory=wanted)
    now: object = NOW
    store: Store = field(default_factory=Store)

    def __post_init__(self):
        self.plan = plans.expand(self.asked)
        told = {**self.raw(), "metadata": {**self.raw()["metadata"], "resourceVersion": "1"}}
        self.store.objects.setdefault(PATH, told)
        self.restart()

    def raw(self, **spec):
        told = self.asked.model_dump(mode="json", by_alias=True, exclude_unset=True)
        told["metadata"] |= {"namespace": "default", "uid": UID, "generation": 1}
        return {**told, "spec": {**told["spec"], **spec}}

    def restart(self):
        """Let the operator know what the cluster has, and nothing else."""
        self.cache, self.queue, self.page = Cache(), Queue(lambda: 0.0), ResultsPage("cells", 1_000)
        self.controller = Controller(
            self.store, self.cache, self.queue, SETTINGS, Metrics(), self.page, clock=lambda: self.now
        )
        self.hear()

    def hear(self, *, are_pods_told=True):
        """Let the watches tell everything."""
        for item in self.store.of("inferencebenchmarks").values():
            self.cache.heard_benchmark(None, item)
        for item in self.store.of("jobs").values():
            self.cache.heard_job(None, item)
        for item in self.store.of("pods").values() if are_pods_told else ():
            self.cache.heard_pod(None, item)

    def look(self):
        asyncio.run(self.controller.reconcile(KEY))

    def look_until_well(self):
        """Look again after whatever fails, as the queue does."""
        for _ in range(5):
            self.hear()
            try:
                self.look()
            except (ApiError, BlockedError):
                continue
            return
        raise AssertionError("it fails for ever")

    def measure(self, ended_at=NOW, *, are_pods_told=True):
        """Let every pod end well, and the Job with them."""
        (job,) = self.store.of("jobs").values()
        for sweep in self.plan.sweeps:
            name = f"{job['metadata']['name']}-{sweep.index}"
            message = a_message(self.plan, sweep).decode()
            self.store.objects[paths.pods("default", name)] = pod_of(job, sweep.index, name, message)
        ended = {"type": "Complete", "status": "True", "lastTransitionTime": observing.written(ended_at)}
        job["status"] = {"conditions": [ended]}
        self.hear(are_pods_told=are_pods_told)

    @property
    def status(self):
        return self.store.objects[PATH]["status"]

    def condition(self, kind):
        return observing.condition(self.status, kind)


def pod_of(job, place, name, message):
    ended = {"exitCode": 0, "reason": "Completed", "message": message, "finishedAt": observing.written(NOW)}
    labels = {
        "inferbench.dev/benchmark": "example",
        "batch.kubernetes.io/job-name": job["metadata"]["name"],
        "batch.kubernetes.io/job-completion-index": str(place),
    }
    owner = {"uid": job["metadata"]["uid"], "controller": True}
    head = {"name": name, "namespace": "default", "uid": f"uid-of-{name}", "labels": labels, "ownerReferences": [owner]}
    status = {"phase": "Succeeded", "containerStatuses": [{"name": "runner", "state": {"terminated": ended}}]}
    return {"metadata": {**head, "creationTimestamp": observing.written(NOW)}, "spec": {}, "status": status}


def test_results_are_safe_before_the_status_names_them_and_the_job_goes_last():
    life = Life()

    life.look()
    assert life.store.writes == BEGINNING
    life.measure()
    life.look()

    assert life.store.writes == BEGINNING + END
    assert life.condition("Succeeded")["status"] == "True"
    (shard,) = life.store.of("configmaps").values()
    assert life.status["shards"] == [
        {"configMap": shard["metadata"]["name"], "sweeps": 2, "sha256": shards.checksum(shard["data"])}
    ]


@pytest.mark.parametrize("number", range(len(BEGINNING + END)))
@pytest.mark.parametrize("forgets", [False, True], ids=["goes-on", "dies"])
def test_a_write_that_fails_is_made_good_and_nothing_comes_before_its_time(number, forgets):
    life, asked = Life(), []

    def refuse(said):
        asked.append(said)
        named = {shard["configMap"] for shard in life.store.objects[PATH].get("status", {}).get("shards", ())}
        assert named <= life.store.of("configmaps").keys(), "the status names a shard before it is there"
        if len(asked) == number + 1:
            return ApiError("POST /x", 500, "InternalError", "etcd is away")
        if said == "patch jobs":
            assert life.condition("Finished")["status"] == "True", "the Job may go before the status says how it ended"
        return None

    life.store.refuse = refuse
    for step in (life.look_until_well, life.measure, life.look_until_well):
        step()
        if forgets:
            life.restart()

    life.look_until_well()
    assert life.condition("Succeeded")["status"] == "True"
    assert [job["spec"]["ttlSecondsAfterFinished"] for job in life.store.of("jobs").values()] == [300]
    assert len(life.store.of("configmaps")) == 1


def test_an_operator_that_starts_among_finished_benchmarks_writes_nothing_and_shows_them():
    life = Life()
    life.look()
    life.measure()
    life.look()
    life.store.writes.clear()

    life.restart()
    life.look()

    assert life.store.writes == []
    assert b'benchmark="example"' in life.page.render()


def finished():
    """Return a life whose benchmark has ended and whose Job is collected."""
    life = Life()
    life.look()
    life.measure()
    life.look()
    for path in [path for path in life.store.objects if "/jobs/" in path or "/pods/" in path]:
        del life.store.objects[path]
    life.store.writes.clear()
    return life


def test_the_plan_of_a_finished_benchmark_is_the_one_in_its_shard():
    life = finished()
    life.asked = wanted(measurement={"rounds": 4})  # as if this operator planned more rounds of the same spec
    life.store.objects[PATH]["spec"] = life.raw()["spec"]

    life.restart()
    life.look()

    assert life.store.writes == []
    assert b'benchmark="example"' in life.page.render()


def test_a_shard_that_is_not_what_the_status_names_counts_as_missing():
    life = finished()
    (shard,) = life.store.of("configmaps").values()
    lines = shard["data"]["results.jsonl"].splitlines()
    shard["data"]["results.jsonl"] = f"{lines[0]}\n"

    life.restart()
    life.look()

    assert life.condition("ResultsComplete")["reason"] == "ShardMissing"
    assert shard["metadata"]["name"] in life.condition("ResultsComplete")["message"]


def test_of_results_that_are_not_all_there_no_winner_is_told_on_results():
    """The rows that are left may say another one than the status does."""
    life = finished()
    (name,) = life.store.of("configmaps")
    del life.store.objects[paths.config_maps("default", name)]

    life.restart()
    life.look()

    shown = life.page.render().decode()
    assert 'condition="ResultsComplete"} 0' in shown
    assert "inferbench_benchmark_best_info{" not in shown
    assert "inferbench_benchmark_cells{" not in shown


def test_a_benchmark_whose_cells_had_no_room_on_results_tells_them_when_another_is_gone():
    life = finished()
    life.restart()
    life.page._max_series = 0
    life.page.put("default", "other", Published(life.asked.spec))
    life.look()
    assert life.page.truncated == {KEY}
    life.page._max_series = 1_000

    asyncio.run(life.controller.reconcile(Key("default", "other")))

    assert life.queue.depth == 1, "it is looked at again"
    life.look()
    assert life.page.truncated == frozenset()
    assert "inferbench_cell_latency_median_seconds{" in life.page.render().decode()
    assert life.store.writes == []


@pytest.mark.parametrize("place", [2, 99])
def test_a_pod_whose_index_its_job_does_not_have_is_passed_over(place):
    life = Life()
    life.look()
    (job,) = life.store.of("jobs").values()
    life.store.objects[paths.pods("default", "stranger")] = pod_of(job, place, "stranger", "{}")
    life.measure()

    life.look()

    assert life.condition("Succeeded")["status"] == "True"


def test_an_operator_that_starts_in_the_middle_of_a_run_writes_nothing():
    life = Life()
    life.look()
    life.store.writes.clear()

    life.restart()
    life.look()

    assert life.store.writes == []


def test_a_benchmark_does_not_end_before_its_job_has_ended():
    life = Life()
    life.look()
    life.measure()
    (job,) = life.store.of("jobs").values()
    del job["status"]
    life.restart()

    life.look()

    assert life.status["sweeps"]["finished"] == 2
    assert life.condition("Finished")["status"] == "False"


def test_results_are_not_lost_because_the_watch_of_pods_is_behind():
    life = Life()
    life.look()
    life.measure(NOW - timedelta(minutes=1), are_pods_told=False)

    life.look()

    assert len(life.store.of("jobs")) == 1
    assert life.condition("Succeeded")["reason"] == "AllCellsMeasured"


def test_many_results_become_several_shards():
    asked = wanted(precisions=["fp32", "fp16"], measurement={"rounds": 100})
    life = Life(asked)
    life.look()
    life.measure()

    for _ in range(3):
        life.look()

    assert [shard["sweeps"] for shard in life.status["shards"]] == [shards.MAX_RESULTS, 200 - shards.MAX_RESULTS]
    assert life.condition("Succeeded")["status"] == "True"


def test_a_status_that_somebody_else_wrote_first_is_looked_at_again():
    life = Life()
    life.store.objects[PATH]["metadata"]["resourceVersion"] = "50"

    with pytest.raises(ApiError, match="409"):
        life.look()
    life.look_until_well()

    assert life.condition("Accepted")["status"] == "True"
    assert len(life.store.of("jobs")) == 1


def test_a_shard_whose_name_is_somebody_elses_gets_the_next_name():
    life = Life()
    life.look()
    name = f"example-{life.plan.short_hash}-r0"
    stranger = {"metadata": {"name": name, "namespace": "default"}, "data": {}}
    life.store.objects[paths.config_maps("default", name)] = stranger
    life.measure()

    life.look()
    life.look()

    assert [shard["configMap"] for shard in life.status["shards"]] == [f"example-{life.plan.short_hash}-r1"]
    assert shards.plan_of(life.store.of("configmaps")[f"example-{life.plan.short_hash}-r1"]["data"], "r1") == life.plan


def made_up(plan):
    """Return what somebody would like the results of a plan to be."""
    return shards.pack([a_result(plan, sweep, [measured(1, latency_ms=0.001)]) for sweep in plan.sweeps], plan)


@pytest.mark.parametrize(
    "data_for",
    [
        pytest.param(lambda _: {"results.jsonl": "{]\n"}, id="nothing that can be read"),
        pytest.param(lambda _: {}, id="nothing, without the plan"),
        pytest.param(made_up, id="results that no pod gave"),
    ],
)
def test_a_shard_that_somebody_made_first_in_our_name_does_not_count(data_for):
    """Whoever may make ConfigMaps may name the benchmark as their owner."""
    life = Life()
    life.look()
    name, next_name = (f"example-{life.plan.short_hash}-r{number}" for number in (0, 1))
    theirs = {"metadata": {"name": name, "ownerReferences": [{"uid": UID}]}, "data": data_for(life.plan)}
    life.store.objects[paths.config_maps("default", name)] = theirs
    life.measure()

    life.look()
    life.look()

    assert life.store.of("configmaps")[name] == theirs
    assert [shard["configMap"] for shard in life.status["shards"]] == [next_name]
    assert shards.plan_of(life.store.of("configmaps")[next_name]["data"], "r1") == life.plan
    assert life.status["summary"]["best"][0]["latencyNanoseconds"] == 1_414_214, "of 1 ms and 2 ms"


def test_a_shard_that_another_operator_wrote_first_counts_as_it_is():
    one = Life()
    one.look()
    one.measure()
    other = Life(store=one.store)
    one.look()

    other.hear()
    other.look()

    assert len(one.store.of("configmaps")) == 1
    assert one.condition("Succeeded")["status"] == "True"


QUOTA = ApiError("POST /x", 403, "Forbidden", "exceeded quota: few, requested: count/jobs.batch=1")


def test_what_the_server_refuses_for_now_is_said_and_tried_again():
    life = Life()
    life.store.refuse = lambda said: QUOTA if said == "create jobs" else None

    with pytest.raises(BlockedError):
        life.look()

    assert life.condition("Running")["reason"] == "QuotaExceeded"
    life.store.refuse = lambda _: None
    life.look_until_well()
    assert life.condition("Running")["status"] == "True"


def test_a_status_that_the_server_refuses_for_good_is_told_and_written_once_it_takes_it():
    """It would refuse the very same again: the resource that is installed may be another version's."""
    life = Life()
    life.look()
    life.measure()
    answers = iter([ApiError("PATCH /x", 422, "Invalid", "status.summary: Too large")])
    life.store.refuse = lambda said: next(answers, None) if said == "patch inferencebenchmarks/status" else None

    with pytest.raises(ApiError, match="422"):
        life.look()

    assert life.condition("Running")["reason"] == "StatusRefused"
    assert life.condition("Running")["message"].startswith("status.summary: Too large. What is measured is kept.")
    assert life.condition("Finished")["status"] == "False"
    life.look_until_well()
    assert life.condition("Succeeded")["status"] == "True"


def test_a_benchmark_suspended_while_the_server_refuses_it_asks_no_more():
    life = Life()
    life.store.refuse = lambda said: QUOTA if said == "create jobs" else None
    with pytest.raises(BlockedError):
        life.look()
    stored = life.store.objects[PATH]
    stored["spec"]["suspend"] = True
    stored["metadata"] |= {"resourceVersion": "900", "generation": 2}
    life.hear()

    life.look()

    assert life.condition("Running")["reason"] == "Suspended"
    assert life.condition("Suspended")["status"] == "True"


def test_what_is_refused_for_good_ends_the_benchmark():
    life = Life()
    wrong = ApiError("POST /x", 422, "Invalid", "spec.template.spec.containers[0].env: Required value")
    life.store.refuse = lambda said: wrong if said == "create jobs" else None

    life.look()

    assert life.condition("Accepted")["reason"] == "JobRefused"
    assert life.condition("Finished")["status"] == "True"
    assert "env: Required value" in life.condition("Succeeded")["message"]


def test_a_benchmark_made_anew_takes_nothing_of_the_old_one_along():
    life = Life()
    life.look()
    life.measure()
    life.look()
    anew = {**life.raw(), "metadata": {**life.raw()["metadata"], "uid": "another", "resourceVersion": "999"}}
    life.store.objects = {PATH: anew}
    life.cache.heard_benchmark("MODIFIED", anew)

    life.look()

    assert b'benchmark="example"' not in life.page.render()
    (job,) = life.store.of("jobs").values()
    assert job["metadata"]["ownerReferences"][0]["uid"] == "another"


def test_the_plan_of_a_running_job_is_kept_by_an_operator_that_would_plan_otherwise():
    life = Life()
    life.look()
    older = plans.expand(wanted(measurement={"rounds": 4}))
    ((path, job),) = ((path, item) for path, item in life.store.objects.items() if "/jobs/" in path)
    name = job["metadata"]["name"] = f"example-{older.short_hash}-0"
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "INFERBENCH_PLAN", "value": older.dump()}]
    job["spec"]["completions"] = len(older.sweeps)
    life.store.objects[paths.jobs("default", name)] = life.store.objects.pop(path)
    life.status["plan"]["hash"] = older.short_hash
    life.plan = older

    life.restart()
    life.measure()
    life.look()

    assert life.status["plan"]["hash"] == older.short_hash
    assert life.status["sweeps"] == {"planned": 4, "finished": 4}
    assert json.loads(next(iter(life.store.of("configmaps").values()))["data"]["plan.json"])["hash"] == older.hash


def forged(job, plan, **spec):
    """Return a Job that somebody made by hand with our labels, the benchmark as its owner and a plan of theirs."""
    head = {
        **job["metadata"],
        "name": f"example-{plan.short_hash}-0",
        "uid": "forged",
        "creationTimestamp": "2025-01-01T00:00:00Z",
    }
    container = {"name": "runner", "env": [{"name": "INFERBENCH_PLAN", "value": plan.dump()}]}
    own = {"completions": len(plan.sweeps), "parallelism": 0, "template": {"spec": {"containers": [container]}}}
    return {**job, "metadata": head, "spec": {**own, **spec}}


FORGED_PLAN = plans.expand(wanted(measurement={"rounds": 4}))


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="with another plan"),
        pytest.param({"completions": 2**31 - 1}, id="with more sweeps than any plan, which would fill the memory"),
    ],
)
def test_a_job_that_somebody_forged_is_no_stage(spec):
    life = Life()
    life.look()
    (job,) = life.store.of("jobs").values()
    life.store.objects[paths.jobs("default", "forged")] = forged(job, FORGED_PLAN, **spec)
    life.restart()

    life.look()

    assert life.status["plan"]["hash"] == life.plan.short_hash
    assert [stage["job"] for stage in life.status["stages"]] == [job["metadata"]["name"]]
    life.store.objects.pop(paths.jobs("default", "forged"))
    life.measure()
    life.look()
    assert life.condition("Succeeded")["status"] == "True"


@pytest.mark.parametrize(("is_leaving", "deadline"), [(True, 1), (False, None)], ids=["leaving", "staying"])
def test_the_job_of_a_namespace_that_is_being_deleted_is_ended_once_its_pods_are_deleted(is_leaving, deadline):
    """Its pods are deleted first, and the Job controller would hold a failed one for ever."""
    life = Life()
    life.look()
    (job,) = life.store.of("jobs").values()
    pod = pod_of(job, 0, "stopped", "")
    pod["metadata"]["deletionTimestamp"] = observing.written(NOW)
    pod["status"] |= {"phase": "Failed"}
    life.store.objects[paths.pods("default", "stopped")] = pod
    gone = ApiError("POST", 403, "Forbidden", "being terminated", causes=[Cause("", "NamespaceTerminating", "")])
    life.store.refuse = lambda write: gone if is_leaving and write == "create configmaps" else None

    life.look_until_well()

    (job,) = life.store.of("jobs").values()
    assert job["spec"].get("activeDeadlineSeconds") == deadline


def test_whether_a_namespace_is_leaving_is_asked_again_until_there_is_an_answer():
    """Nothing else would end its Job, and the pod that makes it ask is asked about once."""
    life = Life()
    life.look()
    (job,) = life.store.of("jobs").values()
    pod = pod_of(job, 0, "stopped", "")
    pod["metadata"]["deletionTimestamp"] = observing.written(NOW)
    life.store.objects[paths.pods("default", "stopped")] = pod
    lost = ApiError("POST", 0, "Unreachable", "no answer")
    gone = ApiError("POST", 403, "Forbidden", "being terminated", causes=[Cause("", "NamespaceTerminating", "")])
    answers = [lost, gone]
    life.store.refuse = lambda write: answers.pop(0) if write == "create configmaps" else None

    life.look_until_well()

    assert [job["spec"].get("activeDeadlineSeconds") for job in life.store.of("jobs").values()] == [1]


NO_CONFIG_MAPS = ApiError("POST /x", 403, "Forbidden", "exceeded quota: few, requested: count/configmaps=1")
WEBHOOK = ApiError("POST /x", 422, "Invalid", "admission webhook says no")


@pytest.mark.parametrize(
    ("refused", "reason"), [(NO_CONFIG_MAPS, "QuotaExceeded"), (WEBHOOK, "ResultsRefused")], ids=["quota", "webhook"]
)
def test_results_that_cannot_be_kept_are_said_counted_and_kept_once_they_can_be(refused, reason):
    life = Life()
    life.look()
    life.measure()
    life.store.refuse = lambda said: refused if said == "create configmaps" else None

    for _ in range(2):
        life.hear()
        with pytest.raises(BlockedError):
            life.look()

    assert life.condition("ResultsComplete")["reason"] == reason
    assert life.condition("Running")["reason"] == reason
    assert refused.message in life.condition("Running")["message"]
    assert life.condition("Finished")["status"] == "False"
    assert life.status["sweeps"]["finished"] == 2
    assert len(life.store.of("jobs")) == 1
    life.store.refuse = lambda _: None
    life.look_until_well()
    assert life.condition("Succeeded")["status"] == "True"
    assert life.condition("ResultsComplete")["status"] == "True"


def refused_while_it_runs(**spec):
    """Return a life whose benchmark runs privileged pods, which the operator that comes then does not allow."""
    life = Life(wanted(**spec))
    life.look()
    life.store.objects[PATH]["status"]["shards"] = [{"configMap": "r0", "sweeps": 1, "sha256": "0"}]
    life.store.objects[PATH]["spec"]["podTemplate"] = {"spec": {"hostNetwork": True}}
    life.restart()
    return life


def test_a_benchmark_that_is_not_allowed_any_more_is_stopped_and_keeps_what_it_has():
    life = refused_while_it_runs()

    life.look()

    (job,) = life.store.of("jobs").values()
    assert life.condition("Accepted")["reason"] == "InvalidSpec"
    assert (job["spec"]["suspend"], job["spec"]["ttlSecondsAfterFinished"]) == (True, 300)
    assert [shard["configMap"] for shard in life.status["shards"]] == ["r0"]


def test_a_benchmark_that_is_refused_is_deleted_when_its_time_has_come():
    life = refused_while_it_runs(ttl_seconds_after_finished=0)

    life.look()
    life.hear()
    life.look()

    assert PATH not in life.store.objects


@pytest.mark.parametrize("goes_well", [True, False])
def test_every_look_is_told_of_once_it_is_over_whatever_came_of_it(goes_well):
    life = Life()
    life.store.refuse = lambda _: None if goes_well else ApiError("POST /x", 500, "InternalError", "etcd is away")
    life.queue.add(KEY)
    looked_at = []

    def looked(key):
        looked_at.append(key)
        life.queue.close()

    asyncio.run(life.controller.work(looked))

    assert looked_at == [KEY]


def test_a_shard_that_somebody_deleted_while_it_runs_is_made_again_of_what_its_pods_still_say():
    life = Life()
    life.look()
    (job,) = life.store.of("jobs").values()
    message = a_message(life.plan, life.plan.sweeps[0]).decode()
    life.store.objects[paths.pods("default", "p0")] = pod_of(job, 0, "p0", message)
    life.now += timedelta(seconds=SETTINGS.shard_after_seconds)
    life.hear()
    life.look()
    ((name, kept),) = life.store.of("configmaps").items()
    del life.store.objects[paths.config_maps("default", name)]
    life.look()
    assert not life.store.of("configmaps"), "it is not asked for at each look"

    life.now += timedelta(seconds=SETTINGS.resync_seconds)
    life.look()

    assert life.store.of("configmaps")[name]["data"] == kept["data"]
    assert [shard["configMap"] for shard in life.status["shards"]] == [name]
