"""What `inferbench backends` and sweeps say of a GPU that is too old for a precision: the driver here is a stand-in.

It is a real library under the driver's name, loaded as the driver is, that describes a Tesla T4.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from inferbench_contract.capabilities import support
from inferbench_contract.words import Backend, Device, ModelSource, Precision, Strategy
from inferbench_runner import cuda
from inferbench_runner.backends import _capability

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetUuid_v2(void *uuid, int device) { memset(uuid, 7, 16); return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Tesla T4", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 7 : attribute == 76 ? 5 : 0;
    return 0;
}
"""

POSSIBLE = [
    strategy
    for strategy in (Strategy(backend, precision) for backend in Backend for precision in Precision)
    if strategy.backend is not Backend.FAKE and support(strategy, Device.GPU, ModelSource.TORCHVISION) is None
]


@pytest.fixture(scope="module")
def reasons(tmp_path_factory):
    """What the runner says of each strategy on a machine with a Tesla T4."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed, as torch.compile needs one"
    arguments = ["-shared", "-fPIC", "-o", folder / cuda.DRIVER_LIBRARY, folder / "driver.c"]
    subprocess.run([compiler, *arguments], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "inferbench_runner", "backends", "--device", "gpu"],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {each["strategy"]: each["reason"] for each in json.loads(done.stdout)}


@pytest.mark.parametrize("strategy", POSSIBLE, ids=str)
def test_only_what_the_card_lacks_is_told_of_it_whatever_the_backend(reasons, strategy):
    needed = _capability.NEEDS.get(strategy.precision)

    reason = reasons[str(strategy)] or ""

    assert ("Tesla T4 has 7.5" in reason) == (needed is not None)
    if needed is not None:
        wanted = ".".join(map(str, needed))
        assert reason.startswith(f"NoKernel: {strategy.precision} needs compute capability {wanted}, and Tesla T4")


def test_the_driver_is_asked_by_nvidias_own_numbers():
    from cuda.bindings import driver

    attributes = driver.CUdevice_attribute

    assert cuda.CAPABILITY_ATTRIBUTES == (
        attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )
