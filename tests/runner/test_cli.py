"""The program's other commands, as a person types them, and what they do not import.

Most are typed without a process of their own (`tests.in_process`): those that are not show that it makes no difference.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from inferbench_cli import __main__ as program
from inferbench_contract.errors import how_to_install
from inferbench_contract.words import Backend, Precision
from tests import documents, in_process
from tests.programs import Place

HEAVY = ("kubernetes", "numpy", "onnx", "onnxruntime", "torch", "torchvision")
"""What `inferbench` leaves to the processes that it starts."""

FAST = {"script": {"callMicroseconds": 400}}
"""A call takes less than a millisecond."""


def imported(place: Place, *arguments: object) -> set[str]:
    """Run `inferbench ARGUMENTS` and return the packages that it imported, by Python's own account."""
    command = [sys.executable, "-X", "importtime", "-m", "inferbench_cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=place.folder, env=place.environment, capture_output=True, text=True, check=True)
    lines = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE)
    return {name.partition(".")[0] for name in lines}


class TestHelp:
    def test_the_help_names_every_command_and_every_exit_status(self, place: Place) -> None:
        done = place.run("--help")

        assert done.returncode == 0
        for command in ("run", "plan", "report", "validate", "backends", "schema", "version"):
            assert re.search(rf"^    {command} +\w", done.stdout, re.MULTILINE)
        for status in (0, 1, 2, 3, 4, 130):
            assert re.search(rf"^  {status} +\w", done.stdout, re.MULTILINE)

    def test_every_command_has_a_help_of_its_own(self, place: Place) -> None:
        from inferbench_cli import commands

        for command in commands.COMMANDS:
            done = in_process.call(place, command, "--help")

            assert done.returncode == 0
            assert done.stdout.startswith(f"usage: inferbench {command} ")

    def test_the_help_of_run_explains_its_options(self, place: Place) -> None:
        done = in_process.call(place, "run", "--help")

        assert "inferbench-results/NAME" in done.stdout
        for option in ("--output DIR", "--fresh", "--quiet", "--json"):
            assert option in done.stdout

    @pytest.mark.parametrize(
        "arguments", [("walk",), ("run",), ("run", "bench.yaml", "--quiet", "--json"), ("validate",)]
    )
    def test_wrong_arguments_are_exit_status_2(self, place: Place, arguments) -> None:
        done = in_process.call(place, *arguments)

        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("usage: inferbench")


class TestImports:
    def test_the_help_imports_neither_pydantic_nor_rich(self, place: Place) -> None:
        found = imported(place, "--help")

        assert "argparse" in found
        assert not found & {*HEAVY, "pydantic", "rich", "yaml", "inferbench_contract"}

    @pytest.mark.parametrize("command", ["validate", "plan"])
    def test_reading_a_file_imports_nothing_heavy(self, place: Place, command) -> None:
        file = place.write(model={"onnx": {"path": "model.onnx"}}, backends=["onnxruntime"], backendOptions={})
        found = imported(place, command, file)

        assert "inferbench_contract" in found
        assert not found & {*HEAVY, "inferbench_runner"}

    def test_run_and_report_leave_what_is_heavy_to_the_processes_that_they_start(self, place: Place) -> None:
        running = imported(place, "run", place.write(), "--output", "out")
        reporting = imported(place, "report", "out")

        assert "inferbench_contract" in running & reporting
        assert not (running | reporting) & {*HEAVY, "inferbench_runner"}


class TestValidate:
    def test_every_file_is_checked_and_every_mistake_named_with_its_line(self, place: Place) -> None:
        good = place.write("good.yaml", name="good", precisions=["fp32", "fp16"], measurement=documents.rounds(4))
        bad = place.folder / "bad.yaml"
        bad.write_text(good.read_text().replace("- fake", "- fakir").replace("  device: cpu", "  device: tpu"))
        lines = bad.read_text().splitlines()
        missing = place.folder / "missing.yaml"

        done = place.run("validate", good, bad, missing)

        assert done.returncode == 2
        assert done.stdout == f"{good}: valid, good, 8 sweeps\n"
        backend, device, file = done.stderr.splitlines()
        assert backend.startswith(
            f'{bad}:{lines.index("  - fakir") + 1}: spec.backends[0]: found "fakir", expected one of'
        )
        assert device.startswith(f'{bad}:{lines.index("  device: tpu") + 1}: spec.device: found "tpu", expected one of')
        assert file.startswith(f"{missing}: ")

    def test_good_files_alone_are_exit_status_0(self, place: Place) -> None:
        done = in_process.call(place, "validate", place.write("one.yaml"), place.write("two.yaml"))

        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_a_file_that_is_wrong_is_exit_status_2_for_every_command(self, place: Place, command) -> None:
        """Mistakes begin with their place in the file, as editors and other programs read it."""
        file = place.write(batchSizes=[0])
        done = in_process.call(place, command, file)

        assert done.returncode == 2
        assert re.fullmatch(rf"{file}:\d+: spec\.batchSizes\[0\]: found 0, expected an integer .*\n", done.stderr)
        assert not (place.folder / "inferbench-results").exists()


class TestPlan:
    def test_the_table_lists_sweeps_in_their_order_and_says_how_long_it_may_take(self, place: Place) -> None:
        file = place.write(precisions=["fp32", "fp16"], batchSizes=[8, 1], measurement=documents.rounds(2))
        done = in_process.call(place, "plan", file)

        rows = re.findall(r"^│ +(\d+) │ +(\d+) │ (\S+) +│ (.*?) +│$", done.stdout, re.MULTILINE)
        assert rows == [
            ("1", "1", "fake/fp32", "1, 8"),
            ("2", "1", "fake/fp16", "1, 8"),
            ("3", "2", "fake/fp16", "1, 8"),
            ("4", "2", "fake/fp32", "1, 8"),
        ]
        assert "8 processes warm up and measure for at most 16 s together." in done.stdout
        assert "ends everything after 2 h." in done.stdout

    def test_what_cannot_be_measured_is_listed_with_its_reason(self, place: Place) -> None:
        """Word for word: nothing in a reason is taken for markup."""
        model = {"onnx": {"path": "model.onnx"}}
        done = in_process.call(place, "plan", place.write(model=model, backends=["fake", "torch-eager"]))

        assert re.search(r"^Unsupported: torch-eager/fp32: \w+: .", done.stdout, re.MULTILINE)

    def test_as_json_it_is_the_plan_that_a_run_freezes(self, place: Place) -> None:
        done = in_process.call(place, "plan", place.write(), "--json")

        assert done.stdout == documents.scripted_plan().dump() + "\n"


class TestLocale:
    ASCII: ClassVar = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    """A locale without letters beyond ASCII, which Python would not use if it were not told to."""

    def test_a_run_says_and_writes_the_same_where_the_locale_is_ascii(self, place: Place) -> None:
        elsewhere = replace(place, more=self.ASCII)
        file = elsewhere.write(**FAST, model={"torchvision": {"name": "resnet50", "weights": {"path": "größe.pt"}}})
        file.write_bytes("# Größe: 224 px\n".encode() + file.read_bytes())
        (place.folder / "größe.pt").write_bytes(b"some")

        done = elsewhere.run("run", file, "--output", "größe")
        told = elsewhere.run("report", "größe")
        looked_at = elsewhere.run("validate", file)

        assert (done.returncode, done.stderr) == (0, "")
        assert (looked_at.returncode, looked_at.stderr) == (0, "")
        assert re.search(r"\d µs", done.stdout)
        assert "Everything is in größe/" in done.stdout
        assert (told.returncode, told.stderr) == (0, "")
        assert re.search(r"\d µs", told.stdout)
        report = (place.folder / "größe/report.html").read_text(encoding="utf-8")
        assert re.search(r"\d µs", report)
        assert "größe.pt" in report
        assert (place.folder / "größe/benchmark.yaml").read_bytes() == file.read_bytes()


class TestMachine:
    def test_backends_tells_for_each_strategy_whether_it_works_here(self, place: Place) -> None:
        done = in_process.call(place, "backends", "--device", "cpu", "--json")
        rows = {row["strategy"]: row for row in json.loads(done.stdout)}

        assert done.returncode == 0
        assert rows["fake/fp32"] == {"strategy": "fake/fp32", "device": "cpu", "reason": None}
        assert rows["onnxruntime/fp32"]["reason"] is None
        assert rows["tensorrt/fp32"]["reason"].startswith("NeedsGpu: ")

    def test_its_json_has_every_pair_on_both_devices(self, place: Place) -> None:
        done = in_process.call(place, "backends", "--json")
        told = [(row["device"], row["strategy"]) for row in json.loads(done.stdout)]

        every = [f"{backend}/{precision}" for backend in Backend for precision in Precision]
        assert told == [(device, strategy) for device in ("cpu", "gpu") for strategy in every]

    def test_its_tables_fit_a_terminal_and_give_each_reason_once(self, place: Place) -> None:
        done = place.run("backends")
        lines = done.stdout.splitlines()

        assert re.search(r"^CPU +fp32 tf32 fp16 bf16 int8-dynamic int8-static fp8$", done.stdout, re.MULTILINE)
        assert re.search(r"^torch-compile-max-autotune yes +\d ", done.stdout, re.MULTILINE)
        assert re.search(r"^GPU( +fp32|: nothing works\. )", done.stdout, re.MULTILINE)
        assert max(map(len, lines)) <= 80
        assert len(lines) < 60
        assert done.stdout.count("TensorRT runs on NVIDIA GPUs only.") == 1
        assert not re.search("^fake ", done.stdout, re.MULTILINE)

    def test_its_table_has_the_scripted_backend_for_those_who_ask(self, place: Place) -> None:
        done = in_process.call(place, "backends", "--device", "cpu", "--all")

        assert re.search("^fake +yes( +yes){6}$", done.stdout, re.MULTILINE)
        assert not re.search("^GPU", done.stdout, re.MULTILINE)

    def test_version_names_what_it_measures_with(self, place: Place) -> None:
        done = in_process.call(place, "version")

        assert re.match(r"inferbench \d+\.\d+\.\d+\n", done.stdout)
        assert re.search(r"^  torch 2\.", done.stdout, re.MULTILINE)
        assert done.stdout.count("inferbench") == 1

    def test_schema_is_json(self, place: Place) -> None:
        done = in_process.call(place, "schema")

        assert json.loads(done.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"

    def test_a_runner_that_is_not_installed_is_named_with_what_installs_it(self, place: Place) -> None:
        """Without the extra there is no numpy: here it is hidden by what `pip uninstall` would leave."""
        hidden = """
            import importlib.util, sys
            find = importlib.util.find_spec
            importlib.util.find_spec = lambda name, *more: None if name == "numpy" else find(name, *more)
            from inferbench_cli.__main__ import main
            sys.exit(main(sys.argv[1:]))
        """.replace("\n            ", "\n")
        command = [sys.executable, "-c", hidden, "run", str(place.write())]
        done = subprocess.run(
            command, cwd=place.folder, env=place.environment, capture_output=True, text=True, check=False
        )

        assert done.returncode == 3
        assert done.stderr == f"inferbench: The runner is not installed. {how_to_install('runner')}\n"


def test_every_command_that_the_parser_knows_is_there() -> None:
    from inferbench_cli import commands

    (choices,) = (action.choices for action in program.parser()._actions if action.choices)

    assert list(choices) == list(commands.COMMANDS)


def test_the_console_scripts_are_the_same_program(place: Place) -> None:
    """`kubectl inferbench` is found by kubectl under its name."""
    plugin = Path(sys.executable).with_name("kubectl-inferbench")
    done = subprocess.run([plugin, "--help"], env=place.environment, capture_output=True, text=True, check=True)

    assert done.stdout == place.run("--help").stdout
