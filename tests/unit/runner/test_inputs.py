"""Crops, colours and random tensors; the photographs are scikit-image's."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from inferbench_runner import inputs, photographs
from inferbench_runner.inputs import Colours, Input


@pytest.fixture(scope="module")
def evaluation():
    return photographs.read(photographs.EVALUATION)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        pytest.param([Input("x", (3, 224, 224))], True, id="three planes are an image"),
        pytest.param([Input("x", (3, 32, 32))], True, id="also a small one"),
        pytest.param([Input("x", (3, 31, 224))], False, id="not a sliver"),
        pytest.param([Input("x", (1, 224, 224))], False, id="not one plane"),
        pytest.param([Input("x", (224, 224, 3))], False, id="not planes last"),
        pytest.param([Input("x", (3, 16, 112, 112))], False, id="not a film"),
        pytest.param([Input("x", (3, 224, 224), "uint8")], False, id="not bytes"),
        pytest.param([Input("x", (3, 224, 224)), Input("y", (1,))], False, id="not one of two inputs"),
    ],
)
def test_what_is_taken_for_an_image(tensors, expected):
    assert inputs.takes_images(tensors) is expected


class TestCrops:
    def test_256_crops_are_all_different_and_come_from_every_photograph(self, evaluation):
        crops = inputs.crops(evaluation, 256, 64, 64, seed=1)

        assert crops.shape == (256, 64, 64, 3)
        assert len({crop.tobytes() for crop in crops}) == 256

    def test_they_are_the_same_every_time_and_fewer_are_the_first_of_more(self, evaluation):
        crops = inputs.crops(evaluation, 12, 40, 56, seed=1)

        assert np.array_equal(crops[:5], inputs.crops(evaluation, 5, 40, 56, seed=1))
        assert not np.array_equal(crops, inputs.crops(evaluation, 12, 40, 56, seed=2))

    def test_a_crop_is_called_after_its_photograph(self):
        """Each photograph has a grey of its own, which its crops have too."""
        greys = [np.full((64, 64, 3), grey, np.uint8) for grey in range(len(photographs.EVALUATION))]
        crops = inputs.crops(greys, 13, 32, 32, seed=1)

        called = [photographs.crop_called(example) for example in range(13)]

        files = [photographs.EVALUATION[grey] for grey in crops[:, 0, 0, 0]]
        assert [name.rpartition(" of ")[2] for name in called] == [file.partition(".")[0] for file in files]
        assert called[12] == "crop 3 of astronaut"

    def test_none_is_flat(self, evaluation):
        crops = inputs.crops(evaluation, 64, 64, 64, seed=1)

        assert min(crop.std() for crop in crops) > 4

    def test_a_crop_keeps_the_proportions(self):
        circle = np.hypot(*np.mgrid[-100:100, -300:300]) < 80
        photograph = np.repeat(np.uint8(255) * circle[..., None], 3, axis=2)

        seen = inputs.crops([photograph], 64, 40, 40, seed=1)[..., 0] > 127

        whole = [crop for crop in seen if crop.any() and not (crop[0].any() | crop[:, 0].any() | crop[:, -1].any())]
        spans = [(np.ptp(np.nonzero(crop)[0]), np.ptp(np.nonzero(crop)[1])) for crop in whole if not crop[-1].any()]
        assert spans
        assert all(abs(high - wide) <= 1 for high, wide in spans)


def test_colours_are_what_torchvision_makes_of_them():
    images = np.array([[[[0, 128, 255]]]], np.uint8)

    numbers = inputs.normalise(images, Colours())

    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert numbers.shape == (1, 3, 1, 1)
    assert numbers.dtype == np.float32
    assert np.allclose(numbers.ravel(), expected, atol=1e-6)


def test_random_tensors_have_the_types_of_the_model_and_floats_are_fp32():
    tensors = [Input("x", (5,)), Input("ids", (7,), "int64"), Input("half", (2, 2), "float16"), Input("on", (), "bool")]

    made = inputs.random_tensors(tensors, 6, seed=1)

    kinds = {name: (array.shape, array.dtype.name) for name, array in made.items()}
    assert kinds == {
        "x": ((6, 5), "float32"),
        "ids": ((6, 7), "int64"),
        "half": ((6, 2, 2), "float32"),
        "on": ((6,), "bool"),
    }
    assert set(np.unique(made["ids"])) == {0, 1}
    assert np.array_equal(made["x"], inputs.random_tensors(tensors, 6, seed=1)["x"])


class TestPhotographs:
    def test_no_photograph_is_for_calibration_and_for_evaluation(self):
        assert not set(photographs.CALIBRATION) & set(photographs.EVALUATION)

    def test_every_one_is_there_in_colour_and_large_enough_for_a_crop(self):
        read = photographs.read((*photographs.CALIBRATION, *photographs.EVALUATION))

        assert all(each.ndim == 3 and each.shape[2] == 3 and each.dtype == np.uint8 for each in read)
        assert min(min(each.shape[:2]) for each in read) >= 299

    def test_reading_them_does_not_import_scikit_image(self):
        photographs.read(photographs.EVALUATION[:1])

        assert "skimage" not in sys.modules
