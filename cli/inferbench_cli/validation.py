"""What `inferbench validate` finds beyond the text of a file: strategies that are left out, and a model that is wrong.

The runner looks at the model's files; the program itself reads YAML and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inferbench_cli import machine
from inferbench_contract.errors import InferbenchError
from inferbench_contract.places import Place
from inferbench_contract.plan import Plan, expand
from inferbench_contract.sentences import counted
from inferbench_contract.spec import InferenceBenchmark, ModelSpec, WeightsFile
from inferbench_contract.words import Backend

MAX_STRATEGIES = 3
MAX_REASONS = 4
"""That are shown of what is left out; `inferbench plan` shows all."""


@dataclass
class ModelFile:
    """Has the model of a benchmark looked at on this machine, and keeps notes of what is no mistake."""

    file: Path
    """The benchmark; the model's path starts from its folder."""
    notes: list[str] = field(default_factory=list)

    def mistakes(self, benchmark: InferenceBenchmark) -> Mapping[Place, str]:
        """Return what keeps every cell from being measured, by place in the benchmark."""
        model = benchmark.spec.model
        for source, named in _paths(model).items():
            path = self.file.parent / named
            if not path.is_file() or not os.access(path, os.R_OK):
                self._note_what_is_not_here(source, path)
                if model.onnx is not None:
                    return {}
        return self._look(benchmark) if _is_read(expand(benchmark)) else {}

    def _note_what_is_not_here(self, source: str, path: Path) -> None:
        """Only note it: on a cluster the path starts from a volume."""
        what = "a file that cannot be read is" if path.is_file() else "there is no file"
        self.notes.append(
            f"spec.model.{source}.path: {what} {path}, which a run on this machine reads. On a cluster the path starts "
            "from the models volume."
        )

    def _look(self, benchmark: InferenceBenchmark) -> Mapping[Place, str]:
        try:
            found = machine.look_into(_request(self.file, benchmark))
        except InferbenchError as error:
            self.notes.append(f"spec.model.{benchmark.spec.model.source}: it was not looked into: {error}")
            return {}
        self.notes += [f"{'.'.join(map(str, place))}: {sentence}" for place, sentence in found["notes"]]
        return {tuple(place): sentence for place, sentence in found["mistakes"]}


def _paths(model: ModelSpec) -> Mapping[str, str]:
    """Return the file that a model names, by where it stands in the model."""
    if model.onnx is not None:
        return {"onnx": model.onnx.path}
    weights = model.torchvision.weights if model.torchvision is not None else None
    return {"torchvision.weights": weights.path} if isinstance(weights, WeightsFile) else {}


def _is_read(plan: Plan) -> bool:
    """Tell whether any sweep reads the model: the scripted backend reads none."""
    return any(sweep.strategy.backend is not Backend.FAKE for sweep in plan.sweeps)


def _request(file: Path, benchmark: InferenceBenchmark) -> str:
    model = benchmark.spec.model.model_dump(mode="json", by_alias=True, exclude_none=True)
    sizes = list(benchmark.spec.batch_sizes)
    return json.dumps({"model": model, "model_folder": str(file.parent.absolute()), "batch_sizes": sizes})


def left_out(plan: Plan, *, is_default_device: bool) -> Sequence[str]:
    """Name the strategies that will not be measured, those of one reason together, in few lines."""
    reasons: dict[str, list[str]] = {}
    for strategy, reason in plan.unsupported.items():
        reasons.setdefault(reason, []).append(strategy)
    device = f"{plan.work.device}{' (the default of spec.device)' if is_default_device else ''}"
    lines = [f"    {_shortened(names)}: {reason}" for reason, names in reasons.items()]
    if (more := len(lines) - MAX_REASONS) > 0:
        lines[MAX_REASONS:] = [f"    {counted(more, 'other reason')}: `inferbench plan` tells all."]
    return [f"  not measured on {device}:", *lines] if lines else []


def _shortened(strategies: Sequence[str]) -> str:
    shown = ", ".join(strategies[:MAX_STRATEGIES])
    more = len(strategies) - MAX_STRATEGIES
    return f"{shown} and {more} more" if more > 0 else shown
