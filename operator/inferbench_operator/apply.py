"""Does what was decided: the only module that writes to the API server.

Every write may be repeated: an object that is there already and is ours is as good as made, one that is gone with its
benchmark needs nothing. What the server refuses for a reason that a person has to know comes back as a `Refusal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferbench_operator import observed as observing
from inferbench_operator import paths
from inferbench_operator.api_errors import ApiError
from inferbench_operator.kube import Api
from inferbench_operator.observed import JOB_LABEL, Key, Refusal, SeenBenchmark, SeenJob, Trouble
from inferbench_operator.pods import Manifest
from inferbench_operator.reconcile import JobPatch


@dataclass(frozen=True)
class Hands:
    """Writes for one operator."""

    api: Api

    async def begin_stage(
        self, benchmark: SeenBenchmark, job: Manifest, plan_map: Manifest | None
    ) -> SeenJob | Refusal:
        """Make a stage's Job, after the ConfigMap that holds its plan. Raises ApiError where trying again may help."""
        namespace = benchmark.key.namespace
        try:
            if plan_map is not None:
                await self._made(paths.config_maps(namespace), plan_map, benchmark)
            return observing.job(await self._made(paths.jobs(namespace), job, benchmark))
        except NotOursError as error:
            return Refusal("NameTaken", str(error), is_final=False)
        except ApiError as error:
            return _refusal(error)

    async def keep_shard(self, benchmark: SeenBenchmark, manifest: Manifest) -> Mapping[str, str] | None:
        """Make a shard; return what it holds, which differs from what was sent where another operator was quicker.

        None where the name is taken by what does not belong to the benchmark. Raises UnkeptError where a person has to
        help, ApiError where trying again may.
        """
        try:
            made = await self._made(paths.config_maps(benchmark.key.namespace), manifest, benchmark)
        except NotOursError:
            return None
        except ApiError as error:
            raise UnkeptError(_unkept(error)) from error
        data: Mapping[str, str] = made.get("data") or {}
        return data

    async def write_status(self, benchmark: SeenBenchmark, status: dict[str, Any]) -> SeenBenchmark:
        """Replace the whole status of the version that the decision was made of. Raises ApiError (409) of another."""
        return await self._patch_status(benchmark, {"op": "add", "path": "/status", "value": status})

    async def write_conditions(self, benchmark: SeenBenchmark, told: list[dict[str, Any]]) -> SeenBenchmark:
        """Replace the conditions alone."""
        return await self._patch_status(benchmark, {"op": "replace", "path": "/status/conditions", "value": told})

    async def post(self, event: Manifest) -> None:
        """Post an event; one of its name was posted before."""
        try:
            await self.api.create(paths.events(event["metadata"]["namespace"]), event)
        except ApiError as error:
            if not (error.already_exists or error.is_forbidden or error.is_not_found):
                raise

    async def patch_job(self, key: Key, patch: JobPatch) -> SeenJob | None:
        """Change a Job's spec; None where it is gone."""
        try:
            return observing.job(await self.api.merge_patch(paths.jobs(key.namespace, patch.job), {"spec": patch.spec}))
        except ApiError as error:
            if error.is_not_found:
                return None
            raise

    async def delete(self, benchmark: SeenBenchmark) -> None:
        """Delete a benchmark whose time has come, and with it all that it owns; never one of its name made since."""
        options = {"preconditions": {"uid": benchmark.uid}, "propagationPolicy": "Background"}
        try:
            await self.api.delete(paths.benchmarks(benchmark.key.namespace, benchmark.key.name), options)
        except ApiError as error:
            if not (error.is_not_found or error.is_conflict):
                raise

    async def is_leaving(self, namespace: str) -> bool:
        """Ask by a trial write whether a namespace is being deleted; nobody needs the right to read namespaces."""
        trial = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "inferbench-trial-"}}
        try:
            await self.api.create(paths.config_maps(namespace), trial, dryRun="All")
        except ApiError as error:
            if error.is_terminating or error.is_not_found:
                return True
            if not (error.is_forbidden or error.is_lasting):
                raise  # that was no answer to the question
        return False

    async def pods_of(self, key: Key, job: SeenJob) -> list[dict[str, Any]]:
        """Return a Job's pods as they are now."""
        answer = await self.api.list(paths.pods(key.namespace), labelSelector=f"{JOB_LABEL}={job.name}")
        found: list[dict[str, Any]] = answer["items"]
        return found

    async def why_no_pods(self, key: Key, job: SeenJob) -> Trouble | None:
        """Ask the Job controller's events why it could not make pods."""
        about = f"involvedObject.uid={job.uid},reason=FailedCreate"
        found = (await self.api.list(paths.events(key.namespace), fieldSelector=about))["items"]
        latest = max(found, key=lambda event: event.get("lastTimestamp") or "", default=None)
        return None if latest is None else refused_pods(latest.get("message") or "")

    async def _patch_status(self, benchmark: SeenBenchmark, change: dict[str, Any]) -> SeenBenchmark:
        same = {"op": "replace", "path": "/metadata/resourceVersion", "value": benchmark.resource_version}
        path = paths.benchmarks(benchmark.key.namespace, benchmark.key.name, "status")
        return observing.benchmark(await self.api.json_patch(path, [same, change]))

    async def _made(self, path: str, manifest: Manifest, benchmark: SeenBenchmark) -> dict[str, Any]:
        """Make an object, or find out that it was made before. Raises NotOursError where the name is another's."""
        try:
            return await self.api.create(path, manifest)
        except ApiError as error:
            if not error.already_exists:
                raise
        found = await self.api.get(f"{path}/{manifest['metadata']['name']}")
        owners = [owner.get("uid") for owner in found["metadata"].get("ownerReferences") or ()]
        if benchmark.uid not in owners:
            raise NotOursError(manifest["kind"], manifest["metadata"]["name"])
        return found


class NotOursError(Exception):
    """An object's name is taken by one that belongs to something else."""

    def __init__(self, kind: str, name: str) -> None:
        """Name it, and say what helps."""
        super().__init__(
            f"{kind} {name} exists and does not belong to this benchmark. If it is left of an earlier one, it goes by "
            "itself soon; else delete it, or give the benchmark another name."
        )


class UnkeptError(Exception):
    """Results could not be put where they are safe."""

    def __init__(self, trouble: Trouble) -> None:
        """Keep what a person has to know."""
        super().__init__(trouble.message)
        self.trouble = trouble


def refused_pods(message: str) -> Trouble:
    """Sort what the Job controller says about pods that it could not make, and add what to do."""
    text = message.removeprefix("Error creating: ")
    if _is_quota(text):
        return Trouble("QuotaExceeded", f"{text}. Raise the namespace's ResourceQuota, or ask for less.")
    if "PodSecurity" in text:
        return Trouble("PodSecurityDenied", f"{text}. Mend spec.podTemplate, or the namespace's Pod Security level.")
    if "per Container" in text or "per Pod" in text or "LimitRange" in text:
        return Trouble("LimitRangeDenied", f"{text}. Change the namespace's LimitRange, or ask for what it allows.")
    return Trouble("PodsRefused", f"{text}. Mend spec.podTemplate or the policy that refuses it.")


def _refusal(error: ApiError) -> Refusal:
    """Tell what a person has to know; raise what only time mends."""
    if error.is_terminating:
        return Refusal("NamespaceTerminating", f"{error.message}. Nothing can be made in it any more.", is_final=False)
    if error.is_forbidden:
        is_quota = _is_quota(error.message)
        advice = "Raise the namespace's ResourceQuota." if is_quota else "Allow it, or change the benchmark."
        return Refusal("QuotaExceeded" if is_quota else "JobForbidden", f"{error.message}. {advice}", is_final=False)
    if error.is_lasting:
        advice = "Mend spec.podTemplate and create the benchmark anew."
        return Refusal("JobRefused", f"The API server refuses the Job: {error.message}. {advice}", is_final=True)
    raise error


def _unkept(error: ApiError) -> Trouble:
    """Tell why results cannot be kept; raise what only time mends."""
    if not (error.is_forbidden or error.is_lasting):
        raise error
    what = f"Results wait in their pods, because they cannot be kept in a ConfigMap: {error.message}."
    if _is_quota(error.message):
        return Trouble("QuotaExceeded", f"{what} Raise the namespace's ResourceQuota, or delete ConfigMaps.")
    return Trouble("ResultsRefused", f"{what} Let the operator create ConfigMaps there.")


def _is_quota(message: str) -> bool:
    return "exceeded quota" in message or "failed quota" in message
