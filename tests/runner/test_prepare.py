"""The prepare process, with real PyTorch, real exports and real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.spec import ModelSpec
from inferbench_contract.words import Backend, Outcome
from inferbench_runner import answers, artifacts, prepare
from inferbench_runner.answers import Refusal
from inferbench_runner.backends import Artifact
from inferbench_runner.prepare import Request
from inferbench_runner.process import PROGRESS_FD
from inferbench_runner.task import Artifacts
from tests.runner import tiny

WITHOUT_EXPORT = frozenset({Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE})

PATIENCE_SECONDS = 250
"""Seconds of work, minutes where others work too; this only ends a test that hangs."""


@pytest.fixture(autouse=True)
def _forget_factories(monkeypatch):
    tiny.forget(monkeypatch)


@dataclass(frozen=True)
class Workplace:
    """A folder with a model and a cache, and the process that prepares it."""

    folder: Path

    def request(self, wanted: frozenset[Artifact] = frozenset(Artifact), model: ModelSpec | None = None) -> Request:
        model = model or tiny.a_model(self.folder)
        return Request(model=model, model_folder=self.folder, cache=self.folder / "cache", artifacts=wanted)

    def start(self, request: Request, name: str = "one", **options) -> subprocess.Popen[str]:
        files = (self.folder / f"{name}.request.json", self.folder / f"{name}.answer.json")
        return subprocess.Popen(prepare.command(request, *files), stdout=subprocess.PIPE, text=True, **options)

    def answer(self, name: str = "one") -> Artifacts | Refusal:
        return answers.read_answer(self.folder / f"{name}.answer.json")

    def run(self, request: Request) -> Artifacts | Refusal:
        """Do here what the process does, where nothing is about the process."""
        files = (self.folder / "request.json", self.folder / "one.answer.json")
        prepare.command(request, *files)
        assert prepare.main([str(file) for file in files]) == 0
        return self.answer()

    def entries(self) -> list[str]:
        return sorted(folder.parent.name for folder in (self.folder / "cache").glob("*/*"))


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Everything of a small model with two heads, made once by a real process; with the lines that it told."""
    place = Workplace(tmp_path_factory.mktemp("prepared"))
    request = place.request(model=tiny.a_model(place.folder, outputs=2))
    read, write = os.pipe()
    with os.fdopen(read) as progress:
        process = place.start(request, pass_fds=(write,), env={**os.environ, PROGRESS_FD: str(write)})
        os.close(write)
        printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
        return place, request, place.answer(), printed.splitlines(), [json.loads(line) for line in progress]


class TestWhatIsMade:
    def test_all_is_found_again_without_the_process_and_without_its_libraries(self, prepared):
        _, request, answer, _, _ = prepared
        script = (
            "import sys; from inferbench_runner import prepare;"
            "found = prepare.locate(prepare.Request.model_validate_json(sys.argv[1]));"
            "assert not {'torch', 'torchvision', 'onnx', 'onnxruntime'} & set(sys.modules);"
            "print(found.model_dump_json())"
        )

        found = subprocess.run(
            [sys.executable, "-c", script, request.model_dump_json()], capture_output=True, text=True, check=True
        )

        assert Artifacts.model_validate_json(found.stdout) == answer

    def test_what_older_code_prepared_is_not_found(self, prepared, monkeypatch):
        _, request, *_ = prepared
        assert prepare.locate(request) is not None

        monkeypatch.setattr(prepare, "MODULES", prepare.MODULES[1:])

        assert prepare.locate(request) is None

    def test_each_step_is_told_on_standard_output_and_to_the_supervisor(self, prepared):
        *_, printed, told = prepared

        assert [line.split()[0] for line in printed] == ["making", "making", "computing", "exporting"]
        assert [line["stage"] for line in told] == printed

    def test_the_graph_answers_as_the_reference_at_any_batch_size(self, prepared):
        _, _, answer, _, _ = prepared
        session = onnxruntime.InferenceSession(answer.onnx, providers=["CPUExecutionProvider"])
        names = artifacts.names(answer.reference)

        for size in (1, 5):
            rows = np.arange(size)
            found = session.run(names, dict(artifacts.read_rows(answer.inputs, rows)))
            expected = artifacts.read_rows(answer.reference, rows)
            assert all(np.allclose(a, expected[name], atol=1e-5) for name, a in zip(names, found, strict=True))

    def test_a_classifier_of_images_gets_256_examples_all_of_them_different(self, prepared):
        _, _, answer, _, _ = prepared

        inputs = artifacts.read_rows(answer.inputs, np.arange(256))["image"]

        assert artifacts.example_count(answer.inputs) == artifacts.example_count(answer.reference) == 256
        assert len({image.tobytes() for image in inputs}) == 256

    def test_outputs_keep_their_names(self, prepared):
        _, _, answer, _, _ = prepared

        assert artifacts.names(answer.reference) == ("head0", "head1")


class TestBadDays:
    def test_a_corrupt_entry_is_found_by_its_hash_and_only_that_is_made_again(self, workplace, capsys, caplog):
        request = workplace.request(WITHOUT_EXPORT)
        first = prepare.make(request)
        capsys.readouterr()
        reference = first.reference / "output.npy"
        reference.write_bytes(reference.read_bytes()[:-1] + b"!")

        assert prepare.locate(request) is None
        assert prepare.make(request) == first
        assert "corrupt" in caplog.text
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["computing"]
        assert prepare.locate(request) == first

    def test_two_processes_that_prepare_the_same_model_at_once_both_have_it(self, workplace):
        request = workplace.request(WITHOUT_EXPORT, a_layer(workplace.folder))

        processes = [workplace.start(request, name) for name in ("one", "two")]
        for process in processes:
            process.communicate(timeout=PATIENCE_SECONDS)

        assert workplace.answer("one") == workplace.answer("two") == prepare.locate(request)
        assert workplace.entries() == ["inputs", "reference", "weights"]

    def test_a_process_killed_while_it_writes_leaves_no_broken_entry_and_the_next_one_goes_on(self, workplace, capsys):
        request = workplace.request(WITHOUT_EXPORT)
        with workplace.start(request) as process:
            said = iter(process.stdout)
            assert next(said).startswith("making the weights")
            assert next(said).startswith("making evaluation inputs")
            process.send_signal(signal.SIGKILL)

        assert not (workplace.folder / "one.answer.json").exists()
        assert prepare.locate(request) is None
        assert prepare.locate(workplace.request(frozenset({Artifact.WEIGHTS}))) is not None

        assert prepare.make(request) == prepare.locate(request)
        assert "making the weights" not in capsys.readouterr().out

    def test_a_full_disk_is_an_environment_fault_in_the_answer(self, workplace, monkeypatch):
        (workplace.folder / "cache").write_text("no folder")
        monkeypatch.setattr(sys, "argv", ["prepare"])

        with pytest.raises(EnvironmentFault, match="INFERBENCH_CACHE"):
            workplace.run(workplace.request())

    def test_a_factory_that_raises_is_a_failure_with_its_words(self, workplace):
        model = tiny.a_model(workplace.folder, colour="blue")

        refusal = workplace.run(workplace.request(model=model))

        assert refusal.outcome is Outcome.FAILED
        assert refusal.message.startswith("TypeError: make() got an unexpected keyword argument 'colour'")

    def test_a_reference_of_nan_is_refused(self, workplace):
        refusal = workplace.run(workplace.request(WITHOUT_EXPORT, a_layer(workplace.folder, bias="nan")))

        assert refusal.outcome is Outcome.FAILED
        assert "has NaN or infinity in output" in refusal.message


@pytest.mark.parametrize(
    ("shape", "is_asked"),
    [pytest.param([1, 3, 32, 32], True, id="a batch of one"), pytest.param([5, 32, 32], False, id="another mistake")],
)
def test_a_shape_that_the_model_refuses_and_that_may_hold_the_batch_is_asked_about(workplace, shape, is_asked):
    model = tiny.a_model(workplace.folder).model_dump(mode="json", exclude_none=True)
    model["inputs"][0]["shape"] = shape

    refusal = workplace.run(workplace.request(WITHOUT_EXPORT, ModelSpec.model_validate(model)))

    assert refusal.message.startswith("RuntimeError: ")
    assert (f"image is {shape}: leave out the batch dimension" in refusal.message) == is_asked


def a_layer(folder, bias="0"):
    """Write the factory of one layer, which takes no images, and return the model."""
    (folder / "layer_models.py").write_text(
        "import torch\ndef make(bias):\n    layer = torch.nn.Linear(4, 2)\n"
        "    layer.bias.data.fill_(float(bias))\n    return layer\n",
    )
    factory = {"factory": "layer_models:make", "kwargs": {"bias": bias}}
    return ModelSpec.model_validate({"python": factory, "inputs": [{"name": "x", "shape": [4]}]})


def test_a_model_that_cannot_be_exported_is_unsupported_and_keeps_what_other_backends_read(workplace):
    (workplace.folder / "wild_models.py").write_text(
        "import torch\nclass Wild(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x * float(x.sum().item() if x.sum() > 0 else 1)\n"
        "def make():\n    return Wild()\n",
    )
    model = {"python": {"factory": "wild_models:make"}, "inputs": [{"name": "x", "shape": [4]}]}
    request = workplace.request(model=ModelSpec.model_validate(model))

    refusal = workplace.run(request)

    assert refusal.outcome is Outcome.UNSUPPORTED
    assert refusal.message.startswith("ExportFailed: ")
    assert prepare.locate(request.model_copy(update={"artifacts": WITHOUT_EXPORT})) is not None


def test_what_backends_need():
    onnx = ModelSpec.model_validate({"onnx": {"path": "x.onnx"}})
    torchvision = ModelSpec.model_validate({"torchvision": {"name": "resnet50"}})

    assert prepare.needed(torchvision, [Backend.FAKE]) == frozenset()
    assert prepare.needed(torchvision, [Backend.TORCH_EAGER]) == WITHOUT_EXPORT
    assert prepare.needed(torchvision, [Backend.TORCH_EAGER, Backend.ONNXRUNTIME]) == frozenset(Artifact)
    assert prepare.needed(onnx, [Backend.ONNXRUNTIME]) == frozenset(Artifact) - {Artifact.WEIGHTS}
