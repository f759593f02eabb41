"""What each doubt means and what to do about it, in words for people: the terminal, the report, the documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inferbench_contract.cells import Row
from inferbench_contract.words import Device, Doubt, ThrottleReason


@dataclass(frozen=True, slots=True)
class Explanation:
    """A sentence on what was seen and a sentence on what helps."""

    meaning: str
    advice: str
    on_cpu: str = ""
    """The meaning where no GPU is measured, if it has other words then."""


EXPLANATIONS: Mapping[Doubt, Explanation] = {
    Doubt.UNSETTLED: Explanation(
        "The calls had not settled when the warm-up had to end, so the first timed ones may be slower than later ones.",
        "Raise measurement.warmupMaxSeconds if fewer than 20 calls fit into it (it is 8 where the file is silent); "
        "shorter calls do not settle where something else disturbs them.",
    ),
    Doubt.THROTTLED: Explanation(
        "The processor or the GPU was slowed down while this was measured: a CPU quota ran out, or clocks were lowered "
        "for heat or power.",
        "Give the container whole CPUs (requests equal to limits) and as many threads as it has CPUs; let the machine "
        "cool down, or raise its power limit.",
        on_cpu="The processor was slowed down while this was measured: a CPU quota ran out.",
    ),
    Doubt.DRIFTED: Explanation(
        "The last third of a round's calls took clearly longer or shorter than its first third, calls back to back "
        "took over 1.5 times as long as single ones, or, on a GPU, a fixed piece of work took another time after the "
        "cell than before it: the machine changed.",
        "Look for work that came and went on this machine, heat, or clocks that were still rising; then measure again "
        "with more rounds.",
        on_cpu="The last third of a round's calls took clearly longer or shorter than its first third, or calls back "
        "to back took over 1.5 times as long as single ones: the machine changed.",
    ),
    Doubt.NOISY_NEIGHBOUR: Explanation(
        "Other processes or other virtual machines took more than 5% of this machine's CPU time meanwhile, or others "
        "used the GPU.",
        "Stop what else runs here, or take a machine of its own; more rounds help if the neighbours come and go.",
        on_cpu="Other processes or other virtual machines took more than 5% of this machine's CPU time meanwhile.",
    ),
    Doubt.LAUNCH_BOUND: Explanation(
        "Starting the work took the host more than 80% of the time the GPU needed for it: this measures the host's "
        "launches as much as the GPU.",
        "Try a larger batch, or a backend that launches everything at once (CUDA graphs): torch-compile-max-autotune, "
        "tensorrt with cudaGraph.",
    ),
    Doubt.FEW_SAMPLES: Explanation(
        "Fewer than 30 calls fitted into this round, so one slow call moves its median.",
        "Raise measurement.maxSecondsPerCell, or measure fewer large batches; short calls are few where something held "
        "this machine up.",
    ),
    Doubt.ABOVE_ROOFLINE: Explanation(
        "This is faster than this very GPU was measured to compute or to read, so something was not computed or not "
        "waited for.",
        "Do not use this number. Check that the backend returns the outputs and that its calls are waited for.",
    ),
    Doubt.GENERIC_KERNELS: Explanation(
        "TensorRT built this engine from its PTX library alone, not from the kernels that it has for this kind of GPU, "
        "and may be faster with those.",
        "Install the whole of TensorRT (pip install --force-reinstall tensorrt), with the builder resource of this "
        "GPU's architecture; then measure again.",
    ),
}


def explain(doubt: Doubt, device: Device, rows: Iterable[Row] = ()) -> str:
    """Say what was seen, how much it was at most in some cells where that is known, and what to do about it."""
    explanation = EXPLANATIONS[doubt]
    meaning = (explanation.on_cpu if device is Device.CPU else "") or explanation.meaning
    return f"{meaning}{_seen(doubt, tuple(rows))} {explanation.advice}"


def _seen(doubt: Doubt, rows: Sequence[Row]) -> str:
    others = max((share for row in rows for share in row.values("others_percent")), default=None)
    if doubt is Doubt.NOISY_NEIGHBOUR and others is not None:
        return f" They took up to {others}% of the CPU time."
    reasons = [reason for reason in ThrottleReason if any(reason in row.throttle_reasons for row in rows)]
    return f" The GPU's reasons: {', '.join(reasons)}." if doubt is Doubt.THROTTLED and reasons else ""
