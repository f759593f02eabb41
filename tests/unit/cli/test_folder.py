import gzip
import json
import os
from pathlib import Path

import pytest

from inferbench_cli import folder
from inferbench_cli.folder import Folder, FolderInUseError
from inferbench_contract import result as results
from inferbench_contract.errors import EnvironmentFault, PlanError
from inferbench_contract.plan import Plan
from tests.documents import scripted_plan
from tests.results import a_result, measured

YAML = "kind: InferenceBenchmark\n"


def opened(path: Path, plan: Plan, *, fresh: bool = False) -> Folder:
    """Open a folder, and let it go."""
    with folder.opened(path, plan, YAML, fresh=fresh) as found:
        return found


def tree(path: Path) -> dict[str, bytes | None]:
    """Return what is in a folder."""
    return {str(each.relative_to(path)): each.read_bytes() if each.is_file() else None for each in path.rglob("*")}


def a_result_file(path: Path, plan: Plan, index: int = 0) -> Path:
    """Write the result of a sweep into a folder."""
    file = path / "results" / f"{index}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(results.encode(a_result(plan, index, [measured()])))
    return file


class TestOpened:
    def test_a_new_folder_holds_the_plan_and_the_file_that_it_came_from(self, tmp_path):
        plan = scripted_plan()
        with folder.opened(tmp_path / "a" / "b", plan, YAML, fresh=False) as found:
            assert found.plan() == plan
            assert found.benchmark_file.read_text() == YAML
            assert found.results(plan) == ()
            assert found.environment() == {}
            assert not found.has_logs

    def test_the_same_plan_may_come_again(self, tmp_path):
        plan = scripted_plan()
        opened(tmp_path, plan)
        a_result_file(tmp_path, plan)

        assert opened(tmp_path, plan).results(plan) == (a_result(plan, 0, [measured()]),)

    def test_another_plan_is_refused(self, tmp_path):
        plan, other = scripted_plan(), scripted_plan(batchSizes=[2])
        opened(tmp_path, plan)
        before = tree(tmp_path)

        with pytest.raises(PlanError, match=rf"holds results of plan {plan.short_hash}.* is {other.short_hash}"):
            opened(tmp_path, other)

        assert tree(tmp_path) == before

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("{}", id="of another form"),
            pytest.param('{"schemaVersion":1', id="cut off"),
            pytest.param(scripted_plan().dump().replace('"batchSizes":[1]', '"batchSizes":[7]'), id="changed by hand"),
        ],
    )
    def test_a_plan_that_cannot_be_trusted_is_refused_with_the_way_out(self, tmp_path, text):
        opened(tmp_path, scripted_plan())
        (tmp_path / "plan.json").write_text(text)

        with pytest.raises(PlanError, match=r"plan\.json .* Start over with `inferbench run --fresh`\."):
            opened(tmp_path, scripted_plan())

    def test_a_plan_that_is_no_text_is_refused_with_the_way_out(self, tmp_path):
        opened(tmp_path, scripted_plan())
        (tmp_path / "plan.json").write_bytes(b"\xff\xfe")

        with pytest.raises(PlanError, match=r"cannot be read: .* Start over with `inferbench run --fresh`\."):
            opened(tmp_path, scripted_plan())

    def test_what_a_killed_run_had_not_finished_writing_is_swept_away(self, tmp_path):
        opened(tmp_path, scripted_plan())
        for name in (".plan.json.17.tmp", "results/.0.json.17.tmp", "samples/.0-1.json.gz.18.tmp", "notes.tmp"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()

        opened(tmp_path, scripted_plan())

        assert [path.name for path in tmp_path.rglob("*.tmp")] == ["notes.tmp"]

    def test_a_run_that_was_killed_before_it_had_a_plan_is_no_stranger(self, tmp_path):
        for name in (".lock", "benchmark.yaml", ".plan.json.17.tmp"):
            (tmp_path / name).touch()

        assert opened(tmp_path, scripted_plan()).plan() == scripted_plan()

    def test_a_file_in_its_place_is_named(self, tmp_path):
        (tmp_path / "file").touch()

        with pytest.raises(
            EnvironmentFault, match=r"file cannot be written: File exists\. Give --output another folder"
        ):
            opened(tmp_path / "file", scripted_plan())

    def test_an_error_of_what_is_done_with_it_is_not_mistaken_for_the_disk(self, tmp_path):
        with (
            pytest.raises(BrokenPipeError, match="not the disk"),
            folder.opened(tmp_path, scripted_plan(), YAML, fresh=False),
        ):
            raise BrokenPipeError("not the disk")


class TestLock:
    def test_a_folder_that_is_open_is_refused_with_the_process_that_has_it(self, tmp_path):
        with folder.opened(tmp_path, scripted_plan(), YAML, fresh=False):
            before = tree(tmp_path)
            for fresh in (False, True):
                with pytest.raises(FolderInUseError, match=rf"\(process {os.getpid()}\) is writing to {tmp_path}"):
                    opened(tmp_path, scripted_plan(), fresh=fresh)
            assert tree(tmp_path) == before

    def test_it_is_free_again_afterwards_however_it_ended(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), folder.opened(tmp_path, scripted_plan(), YAML, fresh=False):
            raise KeyboardInterrupt

        opened(tmp_path, scripted_plan())


class TestStrangers:
    @pytest.mark.parametrize("fresh", [False, True])
    @pytest.mark.parametrize(
        "names",
        [
            pytest.param(["thesis.tex"], id="any file"),
            pytest.param(["results/1.json", "logs/a.log"], id="files that are called as ours are"),
            pytest.param(["plan.json"], id="another program's plan.json"),
            pytest.param([".hidden"], id="a hidden file"),
        ],
    )
    def test_a_folder_with_somebody_s_files_is_refused_and_left_as_it_is(self, tmp_path, names, fresh):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("theirs")
        before = tree(tmp_path)

        with pytest.raises(PlanError, match="is not empty and no folder of results"):
            opened(tmp_path, scripted_plan(), fresh=fresh)

        assert tree(tmp_path) == before


class TestFresh:
    def test_what_is_ours_goes_and_what_is_not_stays(self, tmp_path):
        plan = scripted_plan()
        opened(tmp_path, plan)
        a_result_file(tmp_path, plan)
        for name in ("samples/0-1.json.gz", "logs/a.log", "summary.json", "cells.csv", "report.html", "notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()

        opened(tmp_path, scripted_plan(batchSizes=[2]), fresh=True)

        assert set(tree(tmp_path)) == {".lock", "plan.json", "benchmark.yaml", "notes.txt"}

    def test_a_plan_that_cannot_be_read_is_no_obstacle(self, tmp_path):
        opened(tmp_path, scripted_plan())
        (tmp_path / "plan.json").write_text("nonsense")

        assert opened(tmp_path, scripted_plan(), fresh=True).plan() == scripted_plan()

    def test_in_a_new_folder_there_is_nothing_to_remove(self, tmp_path):
        assert opened(tmp_path / "new", scripted_plan(), fresh=True).plan() == scripted_plan()


class TestReading:
    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\0" * 100, id="zeros, as a power cut leaves them"),
            pytest.param(b'{"v":1', id="cut off"),
            pytest.param(b"\xff\xfe", id="no text"),
            pytest.param(b"x" * 5_000, id="too large"),
            pytest.param(results.encode(a_result(scripted_plan(batchSizes=[2]), 0)), id="of another plan"),
        ],
    )
    def test_a_result_that_cannot_be_trusted_counts_as_not_measured(self, tmp_path, payload):
        a_result_file(tmp_path, scripted_plan()).write_bytes(payload)

        assert Folder(tmp_path).results(scripted_plan()) == ()

    def test_a_result_of_another_sweep_counts_as_not_measured(self, tmp_path):
        plan = scripted_plan(precisions=["fp32", "fp16"])
        file = a_result_file(tmp_path, plan, 0)
        file.rename(file.with_name("1.json"))

        assert Folder(tmp_path).results(plan) == ()

    @pytest.mark.parametrize("text", ["", "[]", "{", "7"])
    def test_an_environment_that_cannot_be_read_is_none(self, tmp_path, text):
        (tmp_path / "environment.json").write_text(text)

        assert Folder(tmp_path).environment() == {}

    def test_raw_calls_are_read_where_they_are_sound(self, tmp_path):
        plan = scripted_plan(batchSizes=[1, 2, 4, 8])
        (tmp_path / "samples").mkdir()
        good = gzip.compress(json.dumps({"latenciesNanoseconds": [3, 5]}).encode())
        for size, content in ((1, good), (2, good[:-9]), (4, gzip.compress(b"[]")), (8, b"no gzip")):
            (tmp_path / "samples" / f"0-{size}.json.gz").write_bytes(content)

        found = Folder(tmp_path).samples(plan)

        assert found == {(plan.sweeps[0].cells[0], 0): [3, 5]}

    def test_without_a_plan_it_is_no_folder_of_results(self, tmp_path):
        with pytest.raises(PlanError, match=rf"^{tmp_path} holds no plan\.json, so it is not a folder of results\.$"):
            Folder(tmp_path).plan()

    def test_logs_are_worth_naming_when_there_are_any(self, tmp_path):
        (tmp_path / "logs").mkdir()
        assert not Folder(tmp_path).has_logs

        (tmp_path / "logs" / "sweep-0.log").touch()
        assert Folder(tmp_path).has_logs


def test_the_default_folder_is_named_after_the_benchmark_and_its_plan():
    plan = scripted_plan()

    assert folder.default_path("resnet50", plan) == Path("inferbench-results", f"resnet50-{plan.short_hash}")
