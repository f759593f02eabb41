"""An API server as far as one controller asks it: objects by path, versions that grow, and failures on order.

It decides nothing that Kubernetes decides; what the real one does is tested on the real one (tests/cluster): see
docs/decisions/0010.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferbench_operator.api_errors import ApiError
from inferbench_operator.paths import resource_of

Json = dict[str, Any]


@dataclass
class Store:
    """Objects by path; `writes` are told as `create jobs`, in the order in which they were asked for."""

    objects: dict[str, Json] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    refuse: Callable[[str], ApiError | None] = lambda _: None
    """Says what a write is answered instead."""
    version: int = 100

    async def get(self, path: str, **_: object) -> Json:
        """Read one object."""
        if path not in self.objects:
            raise ApiError(f"GET {path}", 404, "NotFound", "not found")
        return copy.deepcopy(self.objects[path])

    async def list(self, path: str, **_: object) -> Json:
        """Read all objects of a collection."""
        found = [item for name, item in self.objects.items() if name.rpartition("/")[0] == path]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": copy.deepcopy(found)}

    async def create(self, path: str, body: Mapping[str, Any], **query: object) -> Json:
        """Make an object, unless one of its name is there; a trial (`dryRun`) leaves nothing."""
        self._asked("create", path)
        if "dryRun" in query:
            return dict(body)
        name = f"{path}/{body['metadata']['name']}"
        if name in self.objects:
            raise ApiError(f"POST {path}", 409, "AlreadyExists", "already exists")
        told = {"uid": f"uid-of-{body['metadata']['name']}", "creationTimestamp": "2026-01-01T12:00:00Z"}
        return self._stored(name, {**copy.deepcopy(dict(body)), "metadata": {**told, **body["metadata"]}})

    async def json_patch(self, path: str, operations: Sequence[Mapping[str, Any]]) -> Json:
        """Replace a status, or its conditions, of the version that the patch names."""
        self._asked("patch", path)
        name = path.removesuffix("/status")
        item = await self.get(name)
        same, change = operations
        if same["value"] != item["metadata"]["resourceVersion"]:
            raise ApiError(f"PATCH {path}", 409, "Conflict", "the object has been modified")
        if change["path"] == "/status":
            item["status"] = change["value"]
        else:
            item["status"]["conditions"] = change["value"]
        return self._stored(name, item)

    async def merge_patch(self, path: str, body: Mapping[str, Any]) -> Json:
        """Change an object's spec."""
        self._asked("patch", path)
        item = await self.get(path)
        item["spec"] |= body["spec"]
        return self._stored(path, item)

    async def delete(self, path: str, body: Mapping[str, Any]) -> Json:
        """Delete an object, if it has the uid that the preconditions name."""
        self._asked("delete", path)
        if body["preconditions"]["uid"] != (await self.get(path))["metadata"]["uid"]:
            raise ApiError(f"DELETE {path}", 409, "Conflict", "the UID in the precondition does not match")
        return self.objects.pop(path)

    def of(self, resource: str) -> dict[str, Json]:
        """Return all objects of a kind by name."""
        return {
            path.rpartition("/")[2]: item for path, item in self.objects.items() if resource_of(path)[0] == resource
        }

    def _stored(self, path: str, item: Json) -> Json:
        self.version += 1
        item["metadata"] = {**item["metadata"], "resourceVersion": str(self.version)}
        self.objects[path] = item
        return copy.deepcopy(item)

    def _asked(self, verb: str, path: str) -> None:
        said = f"{verb} {resource_of(path)[0]}"
        if (error := self.refuse(said)) is not None:
            raise error
        self.writes.append(said)
