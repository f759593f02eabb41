import io

import pytest

from inferbench_cli import __main__ as program
from inferbench_cli import commands
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
        assert capsys.readouterr().out == f"{file}: valid, good, 1 sweeps\n"

    def test_plan_as_json_is_what_a_run_freezes(self, tmp_path, capsys):
        file = tmp_path / "bench.yaml"
        file.write_text(scripted_text())

        assert run("plan", file, "--json") == 0
        assert capsys.readouterr().out == scripted_plan().dump() + "\n"

    @pytest.mark.parametrize(
        ("seconds", "words"), [(1, "1 min"), (89, "1 min"), (600, "10 min"), (5399, "90 min"), (5400, "1.5 h")]
    )
    def test_long_times_are_told_in_hours(self, seconds, words):
        assert commands._minutes(seconds) == words

    def test_what_is_to_be_installed_is_printed_to_the_letter(self):
        """The brackets of an extra are no markup."""
        console = commands._console()
        console.file = io.StringIO()

        console.print("NotInstalled: pip install 'inferbench[runner]'")

        assert console.file.getvalue() == "NotInstalled: pip install 'inferbench[runner]'\n"
