import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_runner import circumstances
from inferbench_runner.circumstances import Disturbance, Snapshot

V2 = "sys/fs/cgroup/"


def write(root, path, text):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def a_process(root, name, pid, parent, *ticks):
    """Write /proc/<name>/stat: fields 14 to 17 are user, system, and those of the children that were waited for."""
    between = "0 " * 9
    write(root, f"proc/{name}/stat", f"{pid} (a (odd) name) S {parent} {between}{' '.join(map(str, ticks))} 20 0\n")


def a_cgroup_v2(root, own="/"):
    """Make the unified hierarchy with this process in `own`."""
    write(root, "proc/self/cgroup", f"0::{own}\n")
    write(root, V2 + "cgroup.controllers", "cpu memory\n")
    (root / V2 / own.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return root


class TestSnapshot:
    def test_it_adds_up_the_machine_and_our_own_processes(self, tmp_path):
        write(tmp_path, "proc/stat", "cpu  100 10 50 800 5 2 3 30 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
        a_process(tmp_path, "self", 42, 1, 5, 6, 7, 8)
        a_process(tmp_path, "42", 42, 1, 5, 6, 7, 8)
        a_process(tmp_path, "43", 43, 42, 100, 0, 0, 0)
        a_process(tmp_path, "44", 44, 43, 1000, 0, 0, 0)
        a_process(tmp_path, "45", 45, 1, 10_000, 0, 0, 0)

        seen = circumstances.snapshot(tmp_path)

        assert seen == Snapshot(total_ticks=1000, busy_ticks=165, steal_ticks=30, own_ticks=26 + 100 + 1000)

    def test_guest_time_is_not_counted_twice(self, tmp_path):
        """The last two columns of /proc/stat are part of the first two: proc_stat(5)."""
        write(tmp_path, "proc/stat", "cpu  100 0 0 0 0 0 0 0 100 0\n")

        assert circumstances.snapshot(tmp_path).total_ticks == 100

    def test_a_machine_that_tells_nothing_was_not_seen_to_do_anything(self, tmp_path):
        assert circumstances.snapshot(tmp_path) == Snapshot()

    def test_a_process_that_ends_while_we_look_is_passed_over(self, tmp_path):
        a_process(tmp_path, "self", 42, 1, 5, 6, 7, 8)
        (tmp_path / "proc/77").mkdir()
        write(tmp_path, "proc/78/stat", "")

        assert circumstances.snapshot(tmp_path).own_ticks == 26

    def test_throttling_is_added_up_from_our_cgroup_to_the_root(self, tmp_path):
        a_cgroup_v2(tmp_path, "/pod/container")
        write(tmp_path, V2 + "pod/container/cpu.stat", "usage_usec 9\nnr_throttled 3\nthrottled_usec 400\n")
        write(tmp_path, V2 + "pod/cpu.stat", "usage_usec 9\nnr_throttled 1\nthrottled_usec 50\n")
        write(tmp_path, V2 + "other/cpu.stat", "nr_throttled 100\nthrottled_usec 100\n")

        seen = circumstances.snapshot(tmp_path)

        assert (seen.throttled_periods, seen.throttled_us) == (4, 450)

    def test_version_1_counts_throttled_time_in_nanoseconds(self, tmp_path):
        write(tmp_path, "proc/self/cgroup", "2:cpu,cpuacct:/job\n1:memory:/\n")
        write(tmp_path, V2 + "cpu/job/cpu.stat", "nr_periods 10\nnr_throttled 2\nthrottled_time 7000000\n")

        seen = circumstances.snapshot(tmp_path)

        assert (seen.throttled_periods, seen.throttled_us) == (2, 7000)


class TestDifference:
    def test_what_is_busy_and_not_ours_is_others(self):
        before = Snapshot(1000, 100, 10, 50, 1, 5)
        after = Snapshot(2000, 700, 15, 550, 3, 25)

        seen = circumstances.difference(before, after)

        assert seen == Disturbance(1000, others_ticks=100, steal_ticks=5, throttled_periods=2, throttled_us=20)

    @given(st.lists(st.integers(0, 10**9), min_size=12, max_size=12))
    def test_counters_that_do_not_fit_together_never_make_less_than_nothing(self, numbers):
        seen = circumstances.difference(Snapshot(*numbers[:6]), Snapshot(*numbers[6:]))

        assert min(seen.total_ticks, seen.others_ticks, seen.steal_ticks, seen.throttled_us) >= 0


class TestThreads:
    @pytest.mark.parametrize(
        ("allowed", "quota", "expected"),
        [
            pytest.param("0-7", "max 100000", 8, id="all CPUs that we may use"),
            pytest.param("0-3,8", "max 100000", 5, id="which need not be in a row"),
            pytest.param("0-7", "200000 100000", 2, id="within the quota"),
            pytest.param("0-7", "150000 100000", 2, id="of which a part of a CPU counts as one"),
            pytest.param("0-7", "1000 100000", 1, id="at least one"),
            pytest.param("3", "400000 100000", 1, id="a quota is no CPU"),
        ],
    )
    def test_as_many_as_can_run_at_once(self, tmp_path, allowed, quota, expected):
        a_cgroup_v2(tmp_path)
        write(tmp_path, "proc/self/status", f"Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n")
        write(tmp_path, V2 + "cpu.max", quota + "\n")

        assert circumstances.threads_default(tmp_path) == expected

    def test_all_cpus_where_the_system_does_not_tell(self, tmp_path):
        assert circumstances.threads_default(tmp_path) == os.cpu_count()


class TestQuota:
    def test_the_tightest_one_around_us_counts(self, tmp_path):
        a_cgroup_v2(tmp_path, "/pod/container")
        write(tmp_path, V2 + "pod/container/cpu.max", "max 100000\n")
        write(tmp_path, V2 + "pod/cpu.max", "350000 100000\n")

        assert circumstances.quota_milli_cpus(tmp_path) == 3500

    def test_version_1_has_two_files(self, tmp_path):
        write(tmp_path, "proc/self/cgroup", "2:cpu:/job\n")
        write(tmp_path, V2 + "cpu/job/cpu.cfs_quota_us", "50000\n")
        write(tmp_path, V2 + "cpu/job/cpu.cfs_period_us", "100000\n")
        write(tmp_path, V2 + "cpu/cpu.cfs_quota_us", "-1\n")
        write(tmp_path, V2 + "cpu/cpu.cfs_period_us", "100000\n")

        assert circumstances.quota_milli_cpus(tmp_path) == 500

    def test_there_is_none_where_nobody_set_one(self, tmp_path):
        assert circumstances.quota_milli_cpus(a_cgroup_v2(tmp_path)) is None

    def test_a_container_that_is_told_its_path_on_the_host_finds_its_own_cgroup(self, tmp_path):
        """Without a cgroup namespace the path does not exist inside, and the mount's root is the container's cgroup."""
        write(tmp_path, "proc/self/cgroup", "0::/kubepods/pod1/abc\n")
        write(tmp_path, V2 + "cgroup.controllers", "cpu\n")
        write(tmp_path, V2 + "cpu.max", "200000 100000\n")

        assert circumstances.quota_milli_cpus(tmp_path) == 2000


class TestMemory:
    def test_the_limit_and_what_counts_against_it(self, tmp_path):
        """File pages go before anybody is killed, also those of a mapped model in use: they do not count."""
        a_cgroup_v2(tmp_path, "/pod/container")
        write(tmp_path, V2 + "pod/container/memory.max", "max\n")
        write(tmp_path, V2 + "pod/memory.max", "1000\n")
        write(tmp_path, V2 + "pod/memory.current", "700\n")
        write(tmp_path, V2 + "pod/memory.stat", "anon 500\ninactive_file 150\nactive_file 50\n")

        assert circumstances.memory_limit_bytes(tmp_path) == 1000
        assert circumstances.memory_used_bytes(tmp_path) == 500

    def test_version_1(self, tmp_path):
        write(tmp_path, "proc/self/cgroup", "4:memory:/job\n")
        write(tmp_path, V2 + "memory/job/memory.limit_in_bytes", "1000\n")
        write(tmp_path, V2 + "memory/job/memory.usage_in_bytes", "700\n")
        write(
            tmp_path, V2 + "memory/job/memory.stat", "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n"
        )
        write(tmp_path, V2 + "memory/memory.limit_in_bytes", "9223372036854771712\n")

        assert circumstances.memory_limit_bytes(tmp_path) == 1000
        assert circumstances.memory_used_bytes(tmp_path) == 550

    def test_a_container_sees_its_own_cgroup_as_the_root(self, tmp_path):
        """Of version 2, as Kubernetes makes them."""
        a_cgroup_v2(tmp_path, "/")
        write(tmp_path, V2 + "memory.max", "1000\n")
        write(tmp_path, V2 + "memory.current", "700\n")

        assert circumstances.memory_limit_bytes(tmp_path) == 1000
        assert circumstances.memory_used_bytes(tmp_path) == 700

    def test_a_container_of_version_1_is_told_its_path_on_the_host_and_finds_its_own_cgroup(self, tmp_path):
        own = "/kubepods/burstable/pod1/abc"
        write(tmp_path, "proc/self/cgroup", f"5:memory:{own}\n4:cpu,cpuacct:{own}\n0::{own}\n")
        write(tmp_path, V2 + "memory/memory.limit_in_bytes", "1000\n")
        write(tmp_path, V2 + "memory/memory.usage_in_bytes", "700\n")
        write(tmp_path, V2 + "cpu/cpu.cfs_quota_us", "200000\n")
        write(tmp_path, V2 + "cpu/cpu.cfs_period_us", "100000\n")

        assert circumstances.memory_limit_bytes(tmp_path) == 1000
        assert circumstances.memory_used_bytes(tmp_path) == 700
        assert circumstances.quota_milli_cpus(tmp_path) == 2000

    def test_without_a_limit_there_is_none(self, tmp_path):
        a_cgroup_v2(tmp_path)
        write(tmp_path, V2 + "memory.max", "max\n")

        assert circumstances.memory_limit_bytes(tmp_path) is None
        assert circumstances.memory_used_bytes(tmp_path) is None

    def test_the_machine_has_kibibytes(self, tmp_path):
        write(tmp_path, "proc/meminfo", "MemTotal:       16 kB\nMemFree:        1 kB\n")

        assert circumstances.memory_total_bytes(tmp_path) == 16_384


def test_load_is_counted_in_thousandths(tmp_path):
    write(tmp_path, "proc/loadavg", "1.25 0.24 0.10 1/91 4801\n")

    assert circumstances.load_average_milli(tmp_path) == 1250


def test_all_governors_of_the_cpus_that_we_may_use_are_named(tmp_path):
    write(tmp_path, "proc/self/status", "Cpus_allowed_list:\t0-1\n")
    for cpu, name in enumerate(("performance", "powersave", "schedutil")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", name + "\n")

    assert circumstances.governor(tmp_path) == "performance,powersave"


def test_nothing_is_known_of_an_empty_machine(tmp_path):
    assert circumstances.governor(tmp_path) is None
    assert circumstances.load_average_milli(tmp_path) is None
    assert circumstances.memory_total_bytes(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_tells_its_counters():
    before = circumstances.snapshot()
    while (after := circumstances.snapshot()).own_ticks < before.own_ticks + 3:
        sum(range(100_000))

    seen = circumstances.difference(before, after)

    assert seen.total_ticks > 0
    assert 1 <= circumstances.threads_default() <= os.cpu_count()
