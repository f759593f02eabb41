"""Blank in NVIDIA's libraries what only other GPUs run, so that a kit for one GPU compresses to a fraction.

    python thin.py SM LIBRARY...     SM: compute capability as one number, 90 for an H100. Changes the files.

Libraries carry their kernels in fat binaries: a header, then entries with the code for one kind of GPU each, cubins
that only GPUs of its own major version run, or PTX that the driver compiles for later ones. Where a fat binary has a
cubin for the GPU the rest goes; where it has none its PTX stays. Sizes and places stay as they were: what goes becomes
zeros. The layout is NVIDIA's own secret; gVisor, Cricket and others read it as it is read here, and libraries that
were thinned so have run on an H100 (docs/results/2026-11-26-article-h100.md).
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAGIC: Final = struct.pack("<I", 0xBA55ED50)
HEADER: Final = struct.Struct("<4sHHQ")
"""Magic, version, its own size, and that of all entries behind it."""
ENTRY: Final = struct.Struct("<HHIQ12xI")
"""Kind, version, the size of this header and of the code behind it; then, after others, the compute capability."""
MIN_ENTRY_BYTES: Final = 64

PTX: Final = 1
CUBIN: Final = 2


@dataclass(frozen=True)
class Code:
    """Code for one kind of GPU, and where it lies in the file."""

    kind: int
    capability: int
    start: int
    size: int


def fat_binaries(library: mmap.mmap) -> Iterator[list[Code]]:
    """Yield the entries of each fat binary in a library."""
    at = library.find(MAGIC)
    while at >= 0:
        if at + HEADER.size <= len(library):
            _, version, header_bytes, size = HEADER.unpack_from(library, at)
            begin = at + header_bytes
            if version == 1 and header_bytes == HEADER.size and begin + size <= len(library):
                yield list(_entries(library, begin, begin + size))
        at = library.find(MAGIC, at + len(MAGIC))


def _entries(library: mmap.mmap, at: int, end: int) -> Iterator[Code]:
    while at + MIN_ENTRY_BYTES <= end:
        kind, _, header_bytes, size, capability = ENTRY.unpack_from(library, at)
        if header_bytes < MIN_ENTRY_BYTES or at + header_bytes + size > end:
            return
        yield Code(kind, capability, at + header_bytes, size)
        at += header_bytes + size


def spare(entries: list[Code], capability: int) -> list[Code]:
    """Return what a GPU of this compute capability does not need of a fat binary."""
    own = [code for code in entries if code.kind == CUBIN and code.capability == capability]
    needed = own or [code for code in entries if code.kind == PTX and code.capability <= capability]
    return [code for code in entries if code not in needed]


def thin(file: Path, capability: int) -> int:
    """Blank what is spare in a library; return how many bytes that were."""
    blanked = 0
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as library:
        for entries in fat_binaries(library):
            for code in spare(entries, capability):
                library[code.start : code.start + code.size] = bytes(code.size)
                blanked += code.size
    return blanked


def main() -> int:
    """Thin what the command line names, and say by how much."""
    capability, *files = sys.argv[1:]
    for file in map(Path, files):
        blanked = thin(file, int(capability))
        print(f"{file.name}: {blanked / 1e6:,.0f} MB of {file.stat().st_size / 1e6:,.0f} MB are for other GPUs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
