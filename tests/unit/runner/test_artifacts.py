"""The cache folder, with small files in it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_contract.errors import EnvironmentFault
from inferbench_runner import artifacts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def write_one(folder: Path) -> None:
    (folder / "content").write_text("what was prepared")


def refuse(folder: Path) -> None:
    raise AssertionError(f"nothing is to be built in {folder}")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        pytest.param({"INFERBENCH_CACHE": "/big/disk"}, "/big/disk", id="the variable decides"),
        pytest.param({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/inferbench", id="then the desktop's cache folder"),
        pytest.param({"HOME": "/h"}, "/h/.cache/inferbench", id="then .cache at home"),
        pytest.param({"INFERBENCH_CACHE": "", "HOME": "/h"}, "/h/.cache/inferbench", id="an empty variable is none"),
    ],
)
def test_where_the_cache_is(environment, folder):
    assert artifacts.default_folder(environment) == Path(folder)


class TestKey:
    def test_it_does_not_depend_on_the_order_of_fields(self):
        assert artifacts.key({"a": 1, "b": [1, 2]}) == artifacts.key({"b": [1, 2], "a": 1})

    @given(st.dictionaries(st.text(), JSON, max_size=4), st.dictionaries(st.text(), JSON, max_size=4))
    def test_different_content_has_different_keys(self, one, other):
        same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

        assert (artifacts.key({"content": one}) == artifacts.key({"content": other})) is same

    def test_it_is_the_hash_of_the_canonical_text(self):
        text = b'{"a":1,"b":"\\u00fc","format":1}'

        assert artifacts.key({"b": "ü", "a": 1}) == hashlib.sha256(text).hexdigest()


class TestPublish:
    def test_what_was_built_is_found_again_and_not_built_again(self, tmp_path):
        built = artifacts.publish(tmp_path, "weights", "k", write_one)

        found = artifacts.publish(tmp_path, "weights", "k", refuse)

        assert found == built == artifacts.open_entry(tmp_path, "weights", "k")
        assert (found / "content").read_text() == "what was prepared"

    def test_an_entry_that_is_not_there_is_none(self, tmp_path):
        assert artifacts.open_entry(tmp_path, "weights", "k") is None

    def test_a_build_that_fails_leaves_nothing(self, tmp_path):
        def fail(folder):
            write_one(folder)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            artifacts.publish(tmp_path, "weights", "k", fail)

        assert list((tmp_path / "weights").iterdir()) == []

    def test_of_two_that_build_the_same_the_first_entry_stays(self, tmp_path):
        def be_second(folder):
            artifacts.publish(tmp_path, "weights", "k", write_one)
            (folder / "content").write_text("what the second prepared")

        entry = artifacts.publish(tmp_path, "weights", "k", be_second)

        assert (entry / "content").read_text() == "what was prepared"
        assert [folder.name for folder in (tmp_path / "weights").iterdir()] == ["k"]

    def test_what_a_killed_process_left_is_removed_after_a_day_and_not_before(self, tmp_path):
        old, new = (tmp_path / "weights" / f".tmp-{name}" for name in ("old", "new"))
        for folder in (old, new):
            folder.mkdir(parents=True)
        long_ago = time.time() - artifacts.STALE_SECONDS - 60
        os.utime(old, (long_ago, long_ago))

        artifacts.publish(tmp_path, "weights", "k", write_one)

        assert not old.exists()
        assert new.exists()


class TestCorruption:
    @pytest.mark.parametrize(
        "spoil",
        [
            pytest.param(lambda entry: (entry / "content").write_text("what was preparef"), id="a changed byte"),
            pytest.param(lambda entry: (entry / "content").write_text(""), id="a truncated file"),
            pytest.param(lambda entry: (entry / "content").unlink(), id="a missing file"),
            pytest.param(lambda entry: (entry / "manifest.json").unlink(), id="a missing manifest"),
            pytest.param(lambda entry: (entry / "manifest.json").write_bytes(b"\xff\x00"), id="a manifest of garbage"),
            pytest.param(lambda entry: (entry / "manifest.json").write_text("[1]"), id="a manifest of another kind"),
        ],
    )
    def test_a_corrupt_entry_is_told_removed_and_built_again(self, tmp_path, caplog, spoil):
        spoil(artifacts.publish(tmp_path, "weights", "k", write_one))

        with caplog.at_level(logging.WARNING):
            entry = artifacts.publish(tmp_path, "weights", "k", write_one)

        assert (entry / "content").read_text() == "what was prepared"
        assert "corrupt" in caplog.text
        assert [folder.name for folder in (tmp_path / "weights").iterdir()] == ["k"]

    def test_files_in_folders_of_an_entry_are_watched_too(self, tmp_path):
        def write_deep(folder):
            (folder / "deep").mkdir()
            write_one(folder / "deep")

        entry = artifacts.publish(tmp_path, "weights", "k", write_deep)
        assert artifacts.open_entry(tmp_path, "weights", "k") == entry
        (entry / "deep/content").write_text("what was preparef")

        assert artifacts.open_entry(tmp_path, "weights", "k") is None


class TestDisk:
    def test_a_full_disk_is_an_environment_fault_that_names_the_folder_and_the_variable(self, tmp_path):
        def fill(folder):
            (folder / "content").symlink_to("/dev/full")
            (folder / "content").write_text("too much")

        with pytest.raises(EnvironmentFault, match=rf"{tmp_path}: No space left on device.*INFERBENCH_CACHE"):
            artifacts.publish(tmp_path, "weights", "k", fill)

    def test_a_place_that_cannot_be_a_folder_is_an_environment_fault(self, tmp_path):
        (tmp_path / "file").touch()

        with pytest.raises(EnvironmentFault, match=r"Cannot write to the cache folder .*: Not a directory"):
            artifacts.publish(tmp_path / "file", "weights", "k", write_one)

    def test_too_little_space_is_told_with_what_is_free_and_needed(self, tmp_path):
        with pytest.raises(EnvironmentFault, match=rf"{tmp_path} has \d+ MiB free, and \d{{9,}} MiB are needed"):
            artifacts.require_space(tmp_path, 1 << 50)

    def test_other_errors_of_a_build_stay_what_they_are(self, tmp_path):
        def open_what_is_not_there(folder):
            raise FileNotFoundError(errno.ENOENT, "No such file", "model.onnx")

        with pytest.raises(FileNotFoundError):
            artifacts.publish(tmp_path, "weights", "k", open_what_is_not_there)


class TestArrays:
    def test_names_and_their_order_come_back(self, tmp_path):
        arrays = {"zeta": np.zeros((4, 2), np.float32), "in/put:0": np.arange(4), "..": np.ones(4, np.bool_)}

        artifacts.write_arrays(tmp_path, arrays)

        assert artifacts.names(tmp_path) == ("zeta", "in/put:0", "..")
        assert artifacts.example_count(tmp_path) == 4
        assert {file.parent for file in tmp_path.rglob("*")} == {tmp_path}

    def test_rows_come_in_the_order_asked_for(self, tmp_path):
        artifacts.write_arrays(tmp_path, {"x": np.arange(10, dtype=np.int64) * 10})

        batch = artifacts.read_rows(tmp_path, np.array([3, 9, 0, 3]))

        assert batch["x"].tolist() == [30, 90, 0, 30]
        assert type(batch["x"]) is np.ndarray
