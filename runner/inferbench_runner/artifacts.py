"""The cache folder: what was prepared once, found again by the hash of everything that decides its content.

An entry is a folder that appears by one rename and is never changed after it. Its manifest holds the hash of each
file, so that an entry which a power cut has spoilt is found and built again; for that reason nothing is synced to the
disk. Nothing is locked: two runs that build the same entry both build it, and the second keeps the first's.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.handshake import CACHE_VARIABLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from inferbench_runner.backends import Arrays

LOG = logging.getLogger(__name__)

FORMAT: Final = 1
"""Part of every key: a change of what an entry holds makes all older entries strangers."""

MANIFEST: Final = "manifest.json"
NAMES: Final = "names.json"

TEMPORARY: Final = ".tmp-"

STALE_SECONDS: Final = 24 * 3600
"""A temporary folder older than this belongs to a process that was killed: nothing here takes a day to build."""

CANNOT_WRITE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
"""The disk is full, over quota, read-only or broken, or the file larger than allowed."""

CANNOT_MAKE: Final = CANNOT_WRITE | {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT}
"""Beyond these, where a folder is made: it belongs to somebody else, or its place is no folder."""

SPARE_BYTES: Final = 64 << 20
"""Left free beyond what a build needs, so that other programs do not fail because of it."""


def default_folder(environment: Mapping[str, str]) -> Path:
    """Return INFERBENCH_CACHE, or `inferbench` in the XDG cache folder."""
    if environment.get(CACHE_VARIABLE):
        return Path(environment[CACHE_VARIABLE]).absolute()
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache")
    return Path(home, "inferbench").absolute()


def key(content: Mapping[str, Any]) -> str:
    """Hash everything that decides an entry's content; it must be JSON."""
    text = json.dumps({"format": FORMAT, **content}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest(file: Path) -> str:
    """Hash a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def beginning(file: Path) -> str:
    """Describe a file that is not what was expected."""
    with file.open("rb") as stream:
        first = stream.read(16)
    return f"{file.stat().st_size:,} bytes that begin with {first!r}" if first else "an empty file"


def open_entry(cache: Path, kind: str, name: str) -> Path | None:
    """Return an entry's folder if it is there and every file in it is what was written; remove it if one is not."""
    entry = cache / kind / name
    if not entry.is_dir():
        return None
    fault = _fault(entry)
    if fault is None:
        return entry
    LOG.warning("%s is corrupt (%s); it is built again.", entry, fault)
    _discard(entry)
    return None


def publish(cache: Path, kind: str, name: str, build: Callable[[Path], None]) -> Path:
    """Return an entry's folder; where there is none, let `build` fill a temporary folder and rename it into place."""
    entry, _ = find_or_build(cache, kind, name, build)
    return entry


def find_or_build(cache: Path, kind: str, name: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
    """Return an entry's folder as `publish` does, and whether it was built just now."""
    entry = cache / kind / name
    if open_entry(cache, kind, name) is not None:
        return entry, False
    folder = cache / kind / f"{TEMPORARY}{secrets.token_hex(8)}"
    with _words_for_the_disk(cache, CANNOT_MAKE):
        folder.mkdir(parents=True)
    try:
        with _words_for_the_disk(cache, CANNOT_WRITE):
            _remove_stale(cache / kind)
            require_space(cache, 0)
            build(folder)
            _write_manifest(folder)
            _move_into_place(folder, entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return entry, True


def require_space(cache: Path, needed_bytes: int) -> None:
    """Refuse to begin what would fill the disk. Raises EnvironmentFault."""
    free = shutil.disk_usage(cache).free
    if free < needed_bytes + SPARE_BYTES:
        raise EnvironmentFault(
            f"The cache folder {cache} has {free >> 20} MiB free, and {(needed_bytes + SPARE_BYTES) >> 20} MiB are "
            f"needed. Make room, or set {CACHE_VARIABLE} to a folder on a larger disk.",
        )


def write_arrays(folder: Path, arrays: Arrays) -> None:
    """Write one `<name>.npy` for each tensor, and their order; odd characters are written as in an address."""
    import numpy as np

    (folder / NAMES).write_text(json.dumps(list(arrays)))
    for name, array in arrays.items():
        np.save(_array_file(folder, name), array)


def names(folder: Path) -> Sequence[str]:
    """Return the names of the tensors in their order, which is that of the model's arguments."""
    return tuple(json.loads((folder / NAMES).read_text()))


def example_count(folder: Path) -> int:
    """Return how many examples a folder of tensors holds."""
    return len(_mapped(folder, names(folder)[0]))


def read_rows(folder: Path, rows: NDArray[np.intp]) -> Arrays:
    """Return these examples. The files are mapped and let go at once: what stays in memory is the batch."""
    return {name: _mapped(folder, name)[rows] for name in names(folder)}


def _mapped(folder: Path, name: str) -> NDArray[np.generic[Any]]:
    import numpy as np

    mapped: NDArray[np.generic[Any]] = np.load(_array_file(folder, name), mmap_mode="r", allow_pickle=False)
    return mapped


def _array_file(folder: Path, name: str) -> Path:
    return folder / f"{quote(name, safe='')}.npy"


def _fault(entry: Path) -> str | None:
    """Say what is wrong with an entry."""
    try:
        manifest = json.loads((entry / MANIFEST).read_bytes())
        wrong = [name for name, expected in manifest.items() if _describe(entry / name) != expected]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"{wrong[0]} is not what was written" if wrong else None


def _write_manifest(folder: Path) -> None:
    files = [file for file in sorted(folder.rglob("*")) if not file.is_dir()]
    manifest = {str(file.relative_to(folder)): _describe(file) for file in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _describe(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": digest(file)}


def _move_into_place(folder: Path, entry: Path) -> None:
    """Publish an entry. Where another process was quicker, its entry stays."""
    try:
        folder.rename(entry)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise


def _discard(folder: Path) -> None:
    """Take a folder away in one step, so that nobody sees half of it, then delete it."""
    with _words_for_the_disk(folder.parents[1], CANNOT_MAKE), suppress(FileNotFoundError):
        aside = folder.rename(folder.with_name(f"{TEMPORARY}{secrets.token_hex(8)}"))
        shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    for temporary in folder.glob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _words_for_the_disk(cache: Path, errors: frozenset[int]) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in errors:
            raise
        raise EnvironmentFault(
            f"Cannot write to the cache folder {cache}: {error.strerror}. "
            f"Mend that, or set {CACHE_VARIABLE} to another folder.",
        ) from error
    except RuntimeError:
        require_space(cache, 0)  # torch.save says RuntimeError when the disk is full
        raise
