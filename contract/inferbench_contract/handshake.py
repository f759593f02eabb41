"""What a runner and whoever starts it agree on: what it is told in its environment, and what its end tells.

The operator starts it in a pod, `inferbench run` on this machine. Neither knows the runner's code.
"""

from __future__ import annotations

from typing import Final

PLAN_VARIABLE: Final = "INFERBENCH_PLAN"
"""The plan as JSON."""
PLAN_FILE_VARIABLE: Final = "INFERBENCH_PLAN_FILE"
"""Or the file that holds it, where it is too long for an environment."""
INDEX_VARIABLE: Final = "JOB_COMPLETION_INDEX"
"""Which sweep: Kubernetes gives it to pods of an Indexed Job."""
SWEEPS_VARIABLE: Final = "INFERBENCH_SWEEPS"
"""The sweeps that the index counts in, where they are not those of the plan."""
MODELS_VARIABLE: Final = "INFERBENCH_MODELS"
"""The folder that relative paths of the model start from."""
CACHE_VARIABLE: Final = "INFERBENCH_CACHE"
"""The folder in which models, graphs and what compilers made are kept."""
TERMINATION_LOG_VARIABLE: Final = "INFERBENCH_TERMINATION_LOG"
"""Where a pod leaves its result, if not in TERMINATION_LOG."""
METRICS_PORT_VARIABLE: Final = "INFERBENCH_METRICS_PORT"
"""Where a pod serves its metrics; 0: nowhere."""
PARENT_VARIABLE: Final = "INFERBENCH_PARENT"
"""The process id of the parent to die with."""

MODELS_FOLDER: Final = "/models"
METRICS_PORT: Final = 9_091
TERMINATION_LOG: Final = "/dev/termination-log"
"""Where a pod leaves its result: Kubernetes reads the file when the container has ended, however it did."""

BAD_CONFIGURATION_STATUS: Final = 43
"""The plan or the arguments are wrong: no second try mends them."""

ENVIRONMENT_FAULT_STATUS: Final = 44
"""Of a cell too: the machine lacks something that no retry brings, and every other sweep would miss."""

ASKED_TO_STOP_STATUS: Final = 143
"""It was asked to stop and delivered what it had: 128 and SIGTERM, as a shell reports it."""
