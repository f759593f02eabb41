"""What a GPU can do at its best, measured once per card: `python -m inferbench_runner.probes ANSWER`, with PyTorch.

Here is also the supervisor's side of it and of the anchor probe. What both mean is judged in `guards`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from inferbench_contract.errors import EnvironmentFault
from inferbench_runner import artifacts, cuda, environment, lifeline, sinks
from inferbench_runner.clocks import HOST_CLOCK
from inferbench_runner.gpu import Card
from inferbench_runner.guards import Anchor, Roofline

ROOFLINE: Final = "roofline"
FILE: Final = "answer.json"

MATRIX_SIZE: Final = 8192
BANDWIDTH_BYTES: Final = 1 << 30
SECONDS_EACH: Final = 0.12
"""Seven measurements in about a second."""
CALLS_EACH: Final = 4
MIN_REPEATS: Final = 3


def roofline(
    torch: Any,
    place: str = "cuda",
    seconds_each: float = SECONDS_EACH,
    size: int = MATRIX_SIZE,
    size_bytes: int = BANDWIDTH_BYTES,
) -> Roofline:
    """Measure what the card can do: the best of many, on random numbers. Arithmetic that it lacks is left out."""
    wait = torch.cuda.synchronize if place == "cuda" else lambda: None
    copying = _best_seconds(_copy(torch, place, size_bytes), wait, seconds_each)
    rates = {}
    for name, make in _products(torch, place, size).items():
        with suppress(RuntimeError, NotImplementedError, AttributeError, TypeError):
            rates[name] = round(2 * size**3 / _best_seconds(make(), wait, seconds_each))
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size if place == "cuda" else 0
    return Roofline(round(2 * size_bytes / copying), l2_bytes, rates)


def anchor_command(answer: Path) -> Sequence[str]:
    """Return the command line of the anchor probe."""
    return sys.executable, "-m", "inferbench_runner.anchor", str(answer)


def roofline_command(answer: Path) -> Sequence[str]:
    """Return the command line of the probe that this module is."""
    return sys.executable, "-m", "inferbench_runner.probes", str(answer)


def read_anchor(answer: Path) -> Anchor | None:
    """Read what the anchor probe answered; None where it did not."""
    try:
        told = json.loads(answer.read_bytes())
        return Anchor(int(told["computeNanoseconds"]), int(told["copyNanoseconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_roofline(answer: Path) -> Roofline | None:
    """Read what the roofline probe answered; None where it did not."""
    try:
        told = json.loads(answer.read_bytes())
        rates = {str(name): int(rate) for name, rate in told["operationsPerSecond"].items()}
        return Roofline(int(told["bandwidthBytesPerSecond"]), int(told["l2Bytes"]), rates)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def roofline_of(card: Card, cache: Path, run: Callable[[Sequence[str]], object]) -> Roofline | None:
    """Return the limits of this very card, from the cache or by letting `run` start the probe; None where it fails."""
    versions = {found.name: found.version for found in environment.installed(("torch",))}
    name = artifacts.key({"uuid": card.uuid, "driver": card.driver, "power": card.power_limit_milliwatts, **versions})

    def build(folder: Path) -> None:
        run(roofline_command(folder / FILE))
        if read_roofline(folder / FILE) is None:
            raise FileNotFoundError(folder / FILE)

    try:
        return read_roofline(artifacts.publish(cache, ROOFLINE, name, build) / FILE)
    except FileNotFoundError:
        return None


def main(arguments: Sequence[str]) -> int:
    """Measure the card and write what it can do; 0 if that went well."""
    lifeline.hold()
    try:
        cuda.require_driver()
        import torch

        limits = roofline(torch)
    except (EnvironmentFault, RuntimeError, ImportError) as error:
        print(error, file=sys.stderr)  # noqa: T201 (the supervisor keeps it)
        return 1
    answer = {
        "bandwidthBytesPerSecond": limits.bandwidth_bytes_per_second,
        "l2Bytes": limits.l2_bytes,
        "operationsPerSecond": dict(limits.operations_per_second),
    }
    sinks.write_whole(Path(arguments[0]), json.dumps(answer).encode())
    return 0


def _copy(torch: Any, place: str, size_bytes: int) -> Callable[[], Any]:
    source = torch.empty(size_bytes, dtype=torch.uint8, device=place).random_(0, 255)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _products(torch: Any, place: str, size: int) -> Mapping[str, Callable[[], Callable[[], Any]]]:
    """Return, for each kind of arithmetic, a function that makes two matrices and returns their product's call."""

    def floating(dtype: Any, *, tf32: bool = False) -> Callable[[], Any]:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left, right = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
        return lambda: torch.mm(left, right)

    def whole() -> Callable[[], Any]:
        left, right = (torch.randint(-127, 127, (size, size), dtype=torch.int8, device=place) for _ in range(2))
        return lambda: torch._int_mm(left, right.t())  # noqa: SLF001 (the only int8 product that PyTorch has)

    def eight() -> Callable[[], Any]:
        left, right = (torch.randn(size, size, device=place).to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.ones((), device=place)
        scaled = torch._scaled_mm  # noqa: SLF001 (the only fp8 product that PyTorch has)
        return lambda: scaled(left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return {
        "fp32": lambda: floating(torch.float32),
        **({"tf32": lambda: floating(torch.float32, tf32=True)} if place == "cuda" else {}),
        "fp16": lambda: floating(torch.float16),
        "bf16": lambda: floating(torch.bfloat16),
        "int8": whole,
        "fp8": eight,
    }


def _best_seconds(call: Callable[[], Any], wait: Callable[[], None], seconds: float) -> float:
    """Return the shortest time of a call among several in a row: a limit is what the card can do at its best."""
    call()
    wait()
    best, repeats, end_ns = float("inf"), 0, HOST_CLOCK() + round(seconds * 1e9)
    while repeats < MIN_REPEATS or HOST_CLOCK() < end_ns:
        begin_ns = HOST_CLOCK()
        for _ in range(CALLS_EACH):
            call()
        wait()
        best, repeats = min(best, (HOST_CLOCK() - begin_ns) / CALLS_EACH / 1e9), repeats + 1
    return best


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
