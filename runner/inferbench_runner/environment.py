"""What machine this is and what is installed on it: what two results must share to be compared.

Imports none of the libraries that it names. The host's name is left out: results are made to be shown around.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from inferbench_runner import artifacts, circumstances, gpu
from inferbench_runner.gpu import Card

LIBRARIES = (
    "inferbench",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "openvino",
    "tensorrt",
    "tensorrt-cu12-bindings",
    "tensorrt-cu13-bindings",
    "torch",
    "torchao",
    "torchvision",
    "triton",
)
"""Distributions that decide how fast a cell is, or what exactly it computes."""

CPU_FLAGS = (
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
    "amx_tile",
    "asimddp",
    "avx2",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx512f",
    "avx_vnni",
    "bf16",
    "fma",
    "i8mm",
    "sve",
)
"""Instructions that the libraries choose their kernels by (x86 and Arm, as /proc/cpuinfo spells them)."""

FINGERPRINT_DIGITS = 16

CONTAINER_MARKS = (("kubelet/pods", "kubernetes"), ("/docker/", "docker"), ("containerd", "containerd"))
"""What the mounts of `/` and `/etc/hosts` tell about who made them, in /proc/self/mountinfo."""


@dataclass(frozen=True, slots=True)
class Library:
    """An installed distribution."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Environment:
    """A machine and what is installed on it. None where the system does not tell."""

    cpu_model: str
    cpu_flags: tuple[str, ...]
    logical_cpus: int
    affinity: tuple[int, ...]
    quota_milli_cpus: int | None
    throttled_periods: int | None
    """In which that quota ran out, since the container was started; None without one."""
    threads_default: int
    """What each backend gets where the benchmark does not say `cpu.threads`."""
    governor: str | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    load_average_milli: int | None
    """Of the last minute, when this was written down."""
    architecture: str
    kernel: str
    container: str | None
    python: str
    libraries: tuple[Library, ...]
    gpus: tuple[Card, ...]

    @property
    def hardware(self) -> str:
        """Name what computes, for people: the GPUs, the processor, and how many of its CPUs may be used."""
        counted = Counter(card.name for card in self.gpus)
        named = [f"{count} x {name}" if count > 1 else name for name, count in counted.items()]
        cpus = "1 CPU" if len(self.affinity) == 1 else f"{len(self.affinity)} CPUs"
        return ", ".join([*named, self.cpu_model, cpus])

    @property
    def fingerprint(self) -> str:
        """Short hash of what must be equal for numbers to be compared.

        Not in it: which CPUs, kernel, memory, load, throttling; nor the power limit of a GPU, which some drivers move
        all the time (a notebook shares it with the processor): it stands beside the name of the GPU in each result.
        """
        decisive = {
            "architecture": self.architecture,
            "cpu": [self.cpu_model, self.cpu_flags],
            "cpus": [len(self.affinity), self.quota_milli_cpus, self.governor],
            "python": self.python,
            "libraries": [[library.name, library.version] for library in self.libraries],
            "gpus": [[card.name, card.driver, card.ecc, card.mig] for card in self.gpus],
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:FINGERPRINT_DIGITS]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it: camelCase names, lists, texts and whole numbers, the fingerprint among them."""
        record = {
            **asdict(self),
            "libraries": {library.name: library.version for library in self.libraries},
            "gpus": [_shown(card) for card in self.gpus],
            "hardware": self.hardware,
            "fingerprint": self.fingerprint,
        }
        return {to_camel(name): list(value) if isinstance(value, tuple) else value for name, value in record.items()}


def describe(root: Path = circumstances.ROOT) -> Environment:
    """Describe this machine."""
    cpuinfo = circumstances.read_text(root / "proc/cpuinfo")
    quota = circumstances.quota_milli_cpus(root)
    return Environment(
        cpu_model=_cpu_model(cpuinfo),
        cpu_flags=cpu_flags(root),
        logical_cpus=_count(cpuinfo, "processor") or len(circumstances.affinity(root)),
        affinity=circumstances.affinity(root),
        quota_milli_cpus=quota,
        throttled_periods=None if quota is None else circumstances.snapshot(root).throttled_periods,
        threads_default=circumstances.threads_default(root),
        governor=circumstances.governor(root),
        memory_bytes=circumstances.memory_total_bytes(root),
        memory_limit_bytes=circumstances.memory_limit_bytes(root),
        load_average_milli=circumstances.load_average_milli(root),
        architecture=platform.machine(),
        kernel=platform.release(),
        container=_container(root),
        python=platform.python_version(),
        libraries=tuple(installed(LIBRARIES)),
        gpus=tuple(gpu.cards(gpu.nvml())),
    )


def cpu_flags(root: Path = circumstances.ROOT) -> tuple[str, ...]:
    """Return those of CPU_FLAGS that the processor has."""
    flags = set(_value(circumstances.read_text(root / "proc/cpuinfo"), "flags", "Features").split())
    return tuple(flag for flag in CPU_FLAGS if flag in flags)


def has_any(flags: Collection[str], found: Collection[str] | None = None) -> bool:
    """Tell whether a processor, of which these flags were found (this one), has any of the instructions."""
    return not set(flags).isdisjoint(cpu_flags() if found is None else found)


def installed(names: Iterable[str]) -> Iterable[Library]:
    """Yield those of the distributions that are installed, without importing them."""
    for name in names:
        try:
            yield Library(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            continue


def makers(modules: Sequence[str], libraries: Iterable[str]) -> dict[str, Any]:
    """Tell with what something is made, for the key that it is kept under: our own code as it is, and libraries."""
    files = [Path(spec.origin) for name in modules if (spec := find_spec(name)) and spec.origin]
    versions = {library.name: library.version for library in installed(libraries)}
    return {"code": [artifacts.digest(file) for file in files], "versions": versions}


def _shown(card: Card) -> dict[str, Any]:
    """Return a GPU as JSON holds it, without what tells it from others of its kind: as with the host's name."""
    return {name: value for name, value in card.as_dict().items() if name != "uuid"}


def _cpu_model(cpuinfo: str) -> str:
    """Name the processor; Arm names a number of its maker and a number of its part."""
    part = " ".join(filter(None, (_value(cpuinfo, "CPU implementer"), _value(cpuinfo, "CPU part"))))
    return _value(cpuinfo, "model name") or part or platform.processor() or platform.machine()


def _value(cpuinfo: str, *names: str) -> str:
    """Return the first value that has one of the names; empty when none has."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() in names), "")


def _count(cpuinfo: str, name: str) -> int:
    return sum(line.partition(":")[0].strip() == name for line in cpuinfo.splitlines())


def _container(root: Path) -> str | None:
    """Name what kind of container this is; None when it does not look like one."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    mounts = (line.split() for line in circumstances.read_text(root / "proc/self/mountinfo").splitlines())
    own = " ".join(" ".join(fields) for fields in mounts if fields[4] in ("/", "/etc/hosts"))
    return next((kind for mark, kind in CONTAINER_MARKS if mark in own), None)
