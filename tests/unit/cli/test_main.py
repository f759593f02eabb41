import io
from pathlib import Path

import pytest

from inferbench_cli import __main__ as program
from inferbench_cli import commands
from inferbench_cli.folder import Folder
from inferbench_contract.errors import EnvironmentFault, InferbenchError, PlanError, ResultError, SpecError
from tests.documents import scripted_plan, scripted_text


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
        assert run("validate", file) == 0

        assert f": there is no file {tmp_path}/model.onnx, which a run on this machine reads." in warned
        assert capsys.readouterr().err == ""

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

    def test_what_is_to_be_installed_is_printed_to_the_letter(self):
        """The brackets of an extra are no markup."""
        console = commands._console()
        console.file = io.StringIO()

        console.print("NotInstalled: pip install '.[runner]'  # in inferbench's folder")

        assert console.file.getvalue() == "NotInstalled: pip install '.[runner]'  # in inferbench's folder\n"
