"""How processes that make files for the cache are started, and how they answer: `prepare`, `convert`, `programs`.

Such a process ends with status 0 whenever its answer says what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel

from inferbench_contract.errors import EnvironmentFault, InferbenchError, how_to_install
from inferbench_contract.result import cut_in_the_middle
from inferbench_contract.words import Outcome
from inferbench_runner import garbage, lifeline, sinks
from inferbench_runner.backends import Unsupported
from inferbench_runner.process import PROGRESS_FD
from inferbench_runner.task import Artifacts

Request = TypeVar("Request", bound=BaseModel)

REQUIRED: Final = frozenset(
    {"ml_dtypes", "numpy", "onnx", "onnxruntime", "onnxscript", "PIL", "torch", "torchao", "torchvision"}
)
"""What is installed with the runner; any other module that is missing is a model's own."""

MAX_MESSAGE_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the artifacts cannot be made: `Unsupported` or `Failed`, with a sentence."""

    outcome: Outcome
    message: str


def command(module: str, request: BaseModel, request_file: Path, answer_file: Path) -> Sequence[str]:
    """Write the request, and return the command line of the process that does it."""
    request_file.write_text(request.model_dump_json())
    return sys.executable, "-m", module, str(request_file), str(answer_file)


def read_answer(answer_file: Path) -> Artifacts | Refusal:
    """Read what the process answered. Raises EnvironmentFault if that is its answer."""
    answer = json.loads(answer_file.read_bytes())
    if "artifacts" in answer:
        return Artifacts.model_validate(answer["artifacts"])
    kind, message = answer["error"]["kind"], answer["error"]["message"]
    if kind == EnvironmentFault.__name__:
        raise EnvironmentFault(message)
    return Refusal(Outcome(kind), message)


def serve(arguments: Sequence[str], kind: type[Request], make: Callable[[Request], Artifacts]) -> int:
    """Make what the request asks for and write the answer; always 0."""
    lifeline.hold()
    garbage.search_rarely()
    request = kind.model_validate_json(Path(arguments[0]).read_bytes())
    sinks.write_whole(Path(arguments[1]), json.dumps(_answer(partial(make, request))).encode())
    return 0


def end() -> NoReturn:
    """End the process at once: unloading PyTorch takes half a second, and may crash after all went well."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def say(doing: str) -> None:
    """Tell the person who waits: on standard output, and on the supervisor's descriptor if there is one."""
    print(doing, flush=True)  # noqa: T201 (the supervisor keeps it, and shows it if this goes wrong)
    descriptor = int(os.environ.get(PROGRESS_FD, "-1"))
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            os.write(descriptor, json.dumps({"stage": doing}).encode() + b"\n")


def _answer(make: Callable[[], Artifacts]) -> Mapping[str, Any]:
    try:
        return {"artifacts": make().model_dump(mode="json")}
    except Exception as error:  # noqa: BLE001 (every error of a library is an answer)
        kind, message = _kind(error), _message(error)
        return {"error": {"kind": kind, "message": cut_in_the_middle(message, MAX_MESSAGE_CHARS)}}


def _kind(error: Exception) -> str:
    match error:
        case EnvironmentFault() | ImportError():
            return EnvironmentFault.__name__
        case Unsupported():
            return Outcome.UNSUPPORTED
    return Outcome.FAILED


def _message(error: Exception) -> str:
    """Say what went wrong. Errors that are not ours are named, with what was noted on them, and told in full."""
    if isinstance(error, InferbenchError | Unsupported):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in REQUIRED:
        return f"{error.name} is not installed. {how_to_install('runner')}"
    traceback.print_exc()
    return "".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())))
