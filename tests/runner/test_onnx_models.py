"""ONNX files as models: built here with onnx.helper, run by the real ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inferbench_contract.errors import InferbenchError
from inferbench_contract.spec import ModelSpec
from inferbench_runner import models, onnx_models
from inferbench_runner.backends import Unsupported
from tests.runner.tiny_onnx import CLASSES, FEATURES, a_file


def written(model: ModelSpec, folder: Path, target: Path):
    """Write the artifact; return its first dimension, and the function it computes."""
    target.mkdir()
    onnx_models.write(model, folder, target)
    file = target / onnx_models.FILE
    first = onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0]
    return first.dim_value or first.dim_param, onnx_models.function(file, onnx_models.tensors_of(file, model))


def some(count: int) -> dict[str, np.ndarray]:
    return {"features": np.random.default_rng(1).standard_normal((count, FEATURES)).astype(np.float32)}


class TestBatchDimension:
    def test_a_free_one_is_called_batch(self, tmp_path):
        first, _ = written(a_file(tmp_path, "N"), tmp_path, tmp_path / "out")

        assert first == "batch"

    @pytest.mark.parametrize("size", [1, 4])
    def test_a_fixed_one_is_freed_where_the_graph_computes_the_same_with_another_size(self, tmp_path, size):
        first, run = written(a_file(tmp_path, size), tmp_path, tmp_path / "out")

        assert first == "batch"
        assert run(some(7))["scores"].shape == (7, CLASSES)

    def test_a_fixed_one_stays_where_the_graph_needs_it(self, tmp_path):
        first, run = written(a_file(tmp_path, 2, reshape=(2, CLASSES)), tmp_path, tmp_path / "out")

        assert first == 2
        assert run(some(5))["scores"].shape == (5, CLASSES)

    def test_a_fixed_one_stays_where_freeing_it_changes_what_is_computed(self, tmp_path):
        first, _ = written(a_file(tmp_path, 2, less_the_mean_of_the_batch=True), tmp_path, tmp_path / "out")

        assert first == 2

    def test_examples_are_answered_one_by_one_as_in_a_batch(self, tmp_path):
        _, run = written(a_file(tmp_path, 2, reshape=(2, CLASSES)), tmp_path, tmp_path / "out")
        batch = some(5)

        together = run(batch)["scores"]

        alone = [run({"features": batch["features"][i : i + 1]})["scores"] for i in range(5)]
        assert np.array_equal(together, np.concatenate(alone))


class TestFiles:
    def test_tensors_in_a_file_beside_it_belong_to_the_model(self, tmp_path):
        external = {"save_as_external_data": True, "location": "tiny.weights", "size_threshold": 0}

        model = a_file(tmp_path, **external)

        assert models.files(model, tmp_path) == (tmp_path / "tiny.onnx", tmp_path / "tiny.weights")

    def test_the_artifact_is_one_file_that_needs_no_other(self, tmp_path):
        model = a_file(tmp_path, save_as_external_data=True, location="tiny.weights", size_threshold=0)

        _, run = written(model, tmp_path, tmp_path / "out")

        assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.onnx"]
        assert run(some(2))["scores"].shape == (2, CLASSES)

    def test_other_tensors_make_another_model(self, tmp_path):
        model = a_file(tmp_path, save_as_external_data=True, location="tiny.weights", size_threshold=0)
        before = models.identity(model, tmp_path)

        with (tmp_path / "tiny.weights").open("r+b") as weights:
            weights.write(b"\x00\x01")

        assert models.identity(model, tmp_path) != before

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            pytest.param(b"", "found an empty file", id="an empty file"),
            pytest.param(
                b"<!DOCTYPE html><html>", "21 bytes that begin with b'<!DOCTYPE html>", id="a page of a proxy"
            ),
            pytest.param(b"\x08\x0a\x12", "not an ONNX model", id="the beginning of a model"),
        ],
    )
    def test_a_file_that_is_no_model_is_named_with_what_it_is(self, tmp_path, content, words):
        model = a_file(tmp_path)
        (tmp_path / "tiny.onnx").write_bytes(content)

        with pytest.raises(InferbenchError, match=r"tiny\.onnx is not an ONNX model") as caught:
            written(model, tmp_path, tmp_path / "out")

        assert words in str(caught.value)

    def test_a_file_that_is_not_there_is_named_with_the_field(self, tmp_path):
        model = ModelSpec.model_validate({"onnx": {"path": "gone.onnx"}})

        with pytest.raises(InferbenchError, match=r"spec\.model\.onnx\.path is gone\.onnx, and there is no file"):
            models.identity(model, tmp_path)


class TestInputs:
    def graph(self, shape: list[int | str], kind: int = TensorProto.FLOAT):
        value = helper.make_tensor_value_info("x", kind, shape)
        return helper.make_model(helper.make_graph([], "empty", [value], []))

    def model(self, **given) -> ModelSpec:
        inputs = [{"name": name, "shape": shape} for name, shape in given.items()]
        return ModelSpec.model_validate({"onnx": {"path": "x.onnx"}, "inputs": inputs})

    def test_open_dimensions_are_those_of_the_benchmark(self):
        graph = self.graph(["batch", 3, "height", "width"])

        tensors = onnx_models.tensors_in(graph, self.model(x=[3, 64, 80]))

        assert [(each.name, each.shape, each.dtype) for each in tensors] == [("x", (3, 64, 80), "float32")]

    def test_open_dimensions_without_the_benchmarks_are_an_error_that_shows_how_to_say_them(self):
        with pytest.raises(InferbenchError, match=r"spec\.model\.inputs .*name: x, shape: \[\.\.\.\], dtype: float32"):
            onnx_models.tensors_in(self.graph(["batch", 3, "height", "width"]), self.model())

    def test_a_name_that_the_graph_does_not_have_is_an_error_with_those_it_has(self):
        with pytest.raises(InferbenchError, match="names y; the inputs of the graph are x"):
            onnx_models.tensors_in(self.graph(["batch", 3]), self.model(y=[3]))

    def test_texts_are_unsupported(self):
        with pytest.raises(Unsupported, match="input x is no tensor of numbers"):
            onnx_models.tensors_in(self.graph(["batch", 3], TensorProto.STRING), self.model())
