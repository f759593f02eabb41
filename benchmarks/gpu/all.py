"""Everything that is to be measured on a GPU, in one go that can be broken off and taken up again.

    python benchmarks/gpu/all.py OUT [--profile short|full] [--minutes 20] [--steps article,bias] [--archive OUT.tar.gz]

Each step writes OUT/<step>.json and OUT/<step>.md when it is done, and OUT/report.md is made anew after each. A step
that is done is not done again; one that ran out of time goes on where it was. What must be reached (figures.py) is
judged in the JSON and at the end of what is printed.

    --profile short   2 rounds, 1 s a cell: meant to fit into 20 minutes of a large GPU, building and compiling included
    --profile full    4 rounds, 3 s a cell and 30 s in the article's comparison, all steps: hours
    --plan            write the benchmarks, and say how many cells and minutes they would be (assumed, not measured)
    --device cpu --backend fake   plays the whole of it anywhere, with scripted times

Exit status: 0 all is done; 1 a step failed; 4 a figure that must be reached is not; 75 the minutes are over.

    machine        the card, its settings, the fixed work and the limits that it was measured to have
    article        examples/article.yaml, its claims judged
    repeatability  A/A: the same cells in fresh processes
    bias           our times against a bare loop, and against TensorRT's profiler or trtexec
    compile        torch.compile and TensorRT's builder, cold and warm
    mlperf         int8 TensorRT at large batches against MLPerf's offline figure for the card
    share          how much of a run's time is measuring, with a warm cache
    resnet50, vit  both models at batches 1, 8, 32, 128, 256
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import figures
import runs
import yaml
from bias import loops_seconds

from inferbench_contract import document
from inferbench_contract import plan as plans
from inferbench_contract.result import CellResult
from inferbench_contract.words import Outcome
from inferbench_runner import artifacts, cuda, environment, gpu, probes, sweep
from inferbench_runner.task import CellTask

ROOT = Path(__file__).resolve().parents[2]

NOT_YET = 75
"""EX_TEMPFAIL of sysexits.h: the same command goes on."""

NOT_REACHED = 4
"""What `inferbench run` says of an expectation that does not hold: an answer, and no failure."""

MLPERF_OFFLINE = {
    "H200": 94_600,
    "GH200": 95_000,
    "H100 PCIe": 56_500,
    "H100 NVL": 60_600,
    "H100": 87_900,
    "L40S": 43_000,
    "A100-SXM4": 42_121,
    "A100-PCIE": 39_814,
    "A100 80GB PCIe": 39_814,
}
"""ResNet-50, int8, images a second for one GPU, by a part of the card's name, the longer ones first. From
mlcommons/inference_results_v4.1 (A100: v2.1); of several submissions the lowest (reference/benchtools.md 5)."""

REPEATED = ("torch-eager/fp16", "onnxruntime/fp16", "tensorrt/fp16")
"""A backend of each kind."""
MIN_PAIRS = 20
"""For a statement about 95 of 100."""
BARE_SECONDS = 60
"""Of a bare loop that our medians are judged by; a shorter one only shows the bias."""
BARE = (*REPEATED, "tensorrt/int8-static")
"""What is held against a bare loop: TensorRT's own figures are wanted at both precisions."""
SHARED = ("torch-compile/fp16", "onnxruntime/fp16", "tensorrt/fp16")
LONG_SECONDS = 30
"""For a cell that is measured for an answer and not for a look."""
REPEATED_BATCH = 8
"""Where a call is short enough to show the host and long enough to show the GPU."""
TENSORRT = ("tensorrt/fp16", "tensorrt/int8-static")

LADDER = (1, 8, 32, 128, 256)
LADDER_STRATEGIES = (
    "torch-eager/fp16",
    "torch-compile/fp16",
    "torch-compile-max-autotune/fp16",
    "onnxruntime/fp16",
    *TENSORRT,
)
LADDER_SECONDS = 7_200
"""For the five cells of a strategy in a round: max-autotune takes minutes to compile each."""

CARD_SECONDS = 120
MACHINE_SECONDS = 30
"""What describing the card takes: 7 s were seen, with its limits known already."""


@dataclass(frozen=True)
class Profile:
    """How long to look at each cell, and at what."""

    measurement: Mapping[str, int]
    article: Mapping[str, Any]
    """What is otherwise in the article's benchmark."""
    instead: Mapping[str, str]
    """Strategies of the article that are not measured, and of which other its claims are judged."""
    article_seconds: int
    """For each of the article's cells."""
    repeats: int
    """Rounds of the A/A step: half as many pairs for each cell. 0: the article's rounds are the pairs."""
    bare_seconds: float
    """Of the loops that our own is held against."""
    offline_batches: Sequence[int]
    steps: Sequence[str]


PROFILES = {
    "short": Profile(
        measurement={"rounds": 2, "maxSecondsPerCell": 1, "warmupMaxSeconds": 2},
        article={"batchSizes": (1, 8, 128), "precisions": ("fp32", "fp16")},
        instead={"tensorrt/fp32": "tensorrt/fp16"},
        article_seconds=1,
        repeats=0,
        bare_seconds=3,
        offline_batches=(256,),
        steps=("machine", "article", "repeatability", "bias", "compile", "mlperf", "share"),
    ),
    "full": Profile(
        measurement={"rounds": 4, "maxSecondsPerCell": 3, "warmupMaxSeconds": 8},
        article={},
        instead={},
        article_seconds=LONG_SECONDS,
        repeats=20,
        bare_seconds=60,
        offline_batches=(128, 256, 512, 1024),
        steps=("machine", "article", "repeatability", "bias", "compile", "mlperf", "share", "resnet50", "vit"),
    ),
}
"""Building and compiling are most of the short one's time, so it measures only what the article's claims speak of: no 8
bits (PyTorch's are Unsupported for ResNet-50, and TensorRT's are in `mlperf`), no batch 32, and TensorRT at fp16 alone,
which speaks for fp32 where the claim is that a batch of 8 takes no longer than one of 1."""


@dataclass(frozen=True)
class Call:
    """The command line."""

    asked: runs.Asked
    profile: Profile
    largest: float = math.inf
    """No larger batch sizes, but for the smallest of each step."""

    @property
    def out(self) -> Path:
        """Where everything goes."""
        return self.asked.out


@dataclass(frozen=True)
class Found:
    """What a step found: numbers, and lines of Markdown."""

    content: Mapping[str, Any]
    lines: Sequence[str]
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """What it found of what must be reached, in per cent; None: there was nothing to judge by."""


def machine(call: Call) -> Found:
    """Describe the card and find out what it can do."""
    told: dict[str, Any] = {"environment": environment.describe().as_dict()}
    if call.asked.device == "gpu":
        told |= card(call.out, cuda.require_driver())
    return Found(told, [f"* {name}: {value}" for name, value in flat(told)])


def card(out: Path, driver: cuda.Driver) -> dict[str, Any]:
    """Ask NVML, the anchor and the roofline probe."""
    told: dict[str, Any] = {"cudaVersion": driver.version}
    if (monitor := gpu.open_monitor(driver.uuid)) is not None:
        with monitor:
            described, reading = monitor.card(), monitor.read()
        limits = probes.roofline_of(described, artifacts.default_folder(os.environ), quietly)
        told |= {"card": described.as_dict(), "now": asdict(reading), "limits": limits and asdict(limits)}
    quietly(probes.anchor_command(out / "anchor.json"))
    anchor = probes.read_anchor(out / "anchor.json")
    return {**told, "anchor": anchor and asdict(anchor)}


def article_spec(call: Call) -> dict[str, Any]:
    """Return the article's benchmark as far as the profile measures it."""
    spec: dict[str, Any] = yaml.safe_load((ROOT / "examples/article.yaml").read_text())["spec"]
    whole = {**spec, **{name: list(values) for name, values in call.profile.article.items()}}
    instead = call.profile.instead
    left_out = [dict(zip(("backend", "precision"), text.split("/"), strict=True)) for text in instead]
    changed = {"expectations": [instead_of(claim, instead) for claim in whole["expectations"]]}
    return {**whole, **changed, **({"exclude": left_out} if left_out else {})}


def instead_of(claim: Mapping[str, Any], instead: Mapping[str, str]) -> dict[str, Any]:
    """Let a claim speak of what is measured instead, and say so in its name."""
    stand_ins = [instead[text] for text in sorted(runs.strategies(claim)) if text in instead]
    name = "-".join([claim["name"], *(text.partition("/")[2] for text in stand_ins)])
    return {**runs.renamed(claim, instead), "name": name}


def at_batches(claim: Mapping[str, Any], batches: Sequence[int]) -> dict[str, Any] | None:
    """Leave out batch sizes that are not measured; None where nothing is left of the claim."""
    if "batchSizes" not in claim:
        return dict(claim)
    kept = [size for size in claim["batchSizes"] if size in batches]
    return {**claim, "batchSizes": kept} if kept else None


def article(call: Call) -> Found:
    """Run the article's comparison and judge its claims."""
    folder = runs.run(call.asked, written(call, "article"))
    summary = runs.summary(folder)
    judged = [
        f"| {each['name']} | {each['judgement']} | {ratio(each, 'ratioMilli')} "
        f"| {ratio(each, 'lowMilli')} to {ratio(each, 'highMilli')} | {each.get('at', '')} |"
        for each in summary.get("expectations", ())
    ]
    claims = ["| claim | verdict | ratio | 95 % interval | decided at |", "| --- | --- | ---: | --- | --- |", *judged]
    warm_percent = runs.warm_share(folder)
    content = {"summary": summary, "cells": runs.cells(folder), "warmSharePercent": warm_percent}
    warm = [] if warm_percent is None else [f"With a warm cache: {warm_percent:.0f}% measuring."]
    lines = [*claims, "", *table(folder), "", *spent(summary), *warm]
    return Found(content, lines)


def repeated_spec(_: Call) -> dict[str, Any]:
    """Return the cells of the A/A step."""
    return runs.grid(REPEATED, [REPEATED_BATCH])


def repeatability(call: Call) -> Found:
    """Compare the medians of the same cells, each time in a fresh process."""
    medians = runs.round_medians(repeated(call))
    errors = {cell: [100 * abs(math.log(a / b)) for a, b in [*pairwise(found)][::2]] for cell, found in medians.items()}
    pooled = [error for found in errors.values() for error in found]
    if not pooled:
        raise RuntimeError("no cell was measured twice")
    answers = {cell: 100 * abs(math.log(even / odd)) for cell, found in medians.items() for even, odd in halves(found)}
    half, most = runs.quantile(pooled, 0.50), runs.quantile(pooled, 0.95)
    rows = [
        f"| {cell} | {len(e)} | {runs.quantile(e, 0.5):.2f} | {max(e):.2f} | {answers[cell]:.2f} |"
        for cell, e in errors.items()
        if e
    ]
    lines = [
        f"{len(pooled)} pairs: half differ by at most {half:.2f}%, 95 of 100 by at most {most:.2f}%.",
        "",
        "| cell | pairs | median, % | largest, % | medians of the even and odd rounds, % |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    told = {"pairs": len(pooled), "p50Percent": half, "p95Percent": most, "errorsPercent": errors}
    return Found(
        {**told, "answersPercent": answers}, lines, {"repeatability": most if len(pooled) >= MIN_PAIRS else None}
    )


def halves(rounds: Sequence[int]) -> Iterable[tuple[float, float]]:
    """Yield what two runs of half as many rounds, interleaved, would have answered; nothing of a single round."""
    if len(rounds) > 1:
        yield statistics.median(rounds[::2]), statistics.median(rounds[1::2])


def repeated(call: Call) -> Path:
    """Return the folder of a run that measured every cell more than once: one for this, or the article's."""
    if call.profile.repeats:
        return runs.run(call.asked, written(call, "repeatability"))
    if not (call.out / "article.json").exists():
        raise RuntimeError("its pairs are the article's rounds, and the article is not done")
    return call.out / "article"


def bias_spec(_: Call) -> dict[str, Any]:
    """Return the cells of the bias step."""
    return runs.grid(BARE, [1, REPEATED_BATCH])


def bias(call: Call) -> Found:
    """Compare our times with a bare loop's, in one process for each cell."""
    found = [compared(call, task) for task in tasks(call, written(call, "bias"))]
    rows = [
        f"| {each['cell']} | {us(each['bareMedianNanoseconds'])} | {each['biasPercent']:+.2f} "
        f"| {us(each['addedNanosecondsPerIteration'])} | {us(each.get('deviceMedianNanoseconds'))} "
        f"| {us(each.get('profilerMedianNanoseconds'))} | {us(each.get('trtexecMedianNanoseconds'))} |"
        for each in found
    ]
    lines = [
        f"Bare loops of {call.profile.bare_seconds:g} s.",
        "",
        "| cell | bare loop, us | ours, % | added per iteration, us | GPU, us | profiler, us | trtexec, us |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    engines = [error for each in found if (error := engine_error(each)) is not None]
    figures_ = {"bias": largest_bias(found, call.profile.bare_seconds), "engine": max(engines, default=None)}
    return Found({"cells": found}, lines, figures_)


def largest_bias(compared: Sequence[Mapping[str, Any]], bare_seconds: float) -> float | None:
    """Return by how many per cent a median differs from a bare loop's at most; None where that loop was too short."""
    biases = [abs(each["biasPercent"]) for each in compared]
    return max(biases, default=None) if bare_seconds >= BARE_SECONDS else None


def engine_error(compared: Mapping[str, Any]) -> float | None:
    """Return by how many per cent our time on the GPU differs from trtexec's, else from TensorRT's profiler's."""
    theirs = compared.get("trtexecMedianNanoseconds") or compared.get("profilerMedianNanoseconds")
    ours = compared.get("deviceMedianNanoseconds")
    return 100 * abs(ours / theirs - 1) if ours and theirs else None


def tasks(call: Call, file: Path) -> Sequence[CellTask]:
    """Let the supervisor prepare everything, and take the tasks that it would hand to cell processes."""
    plan, seen = plans.expand(document.read(file)), list[CellTask]()

    def keep(task: CellTask, *_: Any, **__: Any) -> CellResult:
        seen.append(task)
        return CellResult(task.batch_size, Outcome.UNSUPPORTED, "NotRun: only its task was wanted")

    place = sweep.Place(
        model_folder=call.out.absolute(),
        cache=artifacts.default_folder(os.environ),
        samples=None,
        logs=call.out / "bias-logs",
        tell=lambda _: None,
        is_asked_to_stop=lambda: time.monotonic() > call.asked.deadline,
    )
    sweep._run_cell = keep  # noqa: SLF001 (everything around it is to happen as ever)
    for each in plan.sweeps:
        sweep.run(plan, each, lambda _: None, place)
    return seen


def compared(call: Call, task: CellTask) -> dict[str, Any]:
    """Return what bias.py says of a cell; what was said before stays."""
    answer = call.out / "bias" / f"{task.backend}-{task.precision}-{task.batch_size}.json"
    if not answer.exists():
        if time.monotonic() > call.asked.deadline:
            raise runs.OutOfTime("bias is not complete")
        answer.parent.mkdir(exist_ok=True)
        task_file = answer.with_suffix(".task")
        result = answer.parent.absolute() / "result.json"
        task_file.write_text(task.model_copy(update={"result": result}).model_dump_json())
        script = Path(__file__).with_name("bias.py")
        command = [sys.executable, script, task_file, str(call.profile.bare_seconds), answer]
        subprocess.run(command, env=sweep.child_environment(task.threads), check=True)
    told: dict[str, Any] = json.loads(answer.read_text())
    return told


def compilation(call: Call) -> Found:
    """Read what compiling and building took in the article's run."""
    cells = [row for row in runs.cells(call.out / "article") if row["compile_cold_ms"] or row["compile_warm_ms"]]
    rows = [
        f"| {row['backend']}/{row['precision']}@{row['batch_size']} "
        f"| {seconds(row['compile_cold_ms'])} | {seconds(row['compile_warm_ms'])} |"
        for row in cells
    ]
    lines = ["| cell | from an empty cache, s | from a warm one, s |", "| --- | ---: | ---: |", *rows]
    return Found({"cells": cells}, lines)


def mlperf_spec(call: Call) -> dict[str, Any]:
    """Return the cells of the MLPerf step."""
    spec = runs.grid(["tensorrt/int8-static"], call.profile.offline_batches)
    objective = {"metric": "throughput"}
    return {**spec, "backendOptions": {"tensorrt": {"cudaGraph": True}}, "objective": objective}


def mlperf(call: Call) -> Found:
    """Find the best throughput of int8 TensorRT and hold it against MLPerf's."""
    folder = runs.run(call.asked, written(call, "mlperf"))
    cells = runs.cells(folder)
    best = max((int(row["throughput_milli_per_second"] or 0) // 1000 for row in cells), default=0)
    reference = offline_figure(json.dumps(runs.summary(folder)["hardware"]))
    share = offline_share(best, reference)
    known = "MLPerf has no figure for this card here" if reference is None else f"MLPerf has {reference:,}"
    lines = [*table(folder), "", f"Best: {best:,} images a second; {known}."]
    told = {"cells": cells, "best": best, "reference": reference, "sharePercent": share}
    return Found(told, lines, {"mlperf": share})


def offline_share(best: int, reference: int | None) -> float | None:
    """Return the per cent of MLPerf's figure that the best throughput is: 0 where every cell failed."""
    return None if reference is None else 100 * best / reference


def offline_figure(hardware: str) -> int | None:
    """Return MLPerf's figure for the card in a text; the longest name that is in it counts."""
    names = [name for name in MLPERF_OFFLINE if name in hardware]
    return MLPERF_OFFLINE[max(names, key=len)] if names else None


def share_spec(_: Call) -> dict[str, Any]:
    """Return cells that are measured for as long as the full profile measures the article's."""
    return runs.grid(SHARED, [REPEATED_BATCH])


def share(call: Call) -> Found:
    """Find out how much of a run's time is measuring once the cache is warm."""
    folder = runs.run(call.asked, written(call, "share"))
    found = runs.warm_share(folder)
    lines = [f"{LONG_SECONDS} s a cell: " + ("nothing was warm." if found is None else f"{found:.0f}% measuring.")]
    return Found({"warmSharePercent": found}, lines, {"share": found})


def ladder_spec(_: Call) -> dict[str, Any]:
    """Return every backend at 16 bits, and TensorRT at 8 too, at all batch sizes."""
    return {**runs.grid(LADDER_STRATEGIES, LADDER), "timeoutSecondsPerSweep": LADDER_SECONDS}


def ladder(call: Call, name: str) -> Found:
    """Climb the batch sizes with a model."""
    folder = runs.run(call.asked, written(call, name))
    summary = runs.summary(folder)
    return Found({"summary": summary, "cells": runs.cells(folder)}, [*table(folder), "", *spent(summary)])


STEPS: Mapping[str, Callable[[Call], Found]] = {
    "machine": machine,
    "article": article,
    "repeatability": repeatability,
    "bias": bias,
    "compile": compilation,
    "mlperf": mlperf,
    "share": share,
    "resnet50": lambda call: ladder(call, "resnet50"),
    "vit": lambda call: ladder(call, "vit"),
}

SPECS: Mapping[str, Callable[[Call], dict[str, Any]]] = {
    "article": article_spec,
    "repeatability": repeated_spec,
    "bias": bias_spec,
    "mlperf": mlperf_spec,
    "share": share_spec,
    "resnet50": ladder_spec,
    "vit": ladder_spec,
}

MODELS = {"mlperf": "resnet50", "resnet50": "resnet50", "vit": "vit_b_16"}
"""What a step measures whatever --model says."""


def is_a_run(call: Call, name: str) -> bool:
    """Tell whether a step measures anything itself."""
    return name in SPECS and (name != "repeatability" or call.profile.repeats > 0)


def written(call: Call, name: str) -> Path:
    """Write the benchmark of a step, at the batch sizes that were asked for."""
    changed = {
        "article": {"maxSecondsPerCell": call.profile.article_seconds},
        "repeatability": {"rounds": call.profile.repeats},
        "bias": {"rounds": 1},
        "share": {"maxSecondsPerCell": LONG_SECONDS, "rounds": 2},
    }
    spec = SPECS[name](call)
    sizes = [size for size in spec["batchSizes"] if size <= call.largest] or spec["batchSizes"][:1]
    claims = [kept for claim in spec.get("expectations", ()) if (kept := at_batches(claim, sizes))]
    spec |= {"batchSizes": sizes, "expectations": claims}
    return runs.write(call.asked, name, spec, model=MODELS.get(name), **changed.get(name, {}))


def quietly(command: Sequence[str]) -> None:
    """Run a probe; what it has no answer for stays open."""
    subprocess.run(command, check=False, timeout=CARD_SECONDS)


def table(folder: Path) -> list[str]:
    """Return the cells of a run as Markdown."""
    rows = [
        f"| {row['backend']}/{row['precision']} | {row['batch_size']} | {row['outcome']} "
        f"| {us(row['latency_median_ns'])} | {us(row['device_median_ns'])} | {us(row['enqueue_median_ns'])} "
        f"| {int(row['throughput_milli_per_second'] or 0) // 1000:,} | {row['doubts'] or row['reason'][:80]} |"
        for row in runs.cells(folder)
    ]
    head = "| strategy | batch | outcome | latency, us | GPU, us | enqueue, us | inputs/s | doubts or reason |"
    return [head, "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |", *rows]


def spent(summary: Mapping[str, Any]) -> list[str]:
    """Return where the time of a run went."""
    told = summary.get("seconds", {})
    whole = sum(told.values())
    parts = ", ".join(f"{name} {value} s" for name, value in told.items())
    return [f"{parts}: {100 * told.get('measuring', 0) / whole:.0f}% measuring"] if whole else []


def ratio(judged: Mapping[str, Any], name: str) -> str:
    """Write a ratio in thousandths."""
    return f"{judged[name] / 1000:.3f}" if judged.get(name) is not None else ""


def us(nanoseconds: Any) -> str:
    """Write nanoseconds as microseconds; nothing where there are none."""
    return f"{float(nanoseconds) / 1000:,.1f}" if nanoseconds not in (None, "") else ""


def seconds(milliseconds: str) -> str:
    """Write milliseconds as seconds; nothing where there are none."""
    return f"{float(milliseconds) / 1000:.1f}" if milliseconds else ""


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """List nested names with their values."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def do(call: Call, steps: Sequence[str]) -> int:
    """Do the steps that are not done; return the exit status."""
    failed = False
    for name in steps:
        if (call.out / f"{name}.json").exists():
            continue
        print(f"== {name}", flush=True)
        begin = time.monotonic()
        try:
            found = STEPS[name](call)
        except runs.OutOfTime as late:
            print(f"{late}: the minutes are over. The same command goes on.", file=sys.stderr)
            return NOT_YET
        except Exception as error:  # noqa: BLE001 (the next step may work, and a GPU is lent for minutes)
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
            failed = True
            continue
        keep(call, name, found, time.monotonic() - begin)
    reached = judgements(call.out)
    print("\n".join(figures.table(reached)))
    is_missed = any(each["reached"] is False for each in reached)
    return 1 if failed else NOT_REACHED if is_missed else 0


def keep(call: Call, name: str, found: Found, took_seconds: float) -> None:
    """Write what a step found, and the report of all."""
    out = call.out
    (out / f"{name}.md").write_text("\n".join([f"## {name}", "", *found.lines, ""]))
    judged = figures.judged(found.figures, is_played=call.asked.is_played)
    whole = {"step": name, "seconds": round(took_seconds), "figures": judged, **found.content}
    (out / f"{name}.json").write_text(json.dumps(whole, indent=1, default=str))
    pages = [(out / f"{each}.md").read_text() for each in STEPS if (out / f"{each}.md").exists()]
    (out / "report.md").write_text("\n".join([title(call), "", *figures.table(judgements(out)), "", *pages]))


def judgements(out: Path) -> list[figures.Judged]:
    """Return the figures of all steps that are done."""
    done = [json.loads((out / f"{each}.json").read_text()) for each in STEPS if (out / f"{each}.json").exists()]
    return [judged for each in done for judged in each["figures"].values()]


def title(call: Call) -> str:
    """Say what the numbers are of."""
    if call.asked.is_played:
        return "# Played by the fake backend: none of these numbers was measured"
    return f"# Measured on a {call.asked.device.upper()}"


def foresee(call: Call, steps: Sequence[str]) -> None:
    """Write the benchmarks of the steps and say what they would take."""
    foreseen = seconds_of(call, steps)
    for name in steps:
        cells = ""
        if is_a_run(call, name):
            plan = plans.expand(document.read(call.out / f"{name}.yaml"))
            cells = f"{len(plan.measurable_cells)} cells x {plan.rounds} rounds, "
        print(f"{name}: {cells}about {foreseen[name] / 60:.1f} minutes")
    print(f"about {sum(foreseen.values()) / 60:.1f} minutes in all, by assumed times to load, build and compile")


def seconds_of(call: Call, steps: Sequence[str]) -> dict[str, float]:
    """Write the benchmarks of the steps and estimate how long each takes, after those before it."""
    foreseen, seen = dict.fromkeys(steps, 0.0), set[str]()
    for name in steps:
        if is_a_run(call, name):
            timed = loops_seconds(call.profile.bare_seconds) if name == "bias" else None
            foreseen[name] = runs.seconds(written(call, name), seen, timed)
    if "machine" in foreseen:
        foreseen["machine"] = MACHINE_SECONDS
    return foreseen


def pack(out: Path, archive: Path) -> None:
    """Put everything but raw samples into one file, to be taken away."""
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(out.rglob("*")):
            if file.is_file() and "samples" not in file.parts:
                tar.add(file, file.relative_to(out.parent))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("out", type=Path)
    made.add_argument("--profile", choices=list(PROFILES), default="short")
    made.add_argument("--steps", help=f"of {', '.join(STEPS)}; default: the profile's")
    made.add_argument("--minutes", type=float, default=math.inf, help="stop in time, to be taken up again")
    made.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    made.add_argument("--backend", action="append", default=[], help="only this one, may be repeated")
    made.add_argument("--model", default="resnet50", help="of torchvision")
    made.add_argument("--weights", default="random", help="random, DEFAULT, or the path of a state dict")
    made.add_argument("--bare-seconds", type=float, help="of the bare loop in the bias step; default: the profile's")
    made.add_argument("--rounds", type=int, help="fewer than the profile's: an even number, or 1")
    made.add_argument(
        "--largest", type=int, default=math.inf, help="leave out larger batch sizes: small cards, or to play"
    )
    made.add_argument("--plan", action="store_true")
    made.add_argument("--archive", type=Path)
    return made


def main() -> int:
    """Do what the command line says."""
    given = parser().parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    profile = PROFILES[given.profile]
    if given.bare_seconds is not None:
        profile = replace(profile, bare_seconds=given.bare_seconds)
    if given.rounds is not None:
        fewer = {**profile.measurement, "rounds": given.rounds}
        profile = replace(profile, measurement=fewer, repeats=min(profile.repeats, 2 * given.rounds))
    deadline = time.monotonic() + min(60 * given.minutes, 10**6)
    asked = runs.Asked(
        given.out, profile.measurement, given.device, given.backend, given.model, given.weights, deadline
    )
    call, steps = Call(asked, profile, given.largest), given.steps.split(",") if given.steps else profile.steps
    if unknown := [name for name in steps if name not in STEPS]:
        parser().error(f"there is no step {', '.join(unknown)}; there are {', '.join(STEPS)}")
    if given.plan:
        foresee(call, steps)
        return 0
    try:
        return do(call, steps)
    finally:
        if given.archive:
            pack(given.out, given.archive)


if __name__ == "__main__":
    sys.exit(main())
