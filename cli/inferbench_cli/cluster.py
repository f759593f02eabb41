"""`inferbench get`: the answer of a benchmark that a cluster has measured, and a folder of it as local mode has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inferbench_cli import folder, resource, run
from inferbench_cli.folder import Folder
from inferbench_cli.kubectl import Kubectl, UnreachableError
from inferbench_cli.resource import Found
from inferbench_contract import result as results
from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.summary import Summary

LOOK_SECONDS = 5
"""Between two looks of --watch: the operator writes a benchmark's status no more often."""

MAX_SILENCES = 24
"""Looks in a row without an answer, two minutes of them, until --watch gives up: a control plane restarts in less."""


def read(cluster: Kubectl, name: str) -> Found:
    """Read a benchmark and its shards. Raises what `kubectl` and `resource.understand` raise."""
    item = cluster.benchmark(name)
    names = [ref.config_map for ref in resource.status_of(item).shards]
    return resource.understand(item, cluster.within(item["metadata"]["namespace"]).config_maps(names))


def follow(
    look: Callable[[], Mapping[str, Any]], say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Look until the benchmark is finished, and say what has changed. A short silence of the cluster ends nothing."""
    said: tuple[str, ...] = ()
    while True:
        item = _answered(look, say, sleep)
        status = resource.status_of(item)
        if resource.is_over(status):
            return
        told = resource.state(status, resource.called(item))
        for sentence in told:
            if sentence not in said:
                say(sentence)
        said = told
        sleep(LOOK_SECONDS)


def keep(found: Found, path: Path) -> tuple[Folder, Summary]:
    """Write a folder as `inferbench run` does, but for the raw calls, which no pod hands over.

    Raises:
        PlanError: it holds results of another plan, or somebody's files.
        EnvironmentFault: it holds results that the benchmark does not have, or cannot be written.
    """
    with folder.opened(path, found.plan, resource.benchmark_yaml(found.manifest), fresh=False) as opened:
        _require_own(opened, found)
        environment = resource.environment(found.results)
        (path / "results").mkdir(exist_ok=True)
        for result in found.results:
            opened.write(f"results/{result.sweep}.json", results.encode(result).decode())
        if environment:
            opened.write("environment.json", json.dumps(environment, indent=1, sort_keys=True) + "\n")
        return opened, run.write_answer(opened, found.benchmark, found.plan)


def _answered(
    look: Callable[[], Mapping[str, Any]], say: Callable[[str], None], sleep: Callable[[float], None]
) -> Mapping[str, Any]:
    """Look again as long as there is no answer, but not for ever."""
    for silences in range(MAX_SILENCES):
        try:
            return look()
        except UnreachableError as error:
            if silences == 0:
                say(f"{error} Trying again.")
            sleep(LOOK_SECONDS)
    return look()


def _require_own(opened: Folder, found: Found) -> None:
    """Refuse to put results with others: a plan may be measured twice, and the two answers are not one."""
    own = {result.sweep: result for result in found.results}
    others = [result.sweep for result in opened.results(found.plan) if own.get(result.sweep) != result]
    if others:
        raise EnvironmentFault(
            f"{opened.path} holds {len(others)} results that {found.name} does not have, the first of sweep "
            f"{others[0] + 1}. They are of another run, or their shard is gone; they stay as they are. "
            "Give --output another folder."
        )
