"""PyTorch's session on a GPU, over a stand-in for `torch.cuda`: what is done in which order, and what waits for what.

The stand-in is no GPU, and was compared with none. A stream is a list of things to do, which are done when somebody
waits for it and not before; each takes the time that is written here. Tensors are real ones, on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from inferbench_runner.backends._torch import CudaSession

MODEL_MS = 0.5
COPY_MS = 0.125

FIRST = np.array([[1, 2], [3, 4]], np.float32)
OTHER = np.array([[5, 6], [7, 8]], np.float32)


class Stream:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._waiting: list[Callable[[], None]] = []

    def add(self, what: str, milliseconds: float, work: Callable[[], None]) -> None:
        def do() -> None:
            self._gpu.now_ms += milliseconds
            self._gpu.done.append(what)
            with torch.inference_mode():  # tensors that were made in that mode take no copies outside it
                work()

        self._waiting.append(do)

    def synchronize(self) -> None:
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.at_ms = 0.0

    def record(self) -> None:
        self._gpu.current.add("event", 0.0, self._note)

    def elapsed_time(self, end: Event) -> float:
        return end.at_ms - self.at_ms

    def _note(self) -> None:
        self.at_ms = self._gpu.now_ms


class Gpu:
    """Stands in for the module `torch`, as far as the session uses it."""

    inference_mode = staticmethod(torch.inference_mode)

    def __init__(self) -> None:
        self.done: list[str] = []
        self.now_ms = 0.0
        self.pinned: list[Tracked] = []
        self.streams: list[Stream] = []
        self.current: Stream | None = None
        self.cuda = self

    def Stream(self) -> Stream:  # noqa: N802 (PyTorch's name)
        self.streams.append(Stream(self))
        return self.streams[-1]

    def Event(self, *, enable_timing: bool) -> Event:  # noqa: N802 (PyTorch's name)
        assert enable_timing
        return Event(self)

    @contextmanager
    def stream(self, stream: Stream):
        self.current = stream
        yield
        self.current = None

    def synchronize(self) -> None:
        for each in self.streams:
            each.synchronize()

    def empty_like(self, tensor: torch.Tensor, *, device: str, pin_memory: bool) -> Tracked:
        assert (device, pin_memory) == ("cpu", True)
        return self.tracked(torch.full_like(tensor, torch.nan), "pinned").pin_memory()

    def tracked(self, tensor: torch.Tensor, place: str) -> Tracked:
        made = tensor.clone().as_subclass(Tracked)
        made.gpu, made.place = self, place
        return made


class Tracked(torch.Tensor):
    """A tensor on the GPU, or in pinned memory: copies that nobody waits for are the stream's to do."""

    gpu: Gpu
    place: str

    def cpu(self) -> Tracked:
        return self.gpu.tracked(self, "host")

    def pin_memory(self) -> Tracked:
        self.place = "pinned"
        self.gpu.pinned.append(self)
        return self

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> Tracked:  # noqa: FBT001, FBT002 (PyTorch's)
        if not non_blocking:
            return super().copy_(source)
        assert "pinned" in (self.place, source.place), "a copy from or to pageable memory would wait"
        self.gpu.current.add(f"to {self.place}", COPY_MS, lambda: self.copy_(source))
        return self


@pytest.fixture
def gpu():
    return Gpu()


def a_session(gpu: Gpu, *, with_copies: bool) -> CudaSession:
    """The session of a model that doubles its input."""
    bound = gpu.tracked(torch.from_numpy(FIRST), "gpu")
    answer = gpu.tracked(torch.zeros(2, 2), "gpu")

    def call(tensor: torch.Tensor) -> torch.Tensor:
        gpu.current.add("model", MODEL_MS, lambda: answer.copy_(2 * tensor))
        return answer

    return CudaSession(gpu, call, {"x": bound}, {}, lambda: None, with_copies=with_copies)


@pytest.mark.parametrize(
    ("with_copies", "done"),
    [
        pytest.param(False, ["event", "model", "event"], id="device-resident: the model alone"),
        pytest.param(True, ["event", "to gpu", "model", "to pinned", "event"], id="end to end: with both copies"),
    ],
)
def test_a_call_does_what_its_contract_says_and_waits_for_nothing(gpu, with_copies, done):
    session = a_session(gpu, with_copies=with_copies)

    session.enqueue()

    assert gpu.done == []
    session.synchronize()
    assert gpu.done == done
    assert session.device_time_ns() == round(1e6 * (MODEL_MS + COPY_MS * (len(done) - 3)))


@pytest.mark.parametrize("with_copies", [False, True])
def test_a_batch_that_is_loaded_is_what_the_next_call_answers(gpu, with_copies):
    """End to end it has to be in the pinned tensors too: the copy in would bring the first one back."""
    session = a_session(gpu, with_copies=with_copies)
    session.enqueue()
    first = session.outputs()["output"]

    session.load_batch({"x": OTHER})
    session.enqueue()
    answered, bound = session.outputs()["output"], session.inputs()["x"]

    assert np.array_equal(first, 2 * FIRST)
    assert np.array_equal(answered, 2 * OTHER)
    assert np.array_equal(bound, OTHER)


def test_end_to_end_answers_are_read_from_the_host_where_they_are_allocated_once(gpu):
    session = a_session(gpu, with_copies=True)

    for _ in range(3):
        session.enqueue()
        session.synchronize()
    with torch.inference_mode():
        gpu.pinned[-1].fill_(7)

    assert len(gpu.pinned) == 2
    assert np.array_equal(session.outputs()["output"], np.full((2, 2), 7, np.float32))


def test_device_resident_calls_pin_no_memory(gpu):
    a_session(gpu, with_copies=False).enqueue()

    assert gpu.pinned == []
