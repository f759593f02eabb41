"""What PyTorch's static int8 refuses, and what decides the program that it quantises."""

from __future__ import annotations

import pytest

from inferbench_contract.spec import AccuracySpec, MeasurementSpec, ModelSpec, QuantizationSpec
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import artifacts
from inferbench_runner.backends import Unsupported, _compiled, _int8_static
from inferbench_runner.task import Artifacts, CellTask


def a_task(folder, **changed):
    """The task of a cell whose weights and inputs are in their entries."""
    for entry in ("weights", "inputs"):
        artifacts.publish(folder, entry, "one", lambda made: (made / "file").write_text("content"))
    task = CellTask(
        backend=Backend.TORCH_COMPILE,
        precision=Precision.INT8_STATIC,
        batch_size=4,
        round=0,
        device=Device.CPU,
        threads=1,
        options={},
        model=ModelSpec.model_validate({"torchvision": {"name": "resnet18", "weights": "random"}}),
        model_folder=folder,
        measurement=MeasurementSpec(),
        accuracy=AccuracySpec(),
        artifacts=Artifacts(weights=folder / "weights/one/file", inputs=folder / "inputs/one"),
        cache=folder,
        result=folder / "result.json",
    )
    return task.model_copy(update=changed)


@pytest.mark.parametrize("flag", sorted(_int8_static.NEEDED_FLAGS))
def test_any_of_the_dot_products_is_enough(flag):
    assert _int8_static.missing(("fpu", flag)) is None


def test_a_processor_without_8_bit_dot_products_is_told_which_it_lacks():
    reason = _int8_static.missing(("fpu", "avx2", "avx512f"))

    assert reason is not None
    assert reason.startswith("NoKernel: this processor has none of amx_int8, avx512_vnni, avx_vnni")


def test_weights_become_constants_whatever_the_precision_of_others(tmp_path):
    assert _compiled.is_frozen(a_task(tmp_path))
    assert not _compiled.is_frozen(a_task(tmp_path, precision=Precision.FP32))
    assert _compiled.is_frozen(a_task(tmp_path, precision=Precision.FP32, options={"freezing": True}))


def test_where_nothing_may_be_frozen_8_bits_are_refused(tmp_path):
    with pytest.raises(Unsupported, match=r"^NeedsFreezing: .*backendOptions\.torch-compile\.freezing out\.$"):
        _compiled.require_freezing(a_task(tmp_path, options={"freezing": False}))
    _compiled.require_freezing(a_task(tmp_path, precision=Precision.FP32, options={"freezing": False}))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"batch_size": 1}, id="another batch size"),
        pytest.param({"round": 3}, id="another round"),
        pytest.param({"backend": Backend.TORCH_AOT_INDUCTOR}, id="another backend"),
        pytest.param({"options": {"freezing": True}}, id="an option of the compiler"),
    ],
)
def test_one_program_serves(tmp_path, changed):
    assert _int8_static.key(a_task(tmp_path, **changed)) == _int8_static.key(a_task(tmp_path))


def test_another_calibration_makes_another_program(tmp_path):
    programs = {
        _int8_static.key(a_task(tmp_path, quantization=QuantizationSpec(calibration=each)))
        for each in ("minmax", "percentile", "entropy")
    }

    assert len(programs) == 3


def test_another_layout_makes_another_program(tmp_path):
    programs = {
        _int8_static.key(a_task(tmp_path, measurement=MeasurementSpec(layout=each)))
        for each in ("contiguous", "channels-last")
    }

    assert len(programs) == 2


def test_other_inputs_make_another_program(tmp_path):
    before = a_task(tmp_path)
    artifacts.publish(tmp_path, "inputs", "two", lambda made: (made / "file").write_text("other"))
    after = before.model_copy(
        update={"artifacts": before.artifacts.model_copy(update={"inputs": tmp_path / "inputs/two"})}
    )

    assert _int8_static.key(after) != _int8_static.key(before)
