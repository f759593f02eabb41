"""Lays TensorRT's libraries and its name beside its bindings: `python lay_out.py JARS SITE`, for `pack.sh`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

LIBRARIES = "tensorrt_libs"
"""The folder of a site that goes into LD_LIBRARY_PATH."""

NAME = """\"\"\"The bindings install as `tensorrt_bindings`; this is the name that programs import.\"\"\"

from tensorrt_bindings import *
from tensorrt_bindings import __version__
"""


def lay_out(jars: Path, site: Path) -> list[str]:
    """Copy the libraries out of the jars in a folder, whatever folders they are in there; return their names."""
    (site / LIBRARIES).mkdir(exist_ok=True)
    (site / "tensorrt").mkdir(exist_ok=True)
    (site / "tensorrt/__init__.py").write_text(NAME)
    found = []
    for jar in sorted(jars.glob("*.jar")):
        with zipfile.ZipFile(jar) as archive:
            for member in archive.namelist():
                if ".so" in Path(member).name:
                    (site / LIBRARIES / Path(member).name).write_bytes(archive.read(member))
                    found.append(Path(member).name)
    return found


if __name__ == "__main__":
    if not lay_out(Path(sys.argv[1]), Path(sys.argv[2])):
        sys.exit(f"{sys.argv[1]} holds no jar with libraries: the kit would have no TensorRT.")
