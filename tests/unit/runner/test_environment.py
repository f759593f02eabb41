import json
import platform
import subprocess
import sys
from dataclasses import replace

import pytest

from inferbench_runner import environment, gpu
from inferbench_runner.environment import Environment, Library
from tests.fake_cuda import H200_BYTES, FakeNvml

CPUINFO = """processor\t: 0
model name\t: AMD EPYC 9005
flags\t\t: fpu sse avx512_vnni avx2 hypervisor

processor\t: 1
model name\t: AMD EPYC 9005
flags\t\t: fpu sse avx512_vnni avx2 hypervisor
"""


def a_card(**answers):
    """The card that a stand-in for NVML describes."""
    (card,) = gpu.cards(FakeNvml(**answers))
    return card


def an_environment(**differences):
    machine = Environment(
        cpu_model="AMD EPYC 9005",
        cpu_flags=("avx2",),
        logical_cpus=8,
        affinity=(0, 1),
        quota_milli_cpus=2000,
        throttled_periods=0,
        threads_default=2,
        governor="performance",
        memory_bytes=2**34,
        memory_limit_bytes=2**33,
        load_average_milli=250,
        architecture="x86_64",
        kernel="6.18",
        container="kubernetes",
        python="3.11.7",
        libraries=(Library("torch", "2.15.0"),),
        gpus=(a_card(),),
    )
    return replace(machine, **differences)


def write(root, path, text):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


class TestDescribe:
    def test_it_reads_the_processor(self, tmp_path):
        write(tmp_path, "proc/cpuinfo", CPUINFO)
        write(tmp_path, "proc/self/status", "Cpus_allowed_list:\t1\n")

        machine = environment.describe(tmp_path)

        assert machine.cpu_model == "AMD EPYC 9005"
        assert machine.cpu_flags == ("avx2", "avx512_vnni")
        assert machine.logical_cpus == 2
        assert machine.affinity == (1,)

    def test_an_arm_processor_is_named_by_its_numbers(self, tmp_path):
        write(
            tmp_path,
            "proc/cpuinfo",
            "processor : 0\nFeatures : fp asimddp sve\nCPU implementer : 0x41\nCPU part : 0xd40\n",
        )

        machine = environment.describe(tmp_path)

        assert machine.cpu_model == "0x41 0xd40"
        assert machine.cpu_flags == ("asimddp", "sve")

    def test_a_container_tells_its_threads_and_how_often_its_quota_ran_out(self, tmp_path):
        """A quota of 1.5 CPUs of four is two threads."""
        write(tmp_path, "proc/self/status", "Cpus_allowed_list:\t0-3\n")
        write(tmp_path, "proc/self/cgroup", "0::/\n")
        write(tmp_path, "sys/fs/cgroup/cgroup.controllers", "cpu\n")
        write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")
        write(tmp_path, "sys/fs/cgroup/cpu.stat", "nr_periods 90\nnr_throttled 7\nthrottled_usec 12\n")

        machine = environment.describe(tmp_path)

        assert (machine.quota_milli_cpus, machine.threads_default, machine.throttled_periods) == (1500, 2, 7)

    def test_a_machine_without_proc_is_described_as_far_as_python_knows_it(self, tmp_path):
        machine = environment.describe(tmp_path)

        assert machine.cpu_model
        assert machine.logical_cpus >= 1
        assert machine.memory_bytes is None
        assert machine.python == platform.python_version()

    def test_the_hosts_name_is_nowhere(self):
        """Results are made to be shown around."""
        record = json.dumps(environment.describe().as_dict())

        assert len(platform.node()) < 4 or platform.node() not in record

    def test_what_is_installed_is_told_without_importing_it(self):
        code = (
            "import sys; from inferbench_runner import environment; environment.describe();"
            "print(sorted({'torch', 'onnxruntime', 'numpy', 'onnx'} & set(sys.modules)))"
        )

        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

        assert printed.strip() == "[]"


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        pytest.param(".dockerenv", "", "docker", id="docker leaves a file"),
        pytest.param("run/.containerenv", "", "podman", id="so does podman"),
        pytest.param(
            "proc/self/mountinfo",
            "9 1 8:1 /var/lib/kubelet/pods/1/etc-hosts /etc/hosts rw - ext4 /dev/sda rw\n",
            "kubernetes",
            id="a pod has its hosts file from the kubelet",
        ),
        pytest.param(
            "proc/self/mountinfo",
            "9 1 8:1 / /var/lib/kubelet/pods/1/volumes rw - tmpfs tmpfs rw\n",
            None,
            id="a node that runs pods is not one",
        ),
        pytest.param("proc/self/mountinfo", "9 1 8:1 / / rw - ext4 /dev/sda rw\n", None, id="a plain machine is none"),
    ],
)
def test_container(tmp_path, path, text, expected):
    write(tmp_path, path, text)

    assert environment.describe(tmp_path).container == expected


class TestFingerprint:
    @pytest.mark.parametrize(
        "difference",
        [
            pytest.param({"cpu_model": "Intel Xeon"}, id="another processor"),
            pytest.param({"cpu_flags": ("avx2", "amx_int8")}, id="other instructions"),
            pytest.param({"affinity": (0, 1, 2)}, id="more CPUs"),
            pytest.param({"quota_milli_cpus": None}, id="no quota"),
            pytest.param({"governor": "powersave"}, id="another governor"),
            pytest.param({"libraries": (Library("torch", "2.16.0"),)}, id="another version of a library"),
            pytest.param({"libraries": ()}, id="a library fewer"),
            pytest.param({"gpus": (replace(a_card(), driver="590.1"),)}, id="another driver"),
            pytest.param({"gpus": (a_card(ecc=[0, 0]),)}, id="memory without correction of errors"),
            pytest.param({"gpus": (a_card(mig=[1, 1]),)}, id="a card that is cut into slices"),
            pytest.param({"gpus": ()}, id="no GPU"),
            pytest.param({"python": "3.12.1"}, id="another Python"),
        ],
    )
    def test_what_makes_results_incomparable_changes_it(self, difference):
        assert an_environment(**difference).fingerprint != an_environment().fingerprint

    @pytest.mark.parametrize(
        "difference",
        [
            pytest.param({"affinity": (4, 5)}, id="other CPUs of the same kind"),
            pytest.param({"kernel": "6.19"}, id="another kernel"),
            pytest.param({"memory_bytes": 1}, id="other memory"),
            pytest.param({"load_average_milli": 9000}, id="other load"),
            pytest.param({"container": None}, id="no container"),
            pytest.param({"gpus": (a_card(limit_milliwatts=600_000),)}, id="another power limit, which a result tells"),
        ],
    )
    def test_what_leaves_them_comparable_does_not(self, difference):
        assert an_environment(**difference).fingerprint == an_environment().fingerprint

    def test_it_fits_into_a_result(self):
        assert len(an_environment().fingerprint) == environment.FINGERPRINT_DIGITS


def test_the_record_is_json_without_floats():
    def refuse(text):
        raise AssertionError(text)

    record = json.loads(json.dumps(an_environment().as_dict()), parse_float=refuse)

    assert record["libraries"] == {"torch": "2.15.0"}
    assert record["fingerprint"] == an_environment().fingerprint


def test_names_are_written_as_in_all_other_json():
    record = an_environment().as_dict()

    assert record["cpuModel"] == "AMD EPYC 9005"
    assert not [name for name in record if "_" in name]


@pytest.mark.parametrize(
    ("gpus", "affinity", "expected"),
    [
        pytest.param((), (3,), "AMD EPYC 9005, 1 CPU", id="a processor, and how much of it"),
        pytest.param(("A", "A", "B"), (0, 1), "2 x A, B, AMD EPYC 9005, 2 CPUs", id="GPUs come first"),
    ],
)
def test_the_hardware_in_a_few_words(gpus, affinity, expected):
    machine = an_environment(gpus=tuple(gpu.cards(FakeNvml(names=gpus))), affinity=affinity)

    assert machine.hardware == expected


def test_a_gpu_is_told_with_how_it_is_set_up():
    """With all that makes the same card faster or slower on the next machine, and nothing that says which one it is."""
    (told,) = an_environment().as_dict()["gpus"]

    assert told == {
        "name": "NVIDIA H200",
        "driver": "580.159.04",
        "memoryBytes": H200_BYTES,
        "powerLimitMilliwatts": 700_000,
        "smMaxMhz": 1980,
        "memoryMaxMhz": 3201,
        "ecc": "on",
        "persistence": "on",
        "mig": "off",
        "computeMode": "default",
    }
