"""What building images leaves in the cache: the present build, and nothing of older ones."""

from __future__ import annotations

import os
import shutil
import time

import pytest

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
