"""What images are made of and say of themselves; and that building them leaves nothing of older builds in the cache."""

from __future__ import annotations

import os
import re
import shutil
import time

import pytest

from inferbench_contract import __version__
from tests.kubernetes_node import images

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def a_layout():
    """Return what makes a layout of an older source, asked for so many seconds ago."""
    made = []

    def make(name, seconds):
        folder = images._home() / f"layout-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "images").write_text("\n".join(images.SUITE))
        os.utime(folder, (time.time() - seconds,) * 2)
        made.append(folder)
        return folder

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


def test_what_older_builds_left_goes_unless_a_node_may_still_read_it(a_layout):
    present = images.layout(*images.SUITE)
    old, in_use = a_layout("old", 2 * images.LAYOUT_SECONDS), a_layout("in-use", images.LAYOUT_SECONDS / 2)

    with images._locked():
        images._remove_older_builds()

    assert not old.exists()
    assert in_use.exists()
    assert present.exists()
    kept = images._buildah("images", "--format={{.Name}}:{{.Tag}}").split()
    assert {*images.SUITE, *images.STAGES, images.base_name()} <= set(kept)
    assert "<none>:<none>" not in kept


MOST_OVER_THE_BASE_BYTES = 150_000_000


def test_the_operator_adds_no_more_than_its_share_to_the_base():
    sizes = images.layers(images.layout(*images.SUITE))[images.OPERATOR]

    assert 0 < sum(sizes[1:]) <= MOST_OVER_THE_BASE_BYTES


@pytest.mark.parametrize("name", [images.OPERATOR, images.RUNNER_SLIM])
def test_an_image_says_of_which_source_it_was_made(name):
    found = images.labels(images.layout(*images.SUITE))[name]

    assert found["org.opencontainers.image.version"] == __version__
    assert found["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", found["org.opencontainers.image.revision"])
