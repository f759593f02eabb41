"""One benchmark in the hands of the controller: in which order it writes, and what follows a write that failed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

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
from inferbench_operator.results_page import ResultsPage
from inferbench_operator.workqueue import Queue
from tests.clusters import NOW, SETTINGS, UID, a_message, wanted
from tests.stores import Store

KEY = Key("default", "example")
PATH = paths.benchmarks("default", "example")
BEGINNING = ["create jobs", "patch inferencebenchmarks/status", "create events"]
END = ["create configmaps", "patch inferencebenchmarks/status", "create events", "patch jobs"]


@dataclass
class Life:
    """A cluster with one benchmark, and the operator that looks at it."""

    asked: object = field(default_factory=wanted)
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
            self.store, self.cache, self.queue, SETTINGS, Metrics(), self.page, clock=lambda: NOW
        )
        self.hear()

    def hear(self):
        """Let the watches tell everything."""
        for item in self.store.of("inferencebenchmarks").values():
            self.cache.heard_benchmark(None, item)
        for item in self.store.of("jobs").values():
            self.cache.heard_job(None, item)
        for item in self.store.of("pods").values():
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

    def measure(self):
        """Let every pod end well, and the Job with them."""
        (job,) = self.store.of("jobs").values()
        for sweep in self.plan.sweeps:
            name = f"{job['metadata']['name']}-{sweep.index}"
            message = a_message(self.plan, sweep).decode()
            self.store.objects[paths.pods("default", name)] = pod_of(job, sweep.index, name, message)
        ended = {"type": "Complete", "status": "True", "lastTransitionTime": observing.written(NOW)}
        job["status"] = {"conditions": [ended]}
        self.hear()

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


def test_many_results_become_several_shards():
    asked = wanted(measurement={"rounds": shards.MAX_RESULTS + 6})
    life = Life(asked)
    life.look()
    life.measure()

    for _ in range(3):
        life.look()

    assert [shard["sweeps"] for shard in life.status["shards"]] == [shards.MAX_RESULTS, 6]
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


def test_a_shard_of_ours_that_cannot_be_read_is_left_alone():
    life = Life()
    life.look()
    name = f"example-{life.plan.short_hash}-r0"
    spoiled = {"metadata": {"name": name, "ownerReferences": [{"uid": UID}]}, "data": {"results.jsonl": "{]\n"}}
    life.store.objects[paths.config_maps("default", name)] = spoiled
    life.measure()

    life.look()
    life.look()

    assert life.store.of("configmaps")[name] == spoiled
    assert life.condition("Succeeded")["status"] == "True"


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
    (job,) = life.store.of("jobs").values()
    container = job["spec"]["template"]["spec"]["containers"][0]
    older = plans.expand(wanted(measurement={"rounds": 4}))
    container["env"] = [{"name": "INFERBENCH_PLAN", "value": older.dump()}]
    job["spec"]["completions"] = len(older.sweeps)
    life.plan = older

    life.restart()
    life.measure()
    life.look()

    assert life.status["plan"]["hash"] == older.short_hash
    assert life.status["sweeps"] == {"planned": 4, "finished": 4}
    assert json.loads(next(iter(life.store.of("configmaps").values()))["data"]["plan.json"])["hash"] == older.hash


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
