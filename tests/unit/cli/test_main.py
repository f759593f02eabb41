import io
import json
import re
import signal
import sys
from pathlib import Path

import pytest
import yaml

from inferbench_cli import __main__ as program
from inferbench_cli import commands, forecast, machine, validation
from inferbench_cli import run as runs
from inferbench_cli.folder import Folder, opened
from inferbench_contract import result as results
from inferbench_contract.errors import EnvironmentFault, InferbenchError, PlanError, ResultError, SpecError
from inferbench_contract.summary import summarize
from inferbench_contract.words import Backend, Outcome, Precision
from tests.documents import rounds, scripted, scripted_benchmark, scripted_plan, scripted_text
from tests.results import a_result, ended, results_for


def run(*arguments: object) -> int:
    return program.main([str(argument) for argument in arguments])


def raising(error: BaseException):
    """Return a command that ends so."""

    def command(_):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (SpecError(("a.yaml:1: one.", "a.yaml:2: two.")), 2, "a.yaml:1: one.\na.yaml:2: two.\n"),
        (PlanError("the plan"), 2, "inferbench: the plan\n"),
        (EnvironmentFault("the machine"), 3, "inferbench: the machine\n"),
        (ResultError("Empty", "nothing"), 1, "inferbench: Empty: nothing\n"),
        (InferbenchError("something"), 1, "inferbench: something\n"),
        (KeyboardInterrupt(), 130, "inferbench: interrupted\n"),
    ],
)
def test_every_error_is_a_sentence_and_an_exit_status(monkeypatch, capsys, error, status, words):
    monkeypatch.setitem(commands.COMMANDS, "schema", raising(error))

    assert run("schema") == status
    assert capsys.readouterr() == ("", words)


def test_an_error_that_nobody_expected_keeps_its_traceback(monkeypatch):
    """It is a fault of ours, and its report needs all that Python can tell."""
    monkeypatch.setitem(commands.COMMANDS, "schema", raising(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        run("schema")


class TestParser:
    def parsed(self, *arguments: str):
        return program.parser().parse_args(arguments)

    def test_run_measures_into_the_default_folder_and_goes_on_unless_told_otherwise(self):
        told = self.parsed("run", "bench.yaml")

        assert (told.file, told.output, told.fresh, told.quiet, told.json) == ("bench.yaml", None, False, False, False)

    def test_a_file_may_have_any_name(self):
        assert self.parsed("run", "--", "--odd name.yaml").file == "--odd name.yaml"

    @pytest.mark.parametrize(
        ("command", "statuses"),
        [("run", (0, 1, 2, 3, 4, 130)), ("get", (0, 1, 2, 3, 4, 130)), ("export", (0, 1, 2, 3, 130))],
    )
    def test_the_help_lists_every_exit_status_in_lines_that_a_terminal_holds(
        self, monkeypatch, capsys, command, statuses
    ):
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit):
            self.parsed(command, "--help")

        told = capsys.readouterr().out
        assert [*map(int, re.findall(r"^  (\d+) +\S", told, re.MULTILINE))] == [*statuses]
        assert max(map(len, told.splitlines())) <= 100

    @pytest.mark.parametrize(
        "arguments",
        [
            pytest.param(["run"], id="run needs a file"),
            pytest.param(["run", "a.yaml", "b.yaml"], id="and one only"),
            pytest.param(["run", "a.yaml", "--quiet", "--json"], id="quiet or JSON, not both"),
            pytest.param(["backends", "--device", "tpu"], id="a device that is none"),
        ],
    )
    def test_wrong_arguments_are_exit_status_2(self, capsys, arguments):
        with pytest.raises(SystemExit) as ended:
            self.parsed(*arguments)

        assert ended.value.code == 2
        assert "usage: inferbench" in capsys.readouterr().err


class TestCommands:
    def test_validate_counts_the_sweeps_of_a_good_file(self, tmp_path, capsys):
        file = tmp_path / "bench.yaml"
        file.write_text(scripted_text(name="good"))

        assert run("validate", file) == 0
        assert capsys.readouterr().out == f"{file}: valid, good, 1 sweep\n"

    def test_plan_as_json_is_what_a_run_freezes(self, tmp_path, capsys):
        file = tmp_path / "bench.yaml"
        file.write_text(scripted_text())

        assert run("plan", file, "--json") == 0
        assert capsys.readouterr().out == scripted_plan().dump() + "\n"

    def test_validate_warns_of_a_model_that_is_not_beside_the_file(self, tmp_path, capsys):
        """It may be where a cluster's pods find it."""
        file = tmp_path / "bench.yaml"
        file.write_text(scripted_text(model={"onnx": {"path": "model.onnx"}}))

        assert run("validate", file) == 0
        warned = capsys.readouterr().err
        (tmp_path / "model.onnx").touch()
        assert run("validate", file) == 0, "the scripted backend reads no model"

        assert f": there is no file {tmp_path}/model.onnx, which a run on this machine reads." in warned
        assert capsys.readouterr().err == ""

    def test_validate_names_what_is_not_measured_and_why(self, tmp_path, capsys):
        """Without a device it is the GPU, where some of it cannot be."""
        file = tmp_path / "bench.yaml"
        precisions = ["fp32", "fp16", "bf16", "int8-static"]
        said = scripted(backends=["fake", "openvino"], precisions=precisions, name="good")
        del said["spec"]["device"]
        file.write_text(yaml.safe_dump(said))

        assert run("validate", file) == 0
        valid, heading, reason = capsys.readouterr().out.splitlines()
        assert valid == f"{file}: valid, good, 4 sweeps"
        assert heading == "  not measured on gpu (the default of spec.device):"
        assert reason.startswith("    openvino/fp32, openvino/fp16, openvino/bf16 and 1 more: NeedsCpu: OpenVINO is ")

    def test_validate_shortens_a_long_list_of_reasons(self):
        every = {"backends": [b for b in Backend if b is not Backend.FAKE], "precisions": [*Precision]}
        plan = scripted_plan(**every, backendOptions={})

        lines = validation.left_out(plan, is_default_device=False)

        assert lines[0] == "  not measured on cpu:"
        assert len(lines) == 2 + validation.MAX_REASONS
        assert re.fullmatch(r"    \d+ other reasons: `inferbench plan` tells all\.", lines[-1])

    def test_validate_notes_a_model_that_the_runner_cannot_look_into(self, tmp_path, capsys, monkeypatch):
        def not_installed(_):
            raise EnvironmentFault("onnx is not installed.")

        monkeypatch.setattr(machine, "look_into", not_installed)
        file = tmp_path / "bench.yaml"
        file.write_text(scripted_text(model={"onnx": {"path": "a.onnx"}}, backends=["openvino"], backendOptions={}))
        (tmp_path / "a.onnx").touch()

        assert run("validate", file) == 0
        told = "spec.model.onnx: it was not looked into: onnx is not installed."
        assert capsys.readouterr().err == f"{file}: warning: {told}\n"

    @pytest.mark.parametrize(
        ("spec", "outcomes", "words"),
        [
            pytest.param({}, [], "0 of 1 sweep finished. `inferbench run FILE --output {}` goes on", id="not begun"),
            pytest.param(
                {},
                [Outcome.CRASHED],
                "each of 1 cell ended otherwise. The answer says why; once that is mended, `inferbench run FILE "
                "--output {}` with --fresh measures again.",
                id="all failed",
            ),
            pytest.param(
                {"backends": ["torch-eager"], "model": {"onnx": {"path": "a.onnx"}}, "backendOptions": {}},
                [],
                "no strategy of the benchmark can be measured.",
                id="nothing planned",
            ),
        ],
    )
    def test_a_report_of_a_folder_where_nothing_was_measured_says_what_is_there(
        self, tmp_path, capsys, spec, outcomes, words
    ):
        path, plan = tmp_path / "out", scripted_plan(**spec)
        with opened(path, plan, scripted_text(**spec), fresh=False) as folder:
            (path / "results").mkdir()
            for index, outcome in enumerate(outcomes):
                result = a_result(plan, index, [ended(outcome)])
                folder.write(f"results/{index}.json", results.encode(result).decode())

        assert run("report", path) == 1
        told = capsys.readouterr()
        assert told.err.startswith(f"inferbench: {path} holds no measurement: {words.format(path)}")
        assert f"Written: {path}/report.html" in told.out

    @pytest.mark.parametrize("more", [[], ["--json"]], ids=["a table", "JSON"])
    def test_a_run_that_can_measure_nothing_ends_as_the_report_of_its_folder(self, tmp_path, capsys, monkeypatch, more):
        monkeypatch.setattr(machine, "describe", lambda *_: {"modelSha256": "1"})
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # these are handlers of the process that runs the tests
        file, path = tmp_path / "bench.yaml", tmp_path / "out"
        file.write_text(scripted_text(model={"onnx": {"path": "a.onnx"}}, backends=["torch-eager"], backendOptions={}))
        (tmp_path / "a.onnx").touch()

        assert run("run", file, "--output", path, *more) == 1
        told = capsys.readouterr().err
        assert run("report", path, *more) == 1

        assert told.startswith(f"inferbench: {path} holds no measurement: no strategy of the benchmark can be ")
        assert capsys.readouterr().err == told

    @pytest.mark.parametrize("arguments", [["report"], ["export", "--batch-size", "1", "--output", "out"]])
    def test_a_benchmark_file_in_place_of_results_is_told_so(self, tmp_path, capsys, arguments):
        file = tmp_path / "bench.yaml"
        file.write_text(scripted_text())

        assert run(*arguments, file) == 2
        assert capsys.readouterr().err == (
            f"inferbench: {file} is a file, expected a folder of results. `inferbench run {file}` measures "
            "a benchmark, and prints the folder that holds its results.\n"
        )

    def test_without_a_command_the_help_is_printed(self, capsys):
        assert run() == 0
        assert capsys.readouterr().out.startswith("usage: inferbench [-h] [--version] COMMAND ...")

    def test_the_option_version_is_the_command_version(self):
        assert program.parser().parse_args(["--version"]).command == "version"

    @pytest.mark.parametrize(
        ("spec", "last"),
        [
            pytest.param(
                {}, "Nothing is left to measure: an earlier run finished 1 of 1 sweep (--fresh", id="all done"
            ),
            pytest.param(
                {"backends": ["torch-eager"], "model": {"onnx": {"path": "a.onnx"}}, "backendOptions": {}},
                "Nothing can be measured.",
                id="nothing planned",
            ),
        ],
    )
    def test_where_nothing_is_left_to_measure_it_is_said_why(self, spec, last):
        stream = io.StringIO()
        console = commands._console()
        console.file = stream
        commands._announce(console, scripted_plan(**spec), (), Folder(Path("out")))

        assert stream.getvalue().splitlines()[-1].startswith(last)

    def test_a_run_begins_with_what_this_machine_cannot_do_and_leaves_it_out_of_the_estimate(self, tmp_path):
        reason = "NoKernel: this processor has no avx512_fp16."
        (tmp_path / "environment.json").write_text(json.dumps({"unsupportedHere": {"fake/fp16": reason}}))
        plan = scripted_plan(precisions=["fp32", "fp16"], batchSizes=[1, 8], measurement=rounds(20))
        console = commands._console()
        console.file = io.StringIO()
        commands._announce(console, plan, plan.sweeps, Folder(tmp_path))

        first, second, third, *_ = console.file.getvalue().splitlines()
        half = [sweep for sweep in plan.sweeps if str(sweep.strategy) == "fake/fp32"]
        assert first.startswith("2 of 4 cells in 20 rounds, 40 sweeps")
        assert second == f"not measured: fake/fp16: {reason}"
        assert third == forecast.likely(half, plan.work.measurement)
        assert third != forecast.likely(plan.sweeps, plan.work.measurement)

    def test_a_run_begins_with_how_many_of_the_cells_it_can_measure(self):
        """The answer counts all of them."""
        plan = scripted_plan(
            backends=["torch-eager", "onnxruntime"],
            precisions=["fp32", "int8-static"],
            batchSizes=[1, 8],
            backendOptions={},
        )
        console = commands._console()
        console.file = io.StringIO()
        commands._announce(console, plan, (), Folder(Path("out")))

        assert console.file.getvalue().startswith("6 of 8 cells in 1 round, 3 sweeps, to out/\n")

    @pytest.mark.parametrize(
        ("latency_ms", "words"),
        [
            pytest.param(None, "Interrupted before anything was measured. To go on: ", id="at once"),
            pytest.param(10, "Interrupted; what was measured is kept. To go on: ", id="later"),
        ],
    )
    def test_an_interrupted_run_says_whether_there_is_something_to_keep(self, tmp_path, capsys, latency_ms, words):
        benchmark, plan = scripted_benchmark(), scripted_plan()
        found = summarize(benchmark, plan, results_for(plan, lambda *_: latency_ms))
        arguments = program.parser().parse_args(["run", "bench.yaml"])

        commands._say_how_it_ended(runs.Ended(found, Folder(tmp_path), interrupted=True, fault=None), arguments)

        assert capsys.readouterr().err.startswith(words)

    @pytest.mark.parametrize(
        ("found", "told"),
        [
            pytest.param("/usr/bin/inferbench", "/opt/bin/inferbench", id="the name is another program's"),
            pytest.param("/opt/x/../bin/inferbench", "inferbench", id="the name is this program's"),
            pytest.param(None, "/opt/bin/inferbench", id="the name leads nowhere"),
        ],
    )
    def test_a_command_to_paste_names_the_program_so_that_a_shell_finds_it(self, found, told):
        assert commands._called("/opt/bin/inferbench", found) == (told,)

    def test_a_command_to_paste_names_python_where_the_program_was_called_as_a_module(self):
        called = commands._called("/kit/inferbench_cli/__main__.py", "/usr/bin/inferbench")

        assert called == (sys.executable, "-m", "inferbench_cli")

    def test_what_is_to_be_installed_is_printed_to_the_letter(self):
        """The brackets of an extra are no markup."""
        console = commands._console()
        console.file = io.StringIO()

        console.print("NotInstalled: pip install '.[runner]'  # in inferbench's folder")

        assert console.file.getvalue() == "NotInstalled: pip install '.[runner]'  # in inferbench's folder\n"
