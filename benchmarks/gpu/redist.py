"""TensorRT's libraries, which no registry of Python has: fetched by Maven's client, checked, laid beside its bindings.

    python redist.py SITE      for `pack.sh`: those of a kit into SITE/tensorrt_libs, and their name into SITE/tensorrt

`tests/tensorrt/fetch.py` fetches others by the same functions. Needs nothing but Python's own library.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GET: Final = "org.apache.maven.plugins:maven-dependency-plugin:2.8:get"

NAME: Final = '''"""The bindings install as `tensorrt_bindings`; this is the name that programs import."""

from tensorrt_bindings import *
from tensorrt_bindings import __version__
'''
"""The package that is called `tensorrt` does little more than this."""


@dataclass(frozen=True)
class Redist:
    """An archive of libraries, as Maven names it."""

    artifact: str
    sha256: str


KIT: Final = Redist(
    "org.bytedeco:tensorrt:10.6-1.5.11:jar:linux-x86_64-redist",
    "e7979693541f996bc284335b05f5e890a82b8b3aba50d680e1343a139cf291c4",
)
"""1.1 GB, for the bindings in locks/tensorrt-10.6.txt. It has the kernels themselves (libnvinfer_builder_resource);
of 11.2 Maven has them as PTX only, with which the builder was null on an H100."""

KIT_LIBRARIES: Final = "tensorrt_libs"
"""The folder of a kit's site that goes into LD_LIBRARY_PATH."""


def lay_out(redist: Redist, folder: Path) -> None:
    """Fetch libraries into a folder, whatever folders they are in in their archive.

    Raises:
        RuntimeError: there is no Maven here, or what it brought is not the file that was expected.
        subprocess.CalledProcessError: Maven failed, and has said why.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        _unpack(_checked(redist, _fetch(redist, Path(scratch))), folder)


def write_name(site: Path) -> None:
    """Let programs import the bindings in a folder by the name that they know."""
    (site / "tensorrt").mkdir(exist_ok=True)
    (site / "tensorrt/__init__.py").write_text(NAME)


def _fetch(redist: Redist, local: Path) -> Path:
    """Fetch an archive by a Maven with a repository of its own, which can go when it has been unpacked."""
    maven = shutil.which("mvn")
    if maven is None:
        raise RuntimeError("there is no mvn here. On Debian and Ubuntu: apt-get install maven")
    command = [maven, "--quiet", "--batch-mode", f"-Dmaven.repo.local={local}", GET, f"-Dartifact={redist.artifact}"]
    subprocess.run([*command, "-Dtransitive=false"], check=True)
    [archive] = local.glob("org/bytedeco/tensorrt/*/*-redist.jar")
    return archive


def _checked(redist: Redist, archive: Path) -> Path:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != redist.sha256:
        raise RuntimeError(
            f"{redist.artifact} has the sha256 {found}, and {redist.sha256} was expected: it is not the same file"
        )
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            name = Path(entry.filename).name
            if ".so" in name:
                with packed.open(entry) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)


def main() -> int:
    """Lay out a kit's libraries; 1 with a sentence where that is not possible."""
    site = Path(sys.argv[1])
    try:
        lay_out(KIT, site / KIT_LIBRARIES)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"TensorRT cannot be fetched: {error}", file=sys.stderr)
        return 1
    write_name(site)
    return 0


if __name__ == "__main__":
    sys.exit(main())
