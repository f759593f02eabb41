"""What a result says that its numbers are of: a GPU with its driver, or a processor. Written and read in one place."""

from __future__ import annotations

from collections.abc import Iterable

DRIVER = ", driver "


def of_gpu(product: str, driver: str, settings: Iterable[str] = ()) -> str:
    """Name a GPU with its driver and what is set otherwise on the next one: `NVIDIA H200, driver 580.1, 700 W`."""
    return ", ".join([f"{product}{DRIVER}{driver}", *settings])


def gpu_and_driver(text: str) -> tuple[str, str]:
    """Read a GPU's product and driver from such a text; both empty where it names a processor."""
    product, _, rest = text.partition(DRIVER)
    return (product, rest.partition(",")[0]) if rest else ("", "")
