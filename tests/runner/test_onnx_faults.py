"""What `inferbench validate` says of an ONNX file, and that a run says the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inferbench_cli import machine
from inferbench_contract.errors import EnvironmentFault, InferbenchError
from inferbench_contract.spec import ModelSpec
from inferbench_runner import onnx_faults, onnx_models
from inferbench_runner.onnx_faults import Faults, Request
from tests.programs import Place
from tests.runner.tiny_onnx import CLASSES, a_file


def found(model: ModelSpec, folder: Path, *batch_sizes: int) -> Faults:
    return onnx_faults.find(Request(model=model, model_folder=folder, batch_sizes=batch_sizes))


def the_mistake(faults: Faults) -> tuple[str, str]:
    """The only thing that is wrong: its place and the sentence."""
    ((place, sentence),) = faults.mistakes
    assert not faults.notes
    return ".".join(map(str, place)), sentence


def a_graph(folder: Path, **inputs: list[int | str]) -> ModelSpec:
    """Write a graph that answers each of its inputs."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    outputs = [
        helper.make_tensor_value_info(f"same_{name}", TensorProto.FLOAT, shape) for name, shape in inputs.items()
    ]
    nodes = [helper.make_node("Identity", [name], [f"same_{name}"]) for name in inputs]
    return written(folder, helper.make_graph(nodes, "same", values, outputs))


def written(folder: Path, graph: onnx.GraphProto) -> ModelSpec:
    """Write a graph at the opset of our own exports."""
    opset = helper.make_opsetid("", 20)
    onnx.save_model(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "same.onnx")
    return ModelSpec.model_validate({"onnx": {"path": "same.onnx"}})


def test_a_graph_without_an_input_has_nothing_to_measure(tmp_path):
    value = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Constant", [], ["y"], value=value)], "constant", [], [output])

    place, sentence = the_mistake(found(written(tmp_path, graph), tmp_path, 1))

    assert place == "spec.model.onnx.path"
    assert "the graph has no input" in sentence


class TestBatchDimension:
    def test_a_free_one_takes_every_size(self, tmp_path):
        assert found(a_file(tmp_path, "N"), tmp_path, 1, 8) == Faults()

    def test_a_fixed_one_is_no_matter_where_no_other_size_is_asked_for(self, tmp_path):
        assert found(a_file(tmp_path, 2, reshape=(2, CLASSES)), tmp_path, 2) == Faults()

    def test_one_that_an_output_shows_to_be_needed_is_a_mistake(self, tmp_path):
        place, sentence = the_mistake(found(a_file(tmp_path, 2, reshape=(2, CLASSES)), tmp_path, 1, 8))

        assert place == "spec.batchSizes"
        assert sentence.startswith("found 1, 8, expected 2. FixedBatch: input features of the graph takes batches of 2")
        assert sentence.endswith("or ask for batchSizes: [2].")

    def test_one_that_some_cells_fit_is_a_note(self, tmp_path):
        faults = found(a_file(tmp_path, 2, reshape=(2, CLASSES)), tmp_path, 1, 2)

        assert not faults.mistakes
        assert faults.notes[0][1].startswith("Batch 1 will be Unsupported. FixedBatch: input features of the graph")

    @pytest.mark.parametrize("less_the_mean_of_the_batch", [False, True])
    def test_one_that_only_running_it_can_show_to_be_needed_is_a_note(self, tmp_path, less_the_mean_of_the_batch):
        model = a_file(tmp_path, 2, less_the_mean_of_the_batch=less_the_mean_of_the_batch)

        faults = found(model, tmp_path, 1, 2, 8)

        assert not faults.mistakes
        assert faults.notes[0][1].endswith("if not, batch 1, 8 will be Unsupported (FixedBatch).")

    def test_inputs_of_two_sizes_fit_no_batch(self, tmp_path):
        place, sentence = the_mistake(found(a_graph(tmp_path, x=[1, 3], y=[8, 3]), tmp_path, 1, 8))

        assert place == "spec.model.onnx.path"
        assert sentence.startswith("found inputs that take batches of different sizes, x (1), y (8), expected one size")

    @pytest.mark.parametrize("rows", [(2, CLASSES), (-1, CLASSES)])
    def test_what_is_said_to_stay_fixed_stays_so_in_a_run(self, tmp_path, rows):
        model = a_file(tmp_path, 2, reshape=rows)
        (tmp_path / "out").mkdir()
        onnx_models.write(model, tmp_path, tmp_path / "out")

        stays = onnx_models.fixed_batches(onnx.load(tmp_path / "out" / onnx_models.FILE))

        assert bool(found(model, tmp_path, 8).mistakes) == bool(stays)


class TestFile:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            pytest.param(b"", "found an empty file", id="an empty file"),
            pytest.param(b"<html>", "found 6 bytes that begin with b'<html>'", id="a page of a proxy"),
        ],
    )
    def test_one_that_is_no_model_is_a_mistake_that_says_what_it_is(self, tmp_path, content, words):
        model = a_file(tmp_path)
        (tmp_path / "tiny.onnx").write_bytes(content)

        place, sentence = the_mistake(found(model, tmp_path, 1))

        assert place == "spec.model.onnx.path"
        assert sentence.startswith('found "tiny.onnx", expected an ONNX model: ')
        assert words in sentence
        assert sentence.endswith("Export the model again, or name another file.")

    def test_without_the_tensors_that_belong_beside_it_the_missing_file_is_named(self, tmp_path):
        model = a_file(tmp_path, save_as_external_data=True, location="tiny.weights", size_threshold=0)
        (tmp_path / "tiny.weights").unlink()

        place, sentence = the_mistake(found(model, tmp_path, 1))

        assert place == "spec.model.onnx.path"
        assert f"keeps its weights in tiny.weights, and {tmp_path} has no such file" in sentence
        assert "Export the model again" not in sentence

    def test_tensors_beside_it_are_not_read(self, tmp_path):
        model = a_file(tmp_path, 2, save_as_external_data=True, location="tiny.weights", size_threshold=0)
        graph = onnx_models.read(tmp_path / "tiny.onnx", with_weights=False)

        assert all(not tensor.raw_data for tensor in graph.graph.initializer)
        assert not found(model, tmp_path, 8).mistakes

    def test_weights_in_it_are_not_kept_and_its_shapes_are_still_known(self, tmp_path):
        rows, columns = 2, 100
        given = {"weight": np.ones((3, columns), np.float32), "shape": np.array([rows, columns], np.int64)}
        weights = [numpy_helper.from_array(array, name) for name, array in given.items()]
        product, reshape = (
            helper.make_node("MatMul", ["x", "weight"], ["all"]),
            helper.make_node("Reshape", ["all", "shape"], ["y"]),
        )
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 3])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])
        model = written(tmp_path, helper.make_graph([product, reshape], "layer", [x], [y], weights))

        graph = onnx_models.read(tmp_path / "same.onnx", with_weights=False).graph
        place, _ = the_mistake(found(model, tmp_path, 8))

        assert [(each.name, [*each.dims], bool(each.raw_data)) for each in graph.initializer] == [
            ("weight", [3, columns], False),
            ("shape", [2], True),
        ]
        assert place == "spec.batchSizes"

    def test_an_open_shape_is_a_mistake_that_shows_how_to_say_it(self, tmp_path):
        place, sentence = the_mistake(found(a_graph(tmp_path, x=["N", 3, "height"]), tmp_path, 1))

        assert place == "spec.model.inputs"
        assert sentence.startswith(
            "found nothing, expected what fits the graph: Input x has the shape ['N', 3, 'height']"
        )

    def test_an_input_without_numbers_is_a_mistake_of_the_file(self, tmp_path):
        model = a_graph(tmp_path, x=[])

        assert the_mistake(found(model, tmp_path, 1))[0] == "spec.model.onnx.path"

    def test_without_the_library_it_is_said_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

        with pytest.raises(EnvironmentFault, match=r"onnx is not installed\. Install it: pip install '\.\[runner\]'"):
            found(a_file(tmp_path), tmp_path, 1)


class TestValidate:
    def test_a_look_that_takes_too_long_is_given_up_in_a_sentence(self) -> None:
        with pytest.raises(InferbenchError, match=r"^that could not be done within 0 s, and `inferbench run` gives it"):
            machine.look_into("{}", within_seconds=0)

    def test_it_names_the_line_of_what_the_file_cannot_do(self, place: Place) -> None:
        a_file(place.folder, 2, reshape=(2, CLASSES))
        file = place.write(model={"onnx": {"path": "tiny.onnx"}}, backends=["onnxruntime"], batchSizes=[1, 8])
        line = file.read_text().splitlines().index("  batchSizes:") + 1

        done = place.run("validate", file)

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{file}:{line}: spec.batchSizes: found 1, 8, expected 2. FixedBatch: input")

    def test_it_warns_of_what_only_a_run_can_tell(self, place: Place) -> None:
        a_file(place.folder, 2)
        file = place.write(model={"onnx": {"path": "tiny.onnx"}}, backends=["onnxruntime"], batchSizes=[1, 8])

        done = place.run("validate", file)

        assert (done.returncode, done.stdout) == (0, f"{file}: valid, scripted, 1 sweep\n")
        assert done.stderr.startswith(
            f"{file}: warning: spec.batchSizes: Input features of the graph takes batches of 2."
        )
