"""What the GPU does meanwhile, from NVIDIA's management library: clocks, why they are low, heat, power, other users.

It is asked from the supervisor's process, never from the one that is measured. Readings carry the monotonic clock,
which all processes of a machine share, so that those of a cell's timed calls can be picked out afterwards. What they
mean is decided in `guards`.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from pydantic.alias_generators import to_camel

from inferbench_contract import hardware
from inferbench_runner.clocks import HOST_CLOCK, Clock

PERIOD_SECONDS: Final = 0.2
"""A cell's timed calls last 1 to 3 s, so that 5 to 15 readings tell of them; asking more often would disturb them."""

REASONS: Final = {
    1 << 0: "GpuIdle",
    1 << 1: "ApplicationsClocksSetting",
    1 << 2: "SwPowerCap",
    1 << 3: "HwSlowdown",
    1 << 4: "SyncBoost",
    1 << 5: "SwThermalSlowdown",
    1 << 6: "HwThermalSlowdown",
    1 << 7: "HwPowerBrakeSlowdown",
    1 << 8: "DisplayClockSetting",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, nvmlClocksEventReason*)."""

UUID_KINDS: Final = ("GPU", "MIG")
"""CUDA tells a UUID without saying whether it is that of a card or of a slice of one."""

UNKNOWN: Final = "unknown"
"""The name of a GPU that does not tell it: it is lost."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the GPU. None where this GPU, or this slice of one, does not tell."""

    at_ns: int
    """On the monotonic clock."""
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    reasons: tuple[str, ...] = ()
    """Why the clocks are lower than the highest; `GpuIdle` and what an administrator set are among them."""
    temperature_celsius: int | None = None
    power_milliwatts: int | None = None
    energy_millijoules: int | None = None
    """Counted since the driver was loaded; of the whole card, which says nothing about a slice of one."""
    memory_used_bytes: int | None = None
    """By anybody."""
    busy_percent: int | None = None
    """Share of the last second, or less, in which some kernel of anybody ran."""
    processes: int | None = None
    """How many processes compute on the card. Their numbers are left out: inside a container they are other ones."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU and how it is set up. None where it does not tell, or has no such thing."""

    name: str
    uuid: str
    driver: str
    memory_bytes: int | None
    power_limit_milliwatts: int | None
    sm_max_mhz: int | None
    memory_max_mhz: int | None
    ecc: str | None
    """`on` or `off`; a card with it has less memory and, where it is not built in, less bandwidth."""
    persistence: str | None
    """`off`: the driver is unloaded whenever nobody uses the GPU, and each cell pays for loading it."""
    mig: str | None
    """`slice`: one of several that share a card's power and heat; `on`: the card is cut but used whole; `off`."""
    compute_mode: str | None
    """`default`, or whether only one process may use it (`exclusive`) or none (`prohibited`)."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {to_camel(name): value for name, value in asdict(self).items()}

    @property
    def in_words(self) -> str:
        """Name it, with what is set on one card and otherwise on the next and decides how fast it is."""
        limit = self.power_limit_milliwatts
        settings = (
            "" if limit is None else f"{limit / 1000:.0f} W",
            "ECC off" if self.ecc == "off" else "",
            {"slice": "MIG slice", "on": "MIG on"}.get(self.mig or "", ""),
        )
        return hardware.of_gpu(self.name, self.driver, filter(None, settings))


def columns(readings: Sequence[Reading]) -> dict[str, list[Any]]:
    """Return readings as JSON holds many of them: a list for each thing that was read."""
    return {to_camel(each.name): [getattr(reading, each.name) for reading in readings] for each in fields(Reading)}


class Monitor:
    """An open connection to NVML for one GPU."""

    def __init__(self, library: Any, handle: Any, clock: Clock = HOST_CLOCK) -> None:
        self._library = library
        self._handle = handle
        self._clock = clock
        self._is_slice = bool(self._ask("nvmlDeviceIsMigDeviceHandle"))
        parent = self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle") if self._is_slice else None
        self._card = handle if parent is None else parent
        """Heat, power and clocks are the whole card's, and only it tells them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of NVML."""
        self._library.nvmlShutdown()

    def read(self) -> Reading:
        """Look at the GPU now."""
        library = self._library
        memory, busy = self._ask("nvmlDeviceGetMemoryInfo"), self._ask_card("nvmlDeviceGetUtilizationRates")
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return Reading(
            at_ns=self._clock(),
            sm_mhz=self._ask_card("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM),
            memory_mhz=self._ask_card("nvmlDeviceGetClockInfo", library.NVML_CLOCK_MEM),
            reasons=_named(self._reasons()),
            temperature_celsius=self._ask_card("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
            power_milliwatts=self._ask_card("nvmlDeviceGetPowerUsage"),
            energy_millijoules=None if self._is_slice else self._ask_card("nvmlDeviceGetTotalEnergyConsumption"),
            memory_used_bytes=None if memory is None else memory.used,
            busy_percent=None if busy is None else busy.gpu,
            processes=None if processes is None else len(processes),
        )

    def card(self) -> Card:
        """Say what it is and how it is set up."""
        library = self._library
        memory, mig = self._ask("nvmlDeviceGetMemoryInfo"), self._ask_card("nvmlDeviceGetMigMode")
        ecc, persistence = self._ask_card("nvmlDeviceGetEccMode"), self._ask_card("nvmlDeviceGetPersistenceMode")
        return Card(
            name=str(self._ask("nvmlDeviceGetName") or UNKNOWN),
            uuid=str(self._ask("nvmlDeviceGetUUID") or ""),
            driver=str(library.nvmlSystemGetDriverVersion()),
            memory_bytes=None if memory is None else memory.total,
            power_limit_milliwatts=self._ask_card("nvmlDeviceGetEnforcedPowerLimit"),
            sm_max_mhz=self._ask_card("nvmlDeviceGetMaxClockInfo", library.NVML_CLOCK_SM),
            memory_max_mhz=self._ask_card("nvmlDeviceGetMaxClockInfo", library.NVML_CLOCK_MEM),
            ecc=None if ecc is None else _on_or_off(ecc[0]),
            persistence=None if persistence is None else _on_or_off(persistence),
            mig="slice" if self._is_slice else None if mig is None else _on_or_off(mig[0]),
            compute_mode=self._compute_mode(),
        )

    def _compute_mode(self) -> str | None:
        library, mode = self._library, self._ask_card("nvmlDeviceGetComputeMode")
        names = {
            library.NVML_COMPUTEMODE_DEFAULT: "default",
            library.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: "exclusive",
            library.NVML_COMPUTEMODE_PROHIBITED: "prohibited",
        }
        return names.get(mode)

    def _reasons(self) -> int | None:
        """Read the bits; drivers before 535 know the call by its old name."""
        new = self._ask_card("nvmlDeviceGetCurrentClocksEventReasons")
        found: int | None = self._ask_card("nvmlDeviceGetCurrentClocksThrottleReasons") if new is None else new
        return found

    def _ask(self, call: str, *arguments: Any) -> Any:
        return self._call(call, self._handle, *arguments)

    def _ask_card(self, call: str, *arguments: Any) -> Any:
        return self._call(call, self._card, *arguments)

    def _call(self, call: str, *arguments: Any) -> Any:
        """Return the answer, None where the GPU has none. That a GPU is lost is for the cell to tell."""
        try:
            return getattr(self._library, call)(*arguments)
        except (self._library.NVMLError, AttributeError):
            return None


class Sampler:
    """Reads the GPU again and again, in a thread of the supervisor, for as long as the `with` lasts."""

    def __init__(self, read: Callable[[], Reading], period_seconds: float = PERIOD_SECONDS) -> None:
        self._read = read
        self._period_seconds = period_seconds
        self._readings: list[Reading] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="inferbench-gpu", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def readings(self) -> Sequence[Reading]:
        """What was read so far, in order."""
        return tuple(self._readings)

    def _sample(self) -> None:
        """Read at the beginning, then again and again, and at the end."""
        while True:
            is_last = self._is_over.is_set()
            self._readings.append(self._read())
            if is_last:
                return
            self._is_over.wait(self._period_seconds)


def nvml() -> Any | None:
    """Return NVIDIA's management library; None where its Python package is not installed."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def cards(library: Any | None) -> Sequence[Card]:
    """Ask NVML for all GPUs; none where there is no NVML, no driver or no device, or one of them is lost."""
    if library is None:
        return ()
    try:
        library.nvmlInit()
    except library.NVMLError:
        return ()
    try:
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        found = [Monitor(library, handle).card() for handle in handles]
    except library.NVMLError:
        return ()
    finally:
        library.nvmlShutdown()
    return found if all(card.name != UNKNOWN for card in found) else ()


def open_monitor(uuid: str, library: Any | None = None, clock: Clock = HOST_CLOCK) -> Monitor | None:
    """Return NVML's view of the GPU that CUDA knows by this UUID; None where NVML is not installed or cannot find it.

    By UUID, because CUDA and NVML number GPUs each in its own order, and CUDA_VISIBLE_DEVICES changes only CUDA's.
    """
    library = nvml() if library is None else library
    if library is None:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    for kind in UUID_KINDS:
        try:
            return Monitor(library, library.nvmlDeviceGetHandleByUUID(f"{kind}-{uuid}"), clock)
        except library.NVMLError:
            continue
    library.nvmlShutdown()
    return None


def _named(bits: int | None) -> tuple[str, ...]:
    """Name the bits that are set; unknown ones are newer than this list, and told as numbers."""
    if bits is None:
        return ()
    known = [name for bit, name in REASONS.items() if bits & bit]
    rest = bits & ~sum(REASONS)
    return (*known, f"0x{rest:x}") if rest else tuple(known)


def _on_or_off(value: int) -> str:
    return "on" if value else "off"
