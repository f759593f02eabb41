"""Layouts of PyTorch's tensors: one policy for all strategies, and what lies otherwise is found out."""

from __future__ import annotations

import pytest
import torch

from inferbench_contract.spec import Layout, MeasurementSpec
from inferbench_contract.words import Backend, Precision
from inferbench_runner.backends import Artifact, FellBack, _layout, _torch, torch_aot_inductor
from tests.runner import shared, test_backends, test_int8_static, tiny

WANTED = frozenset({Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE})

IMAGES = (2, 3, 5, 7)
PLANE_BY_PLANE = (105, 35, 7, 1)
PIXEL_BY_PIXEL = (105, 1, 21, 3)
"""What lies one element further on in each dimension."""


def strides(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    return _layout.arranged(torch.zeros(shape), layout).stride()


class TestArranging:
    def test_images_lie_plane_by_plane_or_pixel_by_pixel(self):
        assert strides(IMAGES, Layout.CONTIGUOUS) == PLANE_BY_PLANE
        assert strides(IMAGES, Layout.CHANNELS_LAST) == PIXEL_BY_PIXEL

    def test_either_layout_is_made_of_the_other_with_the_same_numbers(self):
        numbers = torch.arange(2 * 3 * 5 * 7).reshape(IMAGES)

        last = _layout.arranged(numbers, Layout.CHANNELS_LAST)

        assert torch.equal(last, numbers)
        assert _layout.arranged(last, Layout.CONTIGUOUS).stride() == PLANE_BY_PLANE

    @pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4), (2, 3, 4, 5, 6)], ids=len)
    def test_what_has_no_four_dimensions_is_contiguous_in_both(self, shape):
        assert strides(shape, Layout.CHANNELS_LAST) == strides(shape, Layout.CONTIGUOUS)

    def test_weights_of_a_model_are_laid_out_where_they_are_and_stay_tied(self):
        first, second = torch.nn.Conv2d(3, 4, 2), torch.nn.Conv2d(3, 4, 2)
        second.weight = first.weight
        model = torch.nn.Sequential(first, torch.nn.Linear(4, 4), torch.nn.Conv3d(3, 4, 2), second)

        _layout.arrange(model, Layout.CHANNELS_LAST)

        assert first.weight is second.weight
        assert first.weight.stride() == (12, 1, 6, 3)
        _layout.require_of(model, Layout.CHANNELS_LAST)


class TestGuard:
    def test_a_tensor_that_lies_otherwise_is_told_with_its_strides(self):
        with pytest.raises(FellBack, match=r"channels-last was asked for, .* \(2, 3, 5, 7\) .* \(105, 35, 7, 1\)"):
            _layout.require([torch.zeros(IMAGES)], Layout.CHANNELS_LAST)

    def test_channels_last_under_the_name_of_contiguous_is_found_out_too(self):
        last = torch.zeros(IMAGES).to(memory_format=torch.channels_last)

        with pytest.raises(FellBack, match="Layout: contiguous was asked for"):
            _layout.require([torch.zeros(3), last], Layout.CONTIGUOUS)

    def test_one_weight_is_enough(self):
        model = _layout.arrange(torch.nn.Sequential(*(torch.nn.Conv2d(3, 4, 2) for _ in range(3))), Layout.CONTIGUOUS)
        model[1].to(memory_format=torch.channels_last)

        with pytest.raises(FellBack, match=r"a tensor of shape \(4, 3, 2, 2\)"):
            _layout.require_of(model, Layout.CONTIGUOUS)


@pytest.fixture(scope="module")
def a_task(tmp_path_factory):
    """Makes the task of one cell of a small model of convolutions, channels last unless another layout is named.

    What is compiled is in the cache of all tests: nothing here is about a cold one.
    """
    folder = tmp_path_factory.mktemp("layout")
    make = test_backends.tasks_of(tiny.a_model(folder, planes=32), folder, WANTED, shared.cache())

    def of(backend, precision=Precision.FP32, layout=Layout.CHANNELS_LAST, **options):
        task = make(backend, precision, **options)
        more = {"measurement": MeasurementSpec(layout=layout), "threads": 1, "cache": shared.cache()}
        return task.model_copy(update=more)

    return of


@pytest.fixture(scope="module")
def cells(a_task):
    """What channels last answers in floats as the model is and compiled, and in 8 bits.

    What the other backends that compile answer is seen in test_export.py, which measures them with this layout.
    """
    floats = [a_task(backend) for backend in (Backend.TORCH_EAGER, Backend.TORCH_COMPILE)]
    return test_int8_static.cells_of(*floats, a_task(Backend.TORCH_COMPILE, Precision.INT8_STATIC))


class TestCells:
    def test_a_strategy_answers_as_the_reference_which_lies_plane_by_plane(self, cells):
        *floats, int8 = cells

        assert [cell["accuracy"]["fault"] for cell in cells] == [None] * len(cells)
        assert max(cell["accuracy"]["relative_l2"] for cell in floats) < 1e-5
        assert 1e-3 < int8["accuracy"]["relative_l2"] < 0.1

    @pytest.mark.parametrize("layout", Layout)
    def test_convolutions_read_and_write_the_layout(self, a_task, layout):
        task, seen = a_task(Backend.TORCH_EAGER, layout=layout), []
        module = _torch.module(task)
        for each in module.modules():
            if isinstance(each, torch.nn.Conv2d):
                each.register_forward_hook(lambda _, given, answer: seen.extend([*given, answer]))

        _torch.session(task, module, _torch.bound(task)).enqueue()

        assert len(seen) == 4
        _layout.require(seen, layout)

    def test_a_batch_that_is_loaded_later_lies_as_the_first(self, a_task):
        task = a_task(Backend.TORCH_EAGER)
        bound = _torch.bound(task)

        _torch.session(task, torch.nn.Identity(), bound).load_batch({"image": torch.ones(4, 3, 32, 32).numpy()})

        assert bound["image"].is_contiguous(memory_format=torch.channels_last)
        assert bound["image"].sum() == bound["image"].numel()

    def test_a_session_whose_inputs_lie_otherwise_fell_back(self, a_task):
        contiguous = _torch.bound(a_task(Backend.TORCH_EAGER, layout=Layout.CONTIGUOUS))

        with pytest.raises(FellBack, match="Layout: channels-last was asked for"):
            _torch.session(a_task(Backend.TORCH_EAGER), torch.nn.Identity(), contiguous)

    def test_packages_and_what_compilers_keep_are_another_for_each_layout(self, a_task):
        tasks = [a_task(Backend.TORCH_AOT_INDUCTOR, layout=layout) for layout in Layout]

        assert len({torch_aot_inductor.package_key(task) for task in tasks}) == len(Layout)
        assert len({str(_torch.content(task)) for task in tasks}) == len(Layout)
