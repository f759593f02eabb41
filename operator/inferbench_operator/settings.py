"""The operator's settings: environment variables INFERBENCH_OPERATOR_*, read once into a type that cannot be wrong.

A list is separated by commas; a mapping and a list of objects are JSON; an empty variable is as good as none. What is
wrong is told all at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from inferbench_contract.errors import InferbenchError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PREFIX = "INFERBENCH_OPERATOR_"

NAMES = {"port": f"{PREFIX}HTTP_PORT"}
"""Variables that are not called like their field. Kubernetes sets INFERBENCH_OPERATOR_PORT to tcp://... in every pod
beside a Service called inferbench-operator."""

IN_JSON = frozenset({"runner_node_selector", "runner_tolerations"})

SERVICE_LINK = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT|PORT)(_\w+)?")
"""The variables that Kubernetes sets for such a Service; they are nobody's mistake."""

GPU_TOLERATION: dict[str, JsonValue] = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
"""GPU nodes usually carry this taint, so that nothing else runs there."""

MAX_COUNTERS_SECONDS = 60
"""Counters are no older than a minute, however many benchmarks run: who watches one of them wants to see it move."""


class SettingsError(InferbenchError):
    """Environment variables are wrong. `mistakes` holds one sentence for each."""

    exit_status = 2

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        """Join the mistakes, a line each, as they are shown."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class ResultsDetail(StrEnum):
    """How much of each finished benchmark /results tells."""

    BENCHMARK = "benchmark"
    CELLS = "cells"
    ALL = "all"


class LogLevel(StrEnum):
    """The least severity that is logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    TEXT = "text"


def _comma_separated(value: object) -> object:
    return tuple(part for piece in value.split(",") if (part := piece.strip())) if isinstance(value, str) else value


def _as_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _boolean(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _whole(least: int, most: int) -> Any:
    return Field(ge=least, le=most, title=f"a whole number from {least:,} to {most:,}")


def _text(pattern: str, expected: str) -> Any:
    return Field(pattern=pattern, max_length=512, title=expected)


NAME = r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?"

Namespace = Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
ObjectName = Annotated[str, Field(pattern=f"^{NAME}$")]
Quantity = Annotated[str, _text(r"^[0-9]+(\.[0-9]+)?(m|k|Ki|[MGT]i?)?$", "a quantity such as 2, 500m or 8Gi")]
Boolean = Annotated[bool, BeforeValidator(_boolean), Field(strict=True, title="true or false")]
Namespaces = Annotated[
    tuple[Namespace, ...], BeforeValidator(_comma_separated), Field(title="namespaces, separated by commas")
]
ObjectNames = Annotated[
    tuple[ObjectName, ...], BeforeValidator(_comma_separated), Field(title="names of Secrets, separated by commas")
]
Labels = Annotated[Mapping[str, str], BeforeValidator(_as_json), Field(title='labels as JSON, such as {"disk": "ssd"}')]
Tolerations = Annotated[
    tuple[dict[str, JsonValue], ...],
    BeforeValidator(_as_json),
    Field(title='tolerations as JSON, such as [{"key": "nvidia.com/gpu", "operator": "Exists"}]'),
]


class Settings(BaseModel):
    """What the operator's administrator decides. Read it with `from_environment`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runner_image: Annotated[str, _text(r"^\S*$", "an image without spaces")] = ""
    """The runner's image. Empty: every benchmark has to name its own."""
    watch_namespaces: Namespaces = ()
    """The namespaces whose benchmarks are served. None: all, which needs a ClusterRole."""
    runner_cpu: Quantity = "2"
    """CPU of a runner pod, requested and limited alike, so that no quota bends the numbers; the benchmark's cpu.threads
    goes before it."""
    runner_memory: Quantity = "8Gi"
    """Memory of a runner pod, requested and limited alike: torch with a compiler's workers has been seen at 6 GiB."""
    image_pull_policy: Annotated[str, _text("^(Always|IfNotPresent|Never)$", "Always, IfNotPresent or Never")] = (
        "IfNotPresent"
    )
    """When nodes pull the runner's image, which has several GB."""
    image_pull_secrets: ObjectNames = ()
    """Secrets in the benchmark's namespace with which its image is pulled."""
    runner_priority_class: Annotated[str, _text(f"^({NAME})?$", "the name of a PriorityClass")] = ""
    """Priority of runner pods. Empty: the cluster's default."""
    runner_node_selector: Labels = {}
    """Labels that a node must have to run runner pods."""
    runner_tolerations: Tolerations = (GPU_TOLERATION,)
    """Taints that runner pods tolerate."""
    allow_privileged_pod_templates: Boolean = False
    """Whether a benchmark's podTemplate may give its pods rights that its author may not have: a service account, the
    host's network or disks. Then whoever may create a benchmark may do what those rights allow."""
    job_ttl_seconds: Annotated[int, _whole(0, 604_800)] = 300
    """How long a Job and its pods stay once their results are safe: long enough to look at a log, short enough for the
    12,500 terminated pods that a cluster keeps by default."""
    status_interval_seconds: Annotated[int, _whole(1, 3_600)] = 5
    """The least time between two writes of a benchmark's counters: each is a write of etcd, and comes back as an event.
    Where many run it is longer: see `counters_interval`."""
    summary_interval_seconds: Annotated[int, _whole(1, 3_600)] = 30
    """The least time between two summaries of a benchmark that runs: each takes some milliseconds of CPU and 7 kB."""
    shard_after_seconds: Annotated[int, _whole(1, 86_400)] = 300
    """How long results may be nowhere but in pods before they are written to a ConfigMap."""
    lost_after_seconds: Annotated[int, _whole(0, 3_600)] = 10
    """How long a finished Job may lack a result before it counts as lost: the pod's last event may be on its way."""
    stuck_after_seconds: Annotated[int, _whole(60, 31_536_000)] = 86_400
    """How long a benchmark may make no progress before it says so: a day of waiting for a GPU is not rare."""
    resync_seconds: Annotated[int, _whole(10, 86_400)] = 600
    """How often everything is listed again, which heals what a watch has missed."""
    workers: Annotated[int, _whole(1, 64)] = 8
    """Benchmarks that are looked at side by side. A look waits for the API server most of its time."""
    api_qps: Annotated[int, _whole(1, 10_000)] = 50
    """Requests to the API server in a second, sustained; the server shares itself out fairly above that."""
    api_burst: Annotated[int, _whole(1, 10_000)] = 100
    """Requests to the API server at once, after a pause."""
    port: Annotated[int, _whole(1, 65_535)] = 8080
    """Where /metrics, /results, /healthz and /readyz are served (INFERBENCH_OPERATOR_HTTP_PORT)."""
    results_detail: ResultsDetail = ResultsDetail.CELLS
    """How much /results tells of each finished benchmark: some 20 series; of a cell 2 with `cells`, 11 with `all`."""
    max_result_series: Annotated[int, _whole(0, 10_000_000)] = 200_000
    """Series of /results; benchmarks that finish beyond that tell only their own, without their cells. 300,000 take
    about a second of each scrape and 1 GB of Prometheus' memory."""
    log_level: LogLevel = LogLevel.INFO
    """The least severity that is logged."""
    log_format: LogFormat = LogFormat.JSON
    """json for collectors, text for people."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read all settings; what is not set has its default.

        Raises:
            SettingsError: some are wrong; it holds a sentence for each.
        """
        given = {field: environment[name] for field, name in _names().items() if environment.get(name)}
        unknown = tuple(_unknown(environment))
        try:
            settings = cls.model_validate(given)
        except ValidationError as error:
            mistakes = dict.fromkeys(_sentence(details, given) for details in error.errors())
            raise SettingsError((*mistakes, *unknown)) from error
        if unknown:
            raise SettingsError(unknown)
        return settings

    def counters_interval(self, running: int) -> timedelta:
        """Return the least time between two writes of a benchmark's counters where so many run: once a second in all.

        Each write costs the operator, the API server and etcd some milliseconds, and with 40 benchmarks at once that
        was a fifth of what the operator did.
        """
        return timedelta(seconds=max(self.status_interval_seconds, min(running, MAX_COUNTERS_SECONDS)))

    def as_lines(self) -> tuple[str, ...]:
        """Return every setting as `NAME=value`. None is a secret: those stay in Secrets, which are only named."""
        return tuple(f"{name}={_as_text(field, getattr(self, field))}" for field, name in _names().items())


def _names() -> dict[str, str]:
    """Return the variable of each field."""
    return {field: NAMES.get(field, f"{PREFIX}{field.upper()}") for field in Settings.model_fields}


def _unknown(environment: Mapping[str, str]) -> Iterator[str]:
    known = set(_names().values())
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not SERVICE_LINK.fullmatch(name):
            yield f'{name} is "{environment[name]}"; there is no such setting. Remove it, or mend its name.'


def _sentence(details: ErrorDetails, given: Mapping[str, str]) -> str:
    field = str(details["loc"][0])
    return f'{_names()[field]} is "{given[field]}"; expected {_expected(field)}.'


def _expected(field: str) -> str:
    info = Settings.model_fields[field]
    if isinstance(info.annotation, type) and issubclass(info.annotation, StrEnum):
        return f"one of {', '.join(info.annotation)}"
    return info.title or "something else"


def _as_text(field: str, value: object) -> str:
    if field in IN_JSON or isinstance(value, bool):
        return json.dumps(value)
    return ",".join(value) if isinstance(value, tuple) else str(value)
