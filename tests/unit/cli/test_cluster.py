import io
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import yaml

from inferbench_cli import __main__ as program
from inferbench_cli import cluster, folder, kubectl, resource
from inferbench_cli.kubectl import Kubectl, UnreachableError
from inferbench_cli.resource import RefusedError
from inferbench_contract import shards
from inferbench_contract.errors import EnvironmentFault, PlanError, SpecError
from inferbench_contract.plan import Plan
from inferbench_contract.words import Outcome
from tests.in_cluster import FINISHED, RUNNING, SUCCEEDED, InCluster, Saying, a_finished, conditions
from tests.results import a_result, ended, measured


class TestUnderstanding:
    @pytest.mark.parametrize("per_shard", [pytest.param(64, id="one shard"), pytest.param(1, id="a shard per sweep")])
    def test_the_answer_is_the_one_that_local_mode_gives_for_the_same_results(self, per_shard):
        world = a_finished(per_shard=per_shard)

        found = world.found()

        assert found.problems == ()
        assert found.plan == world.plan
        assert found.results == world.results
        assert found.summarize().document()["best"][0]["strategy"] == "fake/fp16"

    def test_what_the_server_and_kubectl_add_is_no_part_of_the_benchmark(self):
        found = a_finished().found()

        assert found.manifest["metadata"] == {
            "name": "example",
            "namespace": "team",
            "annotations": {"example.com/why": "a test"},
        }
        assert found.name == "team/example"

    def test_a_benchmark_that_nobody_has_looked_at_has_the_plan_of_its_spec_and_no_results(self):
        item = {key: value for key, value in InCluster().item.items() if key != "status"}

        found = resource.understand(item, {})

        assert (found.plan, found.results) == (InCluster().plan, ())

    def test_of_two_results_of_a_sweep_the_last_counts_as_it_does_for_the_operator(self):
        world = a_finished(per_shard=4)
        again = a_result(world.plan, 0, [measured(1, 99)])
        world.results = (*world.results, again)

        assert world.found().results[0] == again

    def test_a_pod_template_that_needs_a_privileged_operator_hides_no_answer(self):
        world = a_finished()
        world.manifest["spec"]["podTemplate"] = {"spec": {"hostNetwork": True}}

        found = resource.understand(world.item, world.stored)

        assert "podTemplate" not in found.manifest["spec"]
        assert found.results == world.results


class TestShardsThatCannotBeUsed:
    def test_one_that_is_gone_is_named_and_the_others_are_used(self):
        world = a_finished(per_shard=2)
        *_, last = world.stored

        found = world.found({name: data for name, data in world.stored.items() if name != last})

        assert found.problems == (f"ConfigMap {last} is gone: the results of 2 sweeps are missing here.",)
        assert found.results == world.results[:2]

    def test_one_that_was_changed_is_named_and_not_believed(self):
        world = a_finished(per_shard=2)
        *_, last = world.stored
        forged = {**world.stored[last], shards.RESULTS: world.stored[last][shards.RESULTS].replace("[1e7]", "[1e6]")}
        assert forged != world.stored[last]

        found = world.found({**world.stored, last: forged})

        assert len(found.problems) == 1
        assert found.problems[0].startswith(f"ConfigMap {last} is not what the operator stored (its sha256 is ")
        assert found.results == world.results[:2]

    def test_one_that_holds_what_is_no_result_is_named(self):
        world = a_finished()
        (name,) = world.stored
        data = {**world.stored[name], shards.RESULTS: "nonsense\n"}
        item = world.item
        item["status"]["shards"][0]["sha256"] = shards.checksum(data)

        found = resource.understand(item, {name: data})

        problem = "WrongSweep: a line of results.jsonl names no sweep of plan"
        assert found.problems == (f"ConfigMap {name} cannot be read: {problem} {world.plan.short_hash}.",)

    def test_without_the_first_the_plan_of_the_spec_is_taken_when_it_is_the_one_that_was_measured(self):
        world = a_finished(per_shard=2)
        first, *_ = world.stored

        found = world.found({name: data for name, data in world.stored.items() if name != first})

        assert found.plan == world.plan
        assert found.results == world.results[2:]

    def test_without_a_plan_that_fits_the_results_cannot_be_read(self):
        world = a_finished(per_shard=2)
        first, *_ = world.stored
        item = world.item
        item["status"]["plan"]["hash"] = "0123456789"

        with pytest.raises(PlanError, match=r"measured by plan 0123456789, and its spec is plan .* Use the version"):
            resource.understand(item, {name: data for name, data in world.stored.items() if name != first})


class TestWhatCannotBeShown:
    def test_a_benchmark_that_the_operator_refuses_says_its_words(self):
        world = InCluster(("Accepted", "False", "InvalidSpec", "spec.batchSizes: found 0."), FINISHED)

        with pytest.raises(
            RefusedError, match=r"^team/example is refused \(InvalidSpec\): spec.batchSizes: found 0\.$"
        ):
            world.found()

    def test_one_that_was_refused_after_it_had_measured_shows_what_it_has(self):
        """A policy may come after the first stage, and refuse the second."""
        refused = ("Accepted", "False", "JobRefused", "a policy")
        world = InCluster(refused, FINISHED, ("Succeeded", "False", "JobRefused", "a policy")).measured()
        world.results = world.results[:3]

        found = world.found()

        assert found.results == world.results
        assert resource.state(found.status, found.name) == ("Failed (JobRefused): a policy",)
        assert resource.exit_status(found, found.summarize()) == 1

    def test_a_spec_of_another_version_is_told_as_any_mistake(self):
        world = a_finished()
        world.manifest["spec"]["novelty"] = 1

        with pytest.raises(SpecError, match="novelty"):
            world.found()

    def test_a_status_of_another_version_is_named(self):
        item = InCluster().item
        item["status"]["conditions"] = [{"type": "Finished"}]

        with pytest.raises(PlanError, match=r"team/example has a status that .* cannot read \(status\.conditions\.0\."):
            resource.status_of(item)


class TestState:
    def said(self, *told: Saying, **status: Any) -> tuple[str, ...]:
        item = InCluster(*told).measured().item
        item["status"] |= status
        return resource.state(resource.status_of(item), "team/example")

    def test_one_without_conditions_asks_for_the_operator(self):
        (sentence,) = resource.state(resource.status_of({}), "team/example")

        assert sentence.startswith("No operator has looked at team/example yet.")

    def test_a_running_one_tells_how_far_it_is(self):
        cells = {"planned": 2, "measured": 1, "unsupported": 0, "inaccurate": 0, "failed": 1, "missing": 0}

        said = self.said(RUNNING, cells=cells, best="fake/fp16@1")

        assert said == ("team/example is not finished: 4 of 4 sweeps, 1 of 2 cells failed, best so far fake/fp16@1.",)

    def test_before_the_first_sweep_it_says_that_nothing_is_measured(self):
        item = {"metadata": {"name": "a"}, "status": {"conditions": conditions(RUNNING)}}

        assert resource.state(resource.status_of(item), "a") == ("a is not finished: nothing is measured yet.",)

    @pytest.mark.parametrize(
        ("told", "words"),
        [
            pytest.param(
                [("Running", "False", "Unschedulable", "0/2 nodes have nvidia.com/gpu.")],
                "Not running (Unschedulable): 0/2 nodes have nvidia.com/gpu.",
                id="what is missing in the cluster",
            ),
            pytest.param(
                [("Running", "False", "Suspended", "It is."), ("Suspended", "True", "SuspendedBySpec", "Go on so.")],
                "Suspended (SuspendedBySpec): Go on so.",
                id="the reason behind the reason",
            ),
            pytest.param(
                [("Running", "False", "WaitingForQuota", "."), ("QuotaReserved", "False", "Waiting", "In queue gpus.")],
                "Waiting for quota (Waiting): In queue gpus.",
                id="the queue",
            ),
            pytest.param(
                [("Running", "False", "Starting", "")],
                "Not running (Starting): no more is known.",
                id="a reason without a sentence",
            ),
        ],
    )
    def test_one_that_does_not_run_says_why(self, told, words):
        assert self.said(*told)[1:] == (words,)

    def test_a_finished_one_says_only_what_went_wrong(self):
        mixed = ("HardwareUniform", "False", "Mixed", "Two GPUs.")
        failed = ("Succeeded", "False", "TooManyFailures", "3 cells failed.")

        assert self.said(FINISHED, SUCCEEDED, ("Running", "False", "Finished", "")) == ()
        assert self.said(FINISHED, failed, mixed) == (
            "Not comparable (Mixed): Two GPUs.",
            "Failed (TooManyFailures): 3 cells failed.",
        )

    def test_what_a_terminal_would_obey_is_not_printed(self):
        said = self.said(("Running", "False", "Unschedulable", "clear \x1b[2J\x9b the screen"))

        assert said[1] == "Not running (Unschedulable): clear  [2J  the screen"


class TestLag:
    def test_sweeps_that_are_counted_but_not_stored_are_told(self):
        world = InCluster(RUNNING).measured()
        world.results = world.results[:2]
        item = world.item
        item["status"]["sweeps"]["finished"] = 4
        found = resource.understand(item, world.stored)

        said = resource.lag(found.status, found.summarize())

        assert said == ("The table is of 2 sweeps; the results of 2 more are stored in some minutes.",)

    def test_a_finished_one_does_not_lag(self):
        found = a_finished().found()

        assert resource.lag(found.status, found.summarize()) == ()


PROMISE = {"name": "same", "equal": "fake/fp32", "to": "fake/fp16", "within": "5%", "batchSizes": [1]}
LOST = ("Succeeded", "False", "ResultsLost", "")


def crashing(strategy, batch_size, _):
    return ended(Outcome.CRASHED, batch_size) if strategy.precision == "fp16" else measured(batch_size)


def unsupported(strategy, batch_size, _):
    return ended(Outcome.UNSUPPORTED, batch_size)


@pytest.mark.parametrize(
    ("world", "status"),
    [
        pytest.param(a_finished(), 0, id="0: everything was measured"),
        pytest.param(InCluster(RUNNING).measured(), 0, id="0: it is not finished"),
        pytest.param(
            InCluster(RUNNING, expectations=[PROMISE]).measured(), 0, id="0: nothing is judged before the end"
        ),
        pytest.param(InCluster(FINISHED, LOST).measured(), 1, id="1: results were lost"),
        pytest.param(InCluster(FINISHED).measured(crashing), 1, id="1: cells failed"),
        pytest.param(InCluster(FINISHED, maxFailedCells=1).measured(crashing), 0, id="0: not more than may fail"),
        pytest.param(InCluster(FINISHED).measured(unsupported), 1, id="1: nothing was measured"),
        pytest.param(a_finished(expectations=[PROMISE]), 4, id="4: an expectation does not hold"),
        pytest.param(InCluster(FINISHED, LOST, expectations=[PROMISE]).measured(), 1, id="of several the first"),
    ],
)
def test_the_exit_status_is_that_of_a_local_run(world, status):
    found = world.found()

    assert resource.exit_status(found, found.summarize()) == status


def test_results_that_are_missing_here_are_exit_status_1_even_before_the_end():
    world = InCluster(RUNNING).measured()

    found = world.found({})

    assert resource.exit_status(found, found.summarize()) == 1


class TestKeeping:
    def test_the_folder_is_the_one_of_local_mode_less_the_raw_calls(self, tmp_path):
        found = a_finished().found()

        opened, answer = cluster.keep(found, tmp_path / "out")

        assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")} == {
            ".lock", "plan.json", "benchmark.yaml", "environment.json", "summary.json", "cells.csv", "report.html",
            "results", "results/0.json", "results/1.json", "results/2.json", "results/3.json",
        }  # fmt: skip
        assert opened.plan() == found.plan
        assert opened.results(found.plan) == found.results
        assert (tmp_path / "out/summary.json").read_text() == answer.dump() == found.summarize().dump()

    def test_the_report_can_be_made_again_from_it(self, tmp_path, capsys):
        cluster.keep(a_finished().found(), tmp_path)
        before = (tmp_path / "summary.json").read_text()

        assert program.main(["report", str(tmp_path), "--json"]) == 0
        assert capsys.readouterr().out == before

    def test_its_yaml_is_the_benchmark_as_its_author_wrote_it(self, tmp_path):
        world = a_finished(expectations=[PROMISE])

        cluster.keep(world.found(), tmp_path)

        written = yaml.safe_load((tmp_path / "benchmark.yaml").read_text())
        assert written["spec"] == world.manifest["spec"]
        assert list(written) == ["apiVersion", "kind", "metadata", "spec"]

    def test_its_environment_is_what_the_results_tell(self, tmp_path):
        opened, _ = cluster.keep(a_finished().found(), tmp_path)

        assert opened.environment() == {
            "schemaVersion": 1,
            "hardware": "A processor, 4 CPUs",
            "fingerprint": "f" * 16,
        }

    def test_without_results_there_is_no_environment(self, tmp_path):
        opened, _ = cluster.keep(InCluster(RUNNING).found(), tmp_path)

        assert not (tmp_path / "environment.json").exists()
        assert opened.results(InCluster().plan) == ()

    def test_a_second_time_it_adds_what_came_meanwhile(self, tmp_path):
        world = InCluster(RUNNING).measured()
        every, world.results = world.results, world.results[:2]
        cluster.keep(world.found(), tmp_path)
        world.results = every

        opened, _ = cluster.keep(world.found(), tmp_path)

        assert opened.results(world.plan) == every

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param(InCluster(FINISHED).measured(fingerprint="0" * 16), id="of another machine"),
            pytest.param(InCluster(RUNNING), id="of an earlier benchmark, before the first result of this one"),
            pytest.param(InCluster(RUNNING).measured(lambda *_: 7), id="of an earlier benchmark of the same plan"),
        ],
    )
    def test_a_folder_of_other_results_is_refused_and_left_as_it_is(self, tmp_path, other):
        """Else the answer would be of both: half of the cells are an old run's."""
        cluster.keep(a_finished().found(), tmp_path)
        before = (tmp_path / "results/0.json").read_bytes()

        with pytest.raises(EnvironmentFault, match=r"holds 4 results that team/example does not have, the first of sw"):
            cluster.keep(other.found(), tmp_path)

        assert (tmp_path / "results/0.json").read_bytes() == before

    def test_a_folder_of_another_plan_is_refused(self, tmp_path):
        with folder.opened(tmp_path, other_plan(), "", fresh=False):
            pass

        with pytest.raises(PlanError, match=r"holds results of plan .* with `inferbench run --fresh`\."):
            cluster.keep(a_finished().found(), tmp_path)


def other_plan() -> Plan:
    return InCluster(batchSizes=[2]).plan


class Looks:
    """A cluster that answers with these, one after the other, and a clock that says how long was slept."""

    def __init__(self, answers: Iterable[Mapping[str, Any] | Exception]) -> None:
        self.answers = iter(answers)
        self.slept: list[float] = []
        self.said: list[str] = []

    def look(self) -> Mapping[str, Any]:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def follow(self) -> list[str]:
        cluster.follow(self.look, self.said.append, self.slept.append)
        return self.said


def a_silence() -> UnreachableError:
    return UnreachableError("The cluster gave no answer.")


class TestFollowing:
    def test_each_sentence_is_said_once_until_the_benchmark_is_finished(self):
        waiting = InCluster(("Running", "False", "Unschedulable", "No GPU.")).item
        running = InCluster(RUNNING).measured().item

        looks = Looks([waiting, waiting, running, running, a_finished().item])

        assert looks.follow() == [
            "team/example is not finished: 0 of 4 sweeps.",
            "Not running (Unschedulable): No GPU.",
            "team/example is not finished: 4 of 4 sweeps.",
        ]
        assert looks.slept == [cluster.LOOK_SECONDS] * 4

    def test_one_that_is_refused_is_not_waited_for(self):
        assert Looks([InCluster(("Accepted", "False", "InvalidSpec", "No.")).item]).follow() == []

    def test_a_short_silence_is_told_once_and_ends_nothing(self):
        looks = Looks([a_silence(), a_silence(), a_finished().item])

        assert looks.follow() == ["The cluster gave no answer. Trying again."]

    def test_a_long_silence_ends_it(self):
        looks = Looks([a_silence()] * (cluster.MAX_SILENCES + 1))

        with pytest.raises(UnreachableError):
            looks.follow()

        assert sum(looks.slept) == cluster.MAX_SILENCES * cluster.LOOK_SECONDS

    def test_one_that_is_deleted_meanwhile_ends_it(self):
        with pytest.raises(RefusedError):
            Looks([InCluster(RUNNING).item, RefusedError("gone")]).follow()


class TestKubectl:
    @pytest.mark.parametrize(
        ("complaints", "kind", "words"),
        [
            pytest.param(
                'Error from server (NotFound): inferencebenchmarks.inferbench.dev "a" not found',
                RefusedError,
                r"\(the namespace that kubectl takes by itself\)\. Name the right one with --namespace\.",
                id="no such benchmark",
            ),
            pytest.param(
                'Error from server (Forbidden): inferencebenchmarks.inferbench.dev "a" is forbidden: User "b" cannot',
                RefusedError,
                'User "b" cannot',
                id="not allowed",
            ),
            pytest.param(
                'error: the server doesn\'t have a resource type "inferencebenchmarks"',
                RefusedError,
                "This cluster does not know InferenceBenchmark: install charts/inferbench",
                id="not installed",
            ),
            pytest.param('error: context "x" does not exist', RefusedError, "context", id="no such context"),
            pytest.param(
                "error: You must be logged in to the server (Unauthorized)",
                RefusedError,
                "logged in",
                id="not signed in",
            ),
            pytest.param(
                "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?",
                UnreachableError,
                "gave no answer",
                id="nobody there",
            ),
            pytest.param(
                "Unable to connect to the server: dial tcp: lookup nowhere: no such host",
                UnreachableError,
                "gave no answer",
                id="no such host",
            ),
            pytest.param(
                "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
                UnreachableError,
                "gave no answer",
                id="not just now",
            ),
            pytest.param("", UnreachableError, "it gave no reason", id="nothing at all"),
        ],
    )
    def test_a_no_is_told_from_no_answer(self, complaints, kind, words):
        error = kubectl._refusal(complaints, None)

        assert type(error) is kind
        with pytest.raises(kind, match=words):
            raise error

    def test_exit_status_2_is_a_no_and_3_is_no_answer(self):
        assert (RefusedError.exit_status, UnreachableError.exit_status) == (2, 3)

    def test_what_a_program_says_that_signs_its_user_in_is_passed_on(self, capsys):
        stream = io.StringIO(
            "To sign in, open the page https://login.example/device\n"
            'E1125 12:00:00.000000   17 memcache.go:265] "Unhandled Error"\n'
            "The connection to the server was refused\n"
            "- did you specify the right host or port?\n"
        )

        complaints = kubectl._complaints(stream)

        assert capsys.readouterr().err == "To sign in, open the page https://login.example/device\n"
        assert complaints == "The connection to the server was refused - did you specify the right host or port?"

    @pytest.mark.parametrize("name", ["../x", "pods/x", "X", "-x", "", "a b"])
    def test_what_is_no_name_is_refused_before_anybody_is_asked(self, name, monkeypatch):
        monkeypatch.setenv("PATH", "")

        with pytest.raises(RefusedError, match=r"is no name of a benchmark: expected small letters"):
            Kubectl().benchmark(name)

    def test_no_value_is_taken_for_an_option(self):
        options = Kubectl(namespace="--all", context="-x", kubeconfig=None)._options()

        assert list(options) == ["--namespace=--all", "--context=-x"]

    def test_without_shards_nothing_is_asked(self, monkeypatch):
        monkeypatch.setenv("PATH", "")

        assert Kubectl().config_maps([]) == {}

    def test_without_kubectl_it_says_what_to_install(self, monkeypatch, capsys):
        monkeypatch.setenv("PATH", "")

        assert program.main(["get", "example"]) == 3
        assert capsys.readouterr().err == (
            "inferbench: kubectl cannot be started (No such file or directory). Install it and put it on the PATH: a "
            "cluster is read through it, because it knows how you sign in.\n"
        )

    @pytest.mark.parametrize("answer", ["", "{", "[]", "7"])
    def test_an_answer_that_is_no_object_is_no_answer(self, answer):
        with pytest.raises(UnreachableError, match="kubectl answered with"):
            kubectl._object(answer)
