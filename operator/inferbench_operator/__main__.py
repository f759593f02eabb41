"""The operator's program: reads its settings from the environment and serves until it is stopped."""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from inferbench_contract.errors import EnvironmentFault, InferbenchError
from inferbench_operator import logs
from inferbench_operator.settings import Settings


def main() -> int:
    """Run the operator; what is wrong with the environment becomes sentences on standard error and an exit status."""
    try:
        settings = Settings.from_environment(os.environ)
        logs.set_up(settings.log_level, settings.log_format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings))
    except InferbenchError as error:
        print(f"inferbench-operator: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"inferbench-operator: {error}", file=sys.stderr)
        return EnvironmentFault.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


async def _run(settings: Settings) -> None:
    from inferbench_operator import app

    await app.run(settings)


if __name__ == "__main__":
    sys.exit(main())
