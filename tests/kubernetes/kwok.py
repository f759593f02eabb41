"""kwok, which plays nodes and pods by the thousand: every pod runs for a while and ends well with the same words.

    with Kwok(access, nodes=10, seconds=1, message=sweep_message(plan)):

Messages are the same but for the completion index; FakeKubelet is for pods that each say something of their own.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from inferbench_contract import result
from inferbench_contract.plan import Plan
from tests.kubernetes import sweeps, tools
from tests.kubernetes.access import Access
from tests.kubernetes.client import Object, eventually
from tests.kubernetes.fake_kubelet import INDEX
from tests.kubernetes.nodes import LEASE_SECONDS, a_node, a_status

INDEX_HERE = "{INDEX}"
"""Stands in a message for the pod's completion index."""

PLAYER = "inferbench.dev/played-by"
"""Marks the nodes that kwok looks after; it leaves alone those that have a heartbeat of ours."""

READY_SECONDS = 60

CONFIGURATION = {
    "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
    "kind": "KwokConfiguration",
    "options": {
        # Without leases the nodes are taken for dead after 50 s; the numbers are how much kwok does side by side.
        "nodeLeaseDurationSeconds": LEASE_SECONDS,
        "nodeLeaseParallelism": 4,
        "nodePlayStageParallelism": 4,
        "podPlayStageParallelism": 16,
        "podsOnNodeSyncParallelism": 4,
    },
}


class Kwok:
    """Nodes that kwok keeps alive, and their pods, for as long as the `with` block lasts."""

    def __init__(
        self,
        access: Access,
        nodes: int = 10,
        *,
        gpus: int = 0,
        seconds: float = 1,
        message: str = "",
        prefix: str = "kwok",
    ) -> None:
        """Let each pod run for `seconds`; INDEX_HERE in the message becomes its completion index."""
        self._access = access
        self._nodes = [a_node(f"{prefix}-{place}", gpus=gpus, labels={PLAYER: "kwok"}) for place in range(nodes)]
        self._gpus = gpus
        self._documents = [CONFIGURATION, _awake(), _runs(), _ends(seconds, message), _goes()]
        self._folder = tempfile.TemporaryDirectory(prefix="inferbench-kwok-")

    def __enter__(self) -> Self:
        """Create the nodes, start kwok and wait until the nodes are ready."""
        folder = Path(self._folder.name)
        config = folder / "stages.yaml"
        config.write_text("---\n".join(f"{json.dumps(document)}\n" for document in self._documents), encoding="utf-8")
        self.log = folder / "kwok.log"
        api = self._access.api()
        for node in self._nodes:
            api.create("/api/v1/nodes", node)
            api.patch(f"/api/v1/nodes/{node['metadata']['name']}/status", {"status": _asleep(node, self._gpus)})
        self._start(config)
        try:
            eventually(self._are_ready, READY_SECONDS, "the nodes of kwok to be ready")
        except AssertionError as error:
            self.__exit__()
            raise AssertionError(f"{error}. kwok's log ends with:\n{tools.tail(self.log)}") from error
        return self

    def __exit__(self, *_: object) -> None:
        """End kwok and remove the nodes."""
        self._process.kill()
        self._process.wait()
        for node in self._nodes:
            self._access.api().delete(f"/api/v1/nodes/{node['metadata']['name']}")
        self._folder.cleanup()

    def _start(self, config: Path) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", str(tools.tool("kwok")), f"--config={config}"]
        command += [f"--kubeconfig={self._access.kubeconfig('fake-kubelet')}"]
        command += ["--manage-all-nodes=false", f"--manage-nodes-with-label-selector={PLAYER}=kwok"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _are_ready(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"kwok ended with status {self._process.returncode}")
        names = {node["metadata"]["name"] for node in self._nodes}
        return names <= {
            node["metadata"]["name"]
            for node in self._access.api().items("/api/v1/nodes")
            if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
        }


def sweep_message(plan: Plan) -> str:
    """Return a result that is valid for every sweep of a plan whose sweeps have the same batch sizes."""
    first = result.encode(sweeps.a_result(plan, plan.sweeps[0])).decode()
    return first.replace('"sweep":0', f'"sweep":{INDEX_HERE}')


def _asleep(node: Object, gpus: int) -> dict[str, Any]:
    """Return the node's size without its being ready: kwok wakes it."""
    status = a_status(node["metadata"]["name"], gpus)
    return {key: status[key] for key in ("capacity", "allocatable", "addresses")}


def _stage(kind: str, name: str, selector: list[Object], status: str, seconds: float = 0) -> Object:
    """Return a stage: what matches the selector gets the status, a template of YAML, after so many seconds."""
    spec: Object = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": selector},
        "next": {"statusTemplate": status},
    }
    if seconds:
        spec["delay"] = {"durationMilliseconds": round(1000 * seconds)}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


def _awake() -> Object:
    """A node that is not ready becomes ready."""
    is_ready = {"key": '.status.conditions.[] | select( .type == "Ready" ) | .status', "operator": "NotIn"}
    times = "lastHeartbeatTime: {{ Now | Quote }}, lastTransitionTime: {{ Now | Quote }}"
    condition = f'{{type: Ready, status: "True", reason: KubeletReady, message: played by kwok, {times}}}'
    return _stage("Node", "node-wakes", [{**is_ready, "values": ["True"]}], f"conditions: [{condition}]")


def _runs() -> Object:
    selector = [_not_deleted(), {"key": ".status.phase", "operator": "In", "values": ["Pending"]}]
    state = "running: {startedAt: {{ Now | Quote }}}"
    status = f"phase: Running\nstartTime: {{{{ Now | Quote }}}}\n{_containers('true', state)}"
    return _stage("Pod", "pod-runs", selector, status)


def _ends(seconds: float, message: str) -> Object:
    selector = [_not_deleted(), {"key": ".status.phase", "operator": "In", "values": ["Running"]}]
    before, here, after = message.partition(INDEX_HERE)
    index = f'(or (index $root.metadata.annotations "{INDEX}") "")'
    said = f"printf `%s%s%s` `{before}` {index if here else '``'} `{after}`"
    times = "startedAt: {{ Now | Quote }}, finishedAt: {{ Now | Quote }}"
    state = f"terminated: {{exitCode: 0, reason: Completed, {times}, message: {{{{ {said} | Quote }}}}}}"
    status = f"phase: Succeeded\n{_containers('false', state)}"
    return _stage("Pod", "pod-ends", selector, status, seconds)


def _goes() -> Object:
    selector = [{"key": ".metadata.deletionTimestamp", "operator": "Exists"}]
    stage = _stage("Pod", "pod-goes", selector, "")
    return {**stage, "spec": {**stage["spec"], "next": {"delete": True}}}


def _not_deleted() -> Object:
    return {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}


def _containers(is_ready: str, state: str) -> str:
    """Return the statuses of all containers, as kwok's template of YAML."""
    container = (
        f"- {{name: {{{{ .name | Quote }}}}, image: {{{{ .image | Quote }}}}, ready: {is_ready}, restartCount: 0,"
    )
    each = f"{{{{ range .spec.containers }}}}\n{container} state: {{{state}}}}}\n{{{{ end }}}}\n"
    return f"{{{{ $root := . }}}}containerStatuses:\n{each}"
