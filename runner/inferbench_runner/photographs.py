"""The real images: scikit-image's photographs, read from its data folder without importing it (BSD-3-Clause)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferbench_contract.errors import EnvironmentFault, how_to_install

if TYPE_CHECKING:
    from inferbench_runner.inputs import Photograph

EVALUATION: Final = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "rocket.jpg")
"""What outputs are compared on."""

CALIBRATION: Final = (
    "brick.png",
    "coins.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
)
"""What batch norms and quantisers are calibrated on. No scene is in both lists; the two motorcycles are one scene.

Drawings, text and flat images are in neither: one such crop gave activations fifty times larger than photographs do,
and spoilt every quantiser.
"""


def crop_called(example: int) -> str:
    """Name an evaluation example that is an image: its crops take turns over the photographs (`inputs.crops`)."""
    turn, place = divmod(example, len(EVALUATION))
    return f"crop {turn + 1} of {Path(EVALUATION[place]).stem}"


def read(files: Sequence[str]) -> tuple[Photograph, ...]:
    """Return photographs as height x width x RGB bytes."""
    import numpy as np
    from PIL import Image

    return tuple(np.asarray(Image.open(_folder() / file).convert("RGB")) for file in files)


def _folder() -> Path:
    package = find_spec("skimage")
    if package is None or package.submodule_search_locations is None:
        raise EnvironmentFault(f"The photographs of scikit-image are not here. {how_to_install('runner')}")
    return Path(package.submodule_search_locations[0], "data")
