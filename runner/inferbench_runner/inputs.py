"""Makes what a model is fed: crops of photographs where it takes images, else seeded random tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Photograph = NDArray[np.uint8]
"""Height x width x RGB."""

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Of the images that nearly every vision model is trained on, per channel, as torchvision's transforms have them."""

MIN_IMAGE_SIDE: Final = 32
"""A tensor of three planes smaller than this is not taken for an image (CIFAR's are this large)."""

CROP_SCALES: Final = (0.4, 1.0)
"""Side of a crop over the largest that fits: objects fill it more or less, as they do in ImageNet's images."""

INTEGERS_BELOW: Final = 2
"""Integers are token ids, token types or masks, and a graph does not say which: 0 and 1 are valid for all of them."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a model."""

    name: str
    shape: tuple[int, ...]
    """Without the batch dimension."""
    dtype: str = "float32"
    """As numpy calls it."""


@dataclass(frozen=True, slots=True)
class Colours:
    """How pixels become numbers: (pixel / 255 - mean) / std, for each channel."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def takes_images(inputs: Sequence[Input]) -> bool:
    """Tell whether a model's only input is a batch of RGB images, planes first."""
    if len(inputs) != 1 or len(inputs[0].shape) != 3:
        return False
    planes, height, width = inputs[0].shape
    return planes == 3 and min(height, width) >= MIN_IMAGE_SIDE and inputs[0].dtype.startswith("float")


def crops(photographs: Sequence[Photograph], count: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Return `count` different crops, the photographs taking turns: count x height x width x RGB."""
    random = np.random.default_rng(seed)
    return np.stack([_crop(photographs[i % len(photographs)], height, width, random) for i in range(count)])


def normalise(images: NDArray[np.uint8], colours: Colours) -> NDArray[np.float32]:
    """Return what the model reads: count x planes x height x width."""
    mean, std = (np.asarray(values, np.float32) for values in (colours.mean, colours.std))
    numbers = (images.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(numbers.transpose(0, 3, 1, 2))


def random_tensors(inputs: Sequence[Input], count: int, seed: int) -> dict[str, NDArray[np.generic[Any]]]:
    """Return seeded tensors of `count` examples: normally distributed floats, small integers, coin tosses."""
    random = np.random.default_rng(seed)
    return {each.name: _random_tensor((count, *each.shape), np.dtype(each.dtype), random) for each in inputs}


def _random_tensor(
    shape: tuple[int, ...], dtype: np.dtype[Any], random: np.random.Generator
) -> NDArray[np.generic[Any]]:
    if dtype.kind == "f":
        return random.standard_normal(shape, np.float32)
    return random.integers(0, INTEGERS_BELOW, shape).astype(dtype)


def _crop(photograph: Photograph, height: int, width: int, random: np.random.Generator) -> Photograph:
    """Cut a window of the wanted proportions, scale it, mirror every second one."""
    from PIL import Image

    rows, columns = photograph.shape[:2]
    scale = random.uniform(*CROP_SCALES) * min(rows / height, columns / width)
    top, left = random.uniform(0, rows - scale * height), random.uniform(0, columns - scale * width)
    window = (left, top, left + scale * width, top + scale * height)
    image = Image.fromarray(photograph).resize((width, height), Image.Resampling.BILINEAR, box=window)
    return np.asarray(image)[:, :: random.choice((-1, 1))]
