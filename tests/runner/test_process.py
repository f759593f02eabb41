"""The watch over one child process, with children that behave and children that do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from inferbench_contract.handshake import PARENT_VARIABLE
from inferbench_runner import process
from inferbench_runner.process import Ended, Stopped, Watch
from tests.programs import Place, wait_until

LONG = 60
"""Seconds that no test waits for: the watch ends such a child, or its end ends the test."""

AT_ONCE = 10
"""Seconds that are much less than LONG, and much more than a busy machine needs."""


def run(
    *command: str, seconds: float = LONG, asked: bool = False, place: Place | None = None
) -> tuple[Ended, list[bytes]]:
    """Run a child to its end; return how it ended, and the lines of progress that it told."""
    lines: list[bytes] = []
    environment = place.environment if place else dict(os.environ)
    return process.run(command, environment, Watch(seconds, lines.append, lambda: asked)), lines


def python(code: str) -> tuple[str, str, str]:
    """Return the command line of a child that runs this code."""
    return sys.executable, "-c", textwrap.dedent(code)


class TestEnds:
    def test_output_and_error_output_are_kept_together_with_the_status(self) -> None:
        ended, _ = run("sh", "-c", "echo said; echo cried >&2; exit 3")

        assert ended.status == 3
        assert ended.output == "said\ncried\n"
        assert ended.stopped is None
        assert ended.signal_name == ""

    @pytest.mark.parametrize(
        ("number", "name"),
        [
            pytest.param(signal.SIGSEGV, "SIGSEGV", id="a signal with a name"),
            pytest.param(signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}", id="one without"),
        ],
    )
    def test_a_signal_is_named(self, number, name) -> None:
        ended, _ = run("sh", "-c", f"kill -{int(number)} $$")

        assert ended.status == -number
        assert ended.signal_name == name

    def test_the_child_is_in_a_session_of_its_own_and_has_nothing_to_read(self) -> None:
        ended, _ = run(*python("import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read() == '')"))

        assert ended.output == "True True\n"

    def test_a_child_that_closes_its_mouth_is_still_waited_for(self) -> None:
        ended, _ = run(*python("import os, time; os.closerange(1, 100); time.sleep(0.5); os._exit(5)"))

        assert ended.status == 5
        assert ended.seconds >= 0.5


class TestStops:
    def test_a_child_that_takes_too_long_is_ended(self) -> None:
        ended, _ = run("sh", "-c", f"echo hello; sleep {LONG}", seconds=0.2)

        assert ended.stopped is Stopped.TIME
        assert ended.output == "hello\n"
        assert ended.seconds < AT_ONCE

    def test_a_child_is_ended_when_somebody_asks(self) -> None:
        ended, _ = run("sleep", str(LONG), asked=True)

        assert ended.stopped is Stopped.ASKED
        assert ended.seconds < AT_ONCE

    def test_what_the_child_started_ends_with_it(self, place: Place) -> None:
        ended, _ = run("sh", "-c", f"sleep {LONG} & sleep {LONG} & wait", seconds=0.2, place=place)

        assert ended.stopped is Stopped.TIME
        place.wait_until_empty()

    def test_a_grandchild_that_holds_the_pipes_does_not_delay_the_end(self, place: Place) -> None:
        ended, _ = run("sh", "-c", f"sleep {LONG} & echo done", place=place)

        assert (ended.status, ended.output) == (0, "done\n")
        assert ended.seconds < AT_ONCE
        place.wait_until_empty()


class TestHears:
    def test_progress_is_passed_on_line_by_line(self) -> None:
        tell = "import os; os.write(int(os.environ['INFERBENCH_PROGRESS_FD']), b'one\\ntwo\\nhalf')"
        _, lines = run(*python(tell))

        assert lines == [b"one", b"two"]

    def test_of_much_output_the_end_is_kept(self) -> None:
        ended, _ = run(*python("print('x' * 1_000_000); print('the end')"))

        assert ended.output.endswith("x\nthe end\n")
        assert len(ended.output) == process.TAIL_BYTES

    def test_output_that_is_no_text_is_kept_readable(self) -> None:
        ended, _ = run("printf", r"\377ok")

        assert ended.output == "\N{REPLACEMENT CHARACTER}ok"

    def test_a_gigabyte_costs_the_watch_no_memory(self) -> None:
        """Neither one of output, nor one of progress without an end of line."""
        measured = """
            import os, resource, sys
            from inferbench_runner import process

            flood = "import os; [os.write(int({}), bytes(1 << 20)) for _ in range(1 << 10)]"
            watch = process.Watch(60, lambda line: None, lambda: False)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for where in ("1", "os.environ['INFERBENCH_PROGRESS_FD']"):
                ended = process.run([sys.executable, "-c", flood.format(where)], os.environ, watch)
                assert ended.status == 0
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
        done = subprocess.run(python(measured), capture_output=True, text=True, check=True)

        assert int(done.stdout) < 8 * 1024, "KiB"


class TestMemory:
    LIMIT_MIB = 1000

    EATER = """
        import time
        eaten = []
        while True:
            eaten.append(bytearray(b"x") * (16 << 20))
            time.sleep(0.01)
    """

    @pytest.mark.parametrize("how", ["itself", "its child"])
    def test_who_eats_memory_is_ended_before_the_limit(self, how) -> None:
        """The kernel knows what was really taken at most: it counts for whoever waits for a child."""
        measured = f"""
            import os, resource
            from inferbench_runner import process

            eater = {python(self.EATER)!r}
            if {how == "its child"}:
                eater = ("{sys.executable}", "-c", f"import subprocess; subprocess.run({{eater!r}})")
            ended = process.run(eater, os.environ, process.Watch(60, lambda line: None, lambda: False))
            print(ended.stopped, ended.peak_bytes >> 20, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
        """
        environment = {**os.environ, "INFERBENCH_MEMORY_LIMIT_MIB": str(self.LIMIT_MIB)}
        done = subprocess.run(python(measured), env=environment, capture_output=True, text=True, check=True)
        stopped, seen_mib, taken_mib = done.stdout.split()

        assert stopped == Stopped.MEMORY
        assert int(seen_mib) >= 0.95 * self.LIMIT_MIB
        assert int(taken_mib) <= self.LIMIT_MIB


class TestLifeline:
    CHILD = """
        import os, sys, time
        from inferbench_runner import lifeline
        lifeline.hold()
        print(os.getpid(), flush=True)
        time.sleep(60)
    """

    def started(self, tmp_path: Path, between: str = "") -> subprocess.Popen[str]:
        """Start a parent that starts CHILD and waits for it."""
        child = tmp_path / "child.py"
        child.write_text(textwrap.dedent(self.CHILD))
        parent = f"""
            import os, subprocess, sys, time
            from inferbench_runner import lifeline
            environment = {{**os.environ, **lifeline.environment()}}
            child = subprocess.Popen([sys.executable, "{child}"], env=environment, start_new_session=True)
            {between}
            child.wait()
        """
        return subprocess.Popen(python(parent), stdout=subprocess.PIPE, text=True)

    def test_a_child_dies_with_a_parent_that_is_killed(self, tmp_path) -> None:
        with self.started(tmp_path) as parent:
            child = int(parent.stdout.readline())

            parent.kill()

        wait_until(lambda: not is_alive(child), "the child to die", AT_ONCE)

    def test_a_child_dies_when_its_parent_was_gone_before_it_could_hold_on(self, tmp_path) -> None:
        with self.started(tmp_path, between="os._exit(0)") as parent:
            parent.wait()

            assert parent.stdout.read() == "", "it did not come to say its process id"

    def test_without_a_parent_to_die_with_nothing_happens(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != PARENT_VARIABLE}
        code = "from inferbench_runner import lifeline; lifeline.hold(); print('alive')"

        done = subprocess.run(python(code), env=environment, capture_output=True, text=True, check=True)

        assert done.stdout == "alive\n"


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
