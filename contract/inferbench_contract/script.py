"""The script of the `fake` backend: latencies with every kind of noise that real ones have, and faults to order.

It stands under `spec.backendOptions.fake`. The backend is part of the product: demonstrations, tests of bad days and
clusters without a GPU run the whole of inferbench with it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from inferbench_contract.fields import Model
from inferbench_contract.words import Precision


class Fault(StrEnum):
    """What goes wrong in a scripted cell."""

    CRASH = "crash"
    """The process ends by SIGSEGV."""
    HANG = "hang"
    """A call never returns."""
    SLOW = "slow"
    """Every call takes ten times as long."""
    EAT_MEMORY = "eat-memory"
    """The process allocates until somebody stops it."""
    OUT_OF_MEMORY = "out-of-memory"
    """The library reports that it has no memory left."""
    GARBAGE = "garbage"
    """The process writes something that is no result."""
    NO_RESULT = "no-result"
    """The process exits 0 and leaves nothing."""
    FLOOD = "flood"
    """The process prints a gigabyte and then works."""
    RAISE = "raise"
    """The library raises an error."""
    EXIT = "exit"
    """The process exits with status 7."""
    UNSUPPORTED = "unsupported"
    FELL_BACK = "fell-back"
    INACCURATE = "inaccurate"
    """The outputs are wrong by a third."""
    NOT_FINITE = "not-finite"
    """One output is NaN."""
    ENVIRONMENT = "environment"
    """The machine lacks something (exit status 44)."""


class ScriptedFault(Model):
    """A fault, and the cells and rounds that have it; what is not given matches all."""

    fault: Fault
    precision: Precision | None = None
    batch_size: int | None = Field(default=None, ge=1, le=65_536)
    round: int | None = Field(default=None, ge=0, le=99)


Percent = Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3})?%$", max_length=8)]
Factor = Annotated[str, Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,3})?x$", max_length=9)]


class Script(Model):
    """How long calls of the fake backend take: `call + batch size * item` over the precision's speedup, with noise."""

    seed: int = Field(default=1, ge=0, le=2**31)
    call_microseconds: int = Field(default=1_000, ge=0, le=10**9)
    """Cost of a call whatever its batch size."""
    item_microseconds: int = Field(default=250, ge=0, le=10**9)
    """Cost of each input of the batch."""
    speedups: dict[Precision, Factor] = Field(default_factory=dict, max_length=16)
    """How much faster a precision is than fp32; one that is not named is as fast."""
    process_sd: Percent = "1%"
    """Standard deviation from process to process (its logarithm), kept for all calls of a process."""
    drift_sd: Percent = "0%"
    """Standard deviation from round to round, shared by all strategies of a round."""
    call_sd: Percent = "2%"
    """Standard deviation from call to call."""
    autocorrelation: Percent = "50%"
    """Correlation of a call with the one before."""
    warmup_calls: int = Field(default=3, ge=0, le=10**6)
    """So many first calls take three times as long."""
    real_time: bool = False
    """Sleep for as long as a call takes, instead of only saying so."""
    start_seconds: int = Field(default=0, ge=0, le=3600)
    """Sleep so long before the first call, as if loading or compiling."""
    faults: tuple[ScriptedFault, ...] = Field(default=(), max_length=64)

    def fault_of(self, precision: Precision, batch_size: int, round_: int) -> Fault | None:
        """Return the first fault that matches a cell in a round."""
        return next((f.fault for f in self.faults if _matches(f, precision, batch_size, round_)), None)


def _matches(fault: ScriptedFault, precision: Precision, batch_size: int, round_: int) -> bool:
    pairs = ((fault.precision, precision), (fault.batch_size, batch_size), (fault.round, round_))
    return all(wanted is None or wanted == found for wanted, found in pairs)


def share(text: str) -> float:
    """Read a percentage that the pattern has checked: `2.5%` is 0.025."""
    return float(text.removesuffix("%")) / 100
