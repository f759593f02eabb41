from itertools import product

import pytest

from inferbench_cli import matrix
from inferbench_contract.capabilities import support
from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy

NO_DRIVER = "EnvironmentFault: There is no NVIDIA driver here."
NO_COMPILER = "NotInstalled: there is no compiler. Install it: apt-get install g++"
NO_TF32 = "NeedsGpu: TF32 is of GPUs."


def answered(*backends, **reasons_by_precision):
    """Return what the runner answers about some backends: each precision works, unless its reason is given."""
    pairs = product(backends, Precision)
    return [{"strategy": f"{b}/{p}", "reason": reasons_by_precision.get(p.name.lower())} for b, p in pairs]


def lines(rows, device=Device.CPU, *, with_fake=False):
    return matrix.text(device, matrix.read(rows, with_fake=with_fake)).splitlines()


def without_a_driver(device=Device.GPU):
    """Return what the runner answers where every backend that could work asks for a driver that is not there."""
    strategies = [Strategy(*pair) for pair in product(Backend, Precision) if pair[0] is not Backend.FAKE]
    never = {strategy: support(strategy, device, ModelSource.TORCHVISION) for strategy in strategies}
    return [{"strategy": str(strategy), "reason": reason or NO_DRIVER} for strategy, reason in never.items()]


def test_it_has_a_row_for_each_backend_and_a_column_for_each_precision():
    rows = answered("torch-eager", tf32=NO_TF32) + answered("onnxruntime", tf32=NO_TF32, int8_static=NO_COMPILER)

    assert lines(rows)[:3] == [
        "CPU         fp32 tf32 fp16 bf16 int8-dynamic int8-static fp8",
        "torch-eager yes  1    yes  yes  yes          yes         yes",
        "onnxruntime yes  1    yes  yes  yes          2           yes",
    ]


def test_each_reason_is_told_once_under_its_number_with_the_line_that_installs_what_is_missing():
    rows = answered("torch-eager", tf32=NO_TF32) + answered("onnxruntime", tf32=NO_TF32, int8_static=NO_COMPILER)

    assert lines(rows)[3:] == [
        f"  yes  {matrix.LEGEND}",
        f"    1  {NO_TF32}",
        "    2  NotInstalled: there is no compiler. Install it:",
        "        apt-get install g++",
    ]


def test_what_is_to_be_typed_stays_in_one_line():
    command = "pip install " + " ".join(f"'inferbench[extra-{number}]'" for number in range(5))
    rows = answered("onnxruntime", fp8=f"NotInstalled: {'something ' * 9}is not installed. Install it: {command}")

    assert lines(rows)[-1].strip() == command


def test_a_table_of_all_words_fits_a_terminal_of_80_columns():
    """Reasons are wrapped, and by words: a name with hyphens stays whole."""
    names = " ".join(Backend)
    shown = lines(answered(*Backend, fp8=f"NoKernel: none of {names} has it, and {names} have it not."), with_fake=True)

    assert max(map(len, shown)) <= 80
    assert all(any(backend in line.split() for line in shown[len(Backend) + 1 :]) for backend in Backend)


def test_numbers_go_on_beyond_nine():
    backends = list(Backend)[:5]
    rows = [row for b in backends for row in answered(b, fp32=f"NotInstalled: {b}.", fp8=f"NoKernel: {b}.")]

    assert [line.split()[1] for line in lines(rows)[1:6]] == ["1", "3", "5", "7", "9"]
    assert lines(rows)[-1] == f"   10  NoKernel: {backends[-1]}."


@pytest.mark.parametrize(("with_fake", "shown"), [(False, ["torch-eager"]), (True, ["torch-eager", "fake"])])
def test_the_scripted_backend_is_shown_to_those_who_ask_for_it(with_fake, shown):
    rows = answered("torch-eager") + answered("fake")

    assert [line.split()[0] for line in lines(rows, with_fake=with_fake)[1:-1]] == shown


class TestADeviceThatIsNotThere:
    def test_it_is_one_sentence(self):
        assert lines(without_a_driver(), Device.GPU) == ["GPU: nothing works. There is no NVIDIA driver here."]

    def test_a_backend_that_needs_more_than_the_device_gets_the_table(self):
        """What is not installed is to be seen even where there is no driver."""
        rows = without_a_driver()
        rows[0] = rows[0] | {"reason": NO_COMPILER}

        shown = lines(rows, Device.GPU)

        assert shown[0].startswith("GPU ")
        assert f"    2  {NO_DRIVER}" in shown

    def test_a_backend_that_wants_a_newer_driver_hides_nothing_of_the_others(self):
        """The fault of TensorRT alone says nothing of PyTorch, which works."""
        rows = answered("torch-eager", int8_static="NoKernel: none.") + answered(
            "tensorrt", **dict.fromkeys([precision.name.lower() for precision in Precision], NO_DRIVER)
        )

        assert lines(rows, Device.GPU)[1].split() == ["torch-eager", *["yes"] * 5, "1", "yes"]
