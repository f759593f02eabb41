"""The termination message: the one file of a container that outlives it, however it ends.

The kubelet reads it into the pod's status after a memory kill, an eviction and a deadline just as after a good end. It
is a file of the node, mounted into the container, so nothing can be renamed over it. It is therefore written in place,
in one piece, over a file that never shrinks: a kill at any moment leaves the text before or the text after.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.handshake import TERMINATION_LOG, TERMINATION_LOG_VARIABLE
from inferbench_contract.result import MAX_BYTES

KUBERNETES_FILE = Path(TERMINATION_LOG)
"""Where Kubernetes mounts it, unless the container's terminationMessagePath says otherwise."""


class TerminationMessage:
    """The file, open for writing. Use it with `with`.

    Raises:
        EnvironmentFault: it cannot be opened or written; says which file, and what to do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _words_for(path):
            self._descriptor = os.open(path, os.O_WRONLY)  # not created: one that nobody mounted, nobody reads
        self._longest = self._length_before()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, content: bytes) -> None:
        """Replace the message. A shorter one is padded with spaces to the longest so far."""
        if len(content) > MAX_BYTES:
            msg = f"a termination message of {len(content)} bytes; Kubernetes keeps {MAX_BYTES}"
            raise ValueError(msg)
        padded = content.ljust(self._longest)
        self._longest = len(padded)
        with _words_for(self._path):
            written = os.pwrite(self._descriptor, padded, 0)
            if written < len(padded):
                raise OSError(None, f"only {written} of {len(padded)} bytes found room")

    def _length_before(self) -> int:
        """Return how much of the file is somebody else's text, to be padded over.

        What lies beyond 4,096 bytes is cut off now, while there is nothing to lose: the kubelet reads the end of a file
        that is longer, and would miss the beginning.
        """
        length = os.fstat(self._descriptor).st_size
        if length > MAX_BYTES:
            os.ftruncate(self._descriptor, MAX_BYTES)
        return min(length, MAX_BYTES)


@contextmanager
def _words_for(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"The result cannot be written to the termination message {path}: {error.strerror}. It must be the file "
            f"that the container's terminationMessagePath names (in {TERMINATION_LOG_VARIABLE} when that is not "
            f"{KUBERNETES_FILE}), and user {os.getuid()} must be allowed to write it.",
        ) from error
