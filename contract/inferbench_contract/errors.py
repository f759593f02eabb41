"""Every error that inferbench raises on purpose, each with the exit status that ends the program.

    InferbenchError
    ├── SpecError           2   a benchmark file is wrong; holds every mistake that was found
    ├── PlanError           2   a plan file is not one, or does not belong to this folder
    ├── ResultError         1   what a sweep handed over cannot be read
    └── EnvironmentFault    3   this machine cannot do what was asked (no GPU, no space, no library)

Errors of libraries pass through unless one of these says more; then they are chained as the cause.
"""

from __future__ import annotations

from typing import ClassVar


class InferbenchError(Exception):
    """The base: a sentence for the person who runs the program, and the program's exit status."""

    exit_status: ClassVar[int] = 1


class SpecError(InferbenchError):
    """A benchmark file is wrong. `mistakes` holds one sentence for each thing to mend, in file order."""

    exit_status = 2

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        """Join the mistakes, a line each, as they are shown."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class PlanError(InferbenchError):
    """A plan cannot be read, or results belong to another plan."""

    exit_status = 2


class ResultError(InferbenchError):
    """What a sweep handed over cannot be read; `reason` is a CamelCase word for conditions and metrics."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason apart from the sentence."""
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class EnvironmentFault(InferbenchError):
    """The machine lacks something that no retry brings."""

    exit_status = 3


def how_to_install(extra: str, *, is_upgrade: bool = False) -> str:
    """Say how what an extra of inferbench brings is installed.

    From its folder, never by its name: a package of that name on PyPI is somebody else's.
    """
    return f"Install it: pip install {'-U ' if is_upgrade else ''}'.[{extra}]'  # in inferbench's folder"
