import errno
import gzip
import json
import os

import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_runner import sinks


class TestWriteWhole:
    def test_a_file_and_its_folders_appear(self, tmp_path):
        sinks.write_whole(tmp_path / "results" / "0.json", b"one")

        assert (tmp_path / "results" / "0.json").read_bytes() == b"one"

    def test_it_is_replaced_and_not_written_over(self, tmp_path):
        """Whoever has the old file open reads it to its end, and a kill leaves the old one or the new one."""
        file = tmp_path / "0.json"
        sinks.write_whole(file, b"a long first text")
        with file.open("rb") as reader:
            sinks.write_whole(file, b"second")

            assert reader.read() == b"a long first text"
        assert file.read_bytes() == b"second"

    def test_nothing_else_is_left(self, tmp_path):
        sinks.write_whole(tmp_path / "0.json", b"one")
        sinks.write_whole(tmp_path / "0.json", b"two")

        assert [path.name for path in tmp_path.iterdir()] == ["0.json"]

    def test_what_cannot_be_written_is_named_with_what_to_do(self, tmp_path):
        (tmp_path / "file").touch()
        target = tmp_path / "file" / "0.json"

        with pytest.raises(EnvironmentFault) as raised:
            sinks.write_whole(target, b"one")

        assert str(raised.value) == (
            f"{target} cannot be written: {os.strerror(errno.EEXIST)}. Make room there or choose another folder with "
            "--output; what is already measured stays, and the same command goes on from it."
        )
        assert isinstance(raised.value.__cause__, OSError)

    def test_what_to_do_depends_on_what_the_folder_is_for(self, tmp_path):
        with pytest.raises(EnvironmentFault, match="or set TMPDIR to another folder;"):
            sinks.write_whole(tmp_path, b"one", sinks.SCRATCH)

    def test_a_failure_leaves_no_half_file(self, tmp_path):
        (tmp_path / "folder").mkdir()

        with pytest.raises(EnvironmentFault, match=os.strerror(errno.EISDIR)):
            sinks.write_whole(tmp_path / "folder", b"one")

        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


class TestWriteSamples:
    def test_anything_can_read_them(self, tmp_path):
        sinks.write_samples(tmp_path / "0-1.json.gz", [3, 1, 2], [1, 1, 1])

        content = json.loads(gzip.decompress((tmp_path / "0-1.json.gz").read_bytes()))
        assert content == {
            "schemaVersion": 1,
            "latenciesNanoseconds": [3, 1, 2],
            "deviceNanoseconds": [1, 1, 1],
        }

    def test_where_there_is_no_device_that_is_said(self, tmp_path):
        sinks.write_samples(tmp_path / "0-1.json.gz", [3], None)

        assert json.loads(gzip.decompress((tmp_path / "0-1.json.gz").read_bytes()))["deviceNanoseconds"] is None

    def test_what_was_read_of_a_gpu_lies_in_columns_beside_them(self, tmp_path):
        sinks.write_readings(tmp_path / "0-1-gpu.json.gz", {"measuredFrom": 5}, {"atNs": (1, 2), "smMhz": (None, 1980)})

        content = json.loads(gzip.decompress((tmp_path / "0-1-gpu.json.gz").read_bytes()))
        assert content == {
            "schemaVersion": 1,
            "measuredFrom": 5,
            "readings": {"atNs": [1, 2], "smMhz": [None, 1980]},
        }

    def test_equal_samples_are_equal_bytes(self, tmp_path):
        """No time of day is in the file."""
        for name in ("a", "b"):
            sinks.write_samples(tmp_path / name, [5] * 100, None)

        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert b"\x00\x00\x00\x00" in (tmp_path / "a").read_bytes()[:10]
