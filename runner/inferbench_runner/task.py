"""What a cell process is told: everything it needs, read from one JSON file, so that it asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict

from inferbench_contract.spec import AccuracySpec, MeasurementSpec, ModelSpec, QuantizationSpec
from inferbench_contract.words import Backend, Cell, Device, Precision, Strategy
from inferbench_runner import circumstances

if TYPE_CHECKING:
    from inferbench_contract.plan import Work


class Artifacts(BaseModel):
    """The files that were prepared for this cell, verified by the supervisor. None: this backend does not read it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path | None = None
    """State dict of the torch model, as torch.save wrote it."""
    onnx: Path | None = None
    """ONNX graph at the cell's precision, with a dynamic batch dimension."""
    inputs: Path | None = None
    """Folder with one `<input name>.npy` for each input: evaluation inputs, first dimension = examples."""
    reference: Path | None = None
    """Folder with one `<output name>.npy` for each output: what the fp32 reference answers to `inputs`."""


class CellTask(BaseModel):
    """One cell of one round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Backend
    precision: Precision
    batch_size: int
    round: int
    device: Device
    threads: int
    options: Mapping[str, Any]
    """`spec.backendOptions` of this backend."""
    model: ModelSpec
    model_folder: Path
    """What relative paths in the model start from."""
    measurement: MeasurementSpec
    quantization: QuantizationSpec = QuantizationSpec()
    accuracy: AccuracySpec
    artifacts: Artifacts
    cache: Path
    """The cache folder: compilers keep their own files below it."""
    result: Path
    """Where the cell writes its result (JSON), by atomic rename."""
    samples: Path | None = None
    """Where the cell writes its raw samples; None: nowhere."""
    counts_energy: bool = False
    """Whether the GPU counts what it takes from its supply: then calls may go on for long enough to tell."""

    @classmethod
    def of(
        cls, cell: Cell, work: Work, artifacts: Artifacts, *, model_folder: Path, cache: Path, scratch: Path
    ) -> Self:
        """Return the task of a cell's first round that keeps no samples; its result goes into the folder `scratch`."""
        return cls(
            backend=cell.strategy.backend,
            precision=cell.strategy.precision,
            batch_size=cell.batch_size,
            round=0,
            device=work.device,
            threads=work.threads or circumstances.threads_default(),
            options=work.backend_options.get(cell.strategy.backend, {}),
            model=work.model,
            model_folder=model_folder,
            measurement=work.measurement,
            quantization=work.quantization,
            accuracy=work.accuracy,
            artifacts=artifacts,
            cache=cache,
            result=scratch / "result.json",
        )

    @property
    def cell(self) -> Cell:
        """The cell that this task measures."""
        return Cell(Strategy(self.backend, self.precision), self.batch_size)
