"""Where what was measured goes: files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inferbench_contract.errors import EnvironmentFault

SAMPLES_VERSION = 1


OUTPUT = "choose another folder with --output"
SCRATCH = "set TMPDIR to another folder"
"""What to do where a disk is full, by what is written there."""


def write_whole(path: Path, content: bytes, elsewhere: str = OUTPUT) -> None:
    """Write a file by a rename, so that a reader or a kill never sees half of it.

    Raises:
        EnvironmentFault: the disk is full or not to be written; says which folder, and what to do (`elsewhere`).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with words_for_the_disk(path, elsewhere):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def words_for_the_disk(path: Path, elsewhere: str) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"{path} cannot be written: {error.strerror or error}. Make room there or {elsewhere}; "
            "what is already measured stays, and the same command goes on from it.",
        ) from error


def write_samples(path: Path, latencies_ns: Sequence[int], device_ns: Sequence[int] | None) -> None:
    """Keep the raw calls of a cell: gzipped JSON, which anything can read, at two to three bytes a call."""
    device = None if device_ns is None else list(device_ns)
    _write_compressed(path, {"latenciesNanoseconds": list(latencies_ns), "deviceNanoseconds": device})


def write_readings(path: Path, when: Mapping[str, int], readings: Mapping[str, Sequence[Any]]) -> None:
    """Keep what was read of the GPU while a cell ran, column by column, and when its timed calls were made."""
    _write_compressed(path, {**when, "readings": {name: list(column) for name, column in readings.items()}})


def _write_compressed(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps({"schemaVersion": SAMPLES_VERSION, **content}, separators=(",", ":"))
    write_whole(path, gzip.compress(text.encode(), mtime=0))
