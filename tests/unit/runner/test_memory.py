from pathlib import Path

import pytest

from inferbench_runner import memory
from inferbench_runner.memory import MEBIBYTE, Usage

GIBIBYTE = 1024 * MEBIBYTE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 16 GiB with 12 left, on which process 10 holds 300 MiB, its child 200 and its grandchild 100."""
    write(tmp_path, "proc/meminfo", f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {12 << 20} kB\n")
    for pid, mebibytes, children in ((10, 300, "11"), (11, 200, "12"), (12, 100, ""), (77, 5_000, "")):
        write(tmp_path, f"proc/{pid}/status", status(mebibytes))
        write(tmp_path, f"proc/{pid}/task/{pid}/children", children)
    return tmp_path


def write(root: Path, path: str, text: object) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(str(text))


def status(mebibytes: int, shared: int = 0) -> str:
    """What /proc tells of a process that holds so much, and has a gigabyte of libraries and models mapped."""
    resident = {"VmRSS": mebibytes + shared + 1024, "RssAnon": mebibytes, "RssFile": 1024, "RssShmem": shared}
    return "".join(f"{name}:\t{size << 10} kB\n" for name, size in resident.items())


def a_cgroup(root: Path, limit: int, used: int, droppable: int = 0) -> None:
    write(root, "proc/self/cgroup", "0::/\n")
    for name, text in (
        ("cgroup.controllers", "memory\n"),
        ("memory.max", limit),
        ("memory.current", used),
        ("memory.stat", f"anon 1\ninactive_file {droppable}\nactive_file 0\n"),
    ):
        write(root, f"sys/fs/cgroup/{name}", text)


class TestUsage:
    def test_descendants_count(self, root):
        """A compiler runs as a child of a child."""
        usage = memory.usage(10, {}, root)

        assert usage == Usage(600 * MEBIBYTE, 16 * GIBIBYTE, 12 * GIBIBYTE, 16 * GIBIBYTE)

    def test_children_of_every_thread_count(self, root):
        write(root, "proc/12/task/99/children", "77")

        assert memory.usage(10, {}, root).taken == 5_600 * MEBIBYTE

    def test_shared_memory_counts_and_files_that_are_mapped_do_not(self, root):
        """The kernel drops pages of files before it kills anybody; those of shared memory it cannot drop."""
        write(root, "proc/10/status", status(300, shared=50))

        assert memory.usage(10, {}, root).taken == 650 * MEBIBYTE

    def test_where_only_the_sum_is_told_it_counts(self, root):
        write(root, "proc/12/status", f"VmRSS:\t{100 << 10} kB\n")

        assert memory.usage(10, {}, root).taken == 600 * MEBIBYTE

    def test_in_a_container_its_limit_counts_and_what_it_holds_beside_files_that_can_be_dropped(self, root):
        a_cgroup(root, limit=2 * GIBIBYTE, used=1_500 * MEBIBYTE, droppable=500 * MEBIBYTE)

        usage = memory.usage(10, {}, root)

        assert (usage.limit, usage.around_limit) == (2 * GIBIBYTE, 2 * GIBIBYTE)
        assert usage.around_left == 1_048 * MEBIBYTE

    def test_a_limit_above_the_machine_s_memory_is_none(self, root):
        a_cgroup(root, limit=64 * GIBIBYTE, used=0)

        assert memory.usage(10, {}, root).limit == 16 * GIBIBYTE

    @pytest.mark.parametrize(
        ("given", "limit"),
        [
            pytest.param("700", 700 * MEBIBYTE, id="a smaller limit holds"),
            pytest.param("99999", 16 * GIBIBYTE, id="nobody gets more than there is"),
            pytest.param("0", 16 * GIBIBYTE, id="zero is no limit"),
            pytest.param("much", 16 * GIBIBYTE, id="nor is what is no number"),
        ],
    )
    def test_the_environment_may_set_a_limit(self, root, given, limit):
        assert memory.usage(10, {memory.LIMIT: given}, root).limit == limit

    @pytest.mark.parametrize("pid", [pytest.param(99, id="the process has ended")])
    def test_of_a_process_that_is_gone_nothing_is_known(self, root, pid):
        assert memory.usage(pid, {}, root) is None

    def test_where_the_system_tells_nothing_nothing_is_known(self, tmp_path):
        assert memory.usage(10, {}, tmp_path) is None

    def test_a_child_that_ends_while_we_look_is_passed_over(self, root):
        write(root, "proc/12/task/12/children", "13 14")

        assert memory.usage(10, {}, root).taken == 600 * MEBIBYTE


class TestIsNearLimit:
    @pytest.mark.parametrize(
        ("taken", "around_left", "is_near"),
        [
            pytest.param(949, 5_000, False, id="there is room"),
            pytest.param(950, 5_000, True, id="95 % of its own limit"),
            pytest.param(10, 501, False, id="there is room around it"),
            pytest.param(10, 500, True, id="the others have taken 95 % of what is around"),
        ],
    )
    def test_it_is_near_at_95_percent(self, taken, around_left, is_near):
        usage = Usage(taken, limit=1_000, around_left=around_left, around_limit=10_000)

        assert usage.is_near_limit is is_near

    def test_what_is_left_is_the_nearer_of_both_limits(self):
        assert Usage(900, limit=1_000, around_left=5_000, around_limit=10_000).left == pytest.approx(50)
        assert Usage(10, limit=1_000, around_left=520, around_limit=10_000).left == pytest.approx(20)


def test_the_kernels_own_kills_are_counted(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 12\noom_kill 3\n")

    assert memory.kernel_kills(tmp_path) == 3
    assert memory.kernel_kills(tmp_path / "nowhere") == 0
