import errno
import os
from pathlib import Path

import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_runner.termination import TerminationMessage


@pytest.fixture
def file(tmp_path):
    """The file that the kubelet makes: empty."""
    file = tmp_path / "termination-log"
    file.touch()
    return file


def test_the_file_holds_what_was_written(file):
    with TerminationMessage(file) as message:
        message.write(b"one")

    assert file.read_bytes() == b"one"


def test_a_shorter_text_covers_the_longer_one_before_it_and_the_file_never_shrinks(file):
    """Cutting it would be a second step, and a kill between the two would lose everything."""
    with TerminationMessage(file) as message:
        lengths = []
        for text in (b"a long first text", b"second", b"a third one"):
            message.write(text)
            lengths.append(file.stat().st_size)

            assert file.read_bytes() == text.ljust(17)
    assert lengths == [17, 17, 17]


def test_it_is_written_in_place(file):
    """The file is a mount point in a container: a rename over it would fail."""
    before = file.stat().st_ino

    with TerminationMessage(file) as message:
        message.write(b"one")

    assert file.stat().st_ino == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"x" * 10, b"one       ", id="a shorter text of somebody else is covered"),
        pytest.param(b"x" * 4_096, b"one" + b" " * 4_093, id="so is the longest one that Kubernetes keeps"),
        pytest.param(b"x" * 9_000, b"one" + b" " * 4_093, id="and of a longer one the kubelet would read the end"),
    ],
)
def test_what_stood_in_the_file_is_gone(file, before, after):
    file.write_bytes(before)

    with TerminationMessage(file) as message:
        message.write(b"one")

    assert file.read_bytes() == after


def test_nothing_is_written_before_the_first_message(file):
    file.write_bytes(b"of somebody else")

    with TerminationMessage(file):
        assert file.read_bytes() == b"of somebody else"


def test_more_than_kubernetes_keeps_is_refused_and_what_was_there_stays(file):
    with TerminationMessage(file) as message:
        message.write(b"x" * 4_096)

        with pytest.raises(ValueError, match="a termination message of 4097 bytes; Kubernetes keeps 4096"):
            message.write(b"y" * 4_097)

    assert file.read_bytes() == b"x" * 4_096


def test_children_do_not_inherit_it(file):
    """What a cell process prints or writes, by accident or not, never lands in the result."""
    with TerminationMessage(file) as message:
        assert not os.get_inheritable(message._descriptor)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(lambda path: None, errno.ENOENT, id="one that is not there is not made"),
        pytest.param(lambda path: path.mkdir(), errno.EISDIR, id="a folder"),
    ],
)
def test_one_that_cannot_be_opened_is_named_with_what_to_do(tmp_path, make, error):
    make(tmp_path / "log")

    with pytest.raises(EnvironmentFault) as raised:
        TerminationMessage(tmp_path / "log")

    assert str(raised.value) == (
        f"The result cannot be written to the termination message {tmp_path}/log: {os.strerror(error)}. It must be the "
        "file that the container's terminationMessagePath names (in INFERBENCH_TERMINATION_LOG when that is not "
        f"/dev/termination-log), and user {os.getuid()} must be allowed to write it."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_told():
    with (
        TerminationMessage(Path("/dev/full")) as message,
        pytest.raises(EnvironmentFault, match="No space left on device"),
    ):
        message.write(b"one")
