"""The operator under the rights that the chart gives it, and no others: none is refused, and none is left unused."""

from __future__ import annotations

import pytest

from inferbench_contract import document
from inferbench_contract import plan as plans
from tests.cluster.benchmarks import SECONDS, a_benchmark, until
from tests.cluster.conftest import drop_namespace, install_crds, new_namespace
from tests.kubernetes.fake_kubelet import FakeKubelet
from tests.kubernetes.operators import RELEASE, Operator, give_rights
from tests.kubernetes.proxy import Fault, FaultProxy
from tests.kubernetes.sweeps import Sweeps

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("is_everywhere", [True, False], ids=["ClusterRole", "Role"])
def test_the_operator_needs_every_right_of_its_role_and_no_other(own_cluster, is_everywhere):
    access, api = own_cluster.access, own_cluster.api()
    install_crds(own_cluster.kubectl())
    namespace = new_namespace(api)
    watched = "" if is_everywhere else namespace
    with FaultProxy(access) as proxy, FakeKubelet(access, Sweeps(api)):
        give_rights(access, watched)
        token = api.token_of(watched or "default", RELEASE)
        with Operator(access, watched, kubeconfig=proxy.kubeconfig("operator", token)):
            see_everything(own_cluster.kubectl(namespace=namespace), proxy)

    asked = [request for request in access.audit() if request.agent.startswith("inferbench-operator/")]
    assert [request for request in asked if request.status == 403] == []
    assert {(request.verb, request.resource) for request in asked if request.resource} == granted(api, watched)


@pytest.mark.usefixtures("crds", "kubelet")
def test_a_namespace_that_is_refused_does_not_keep_the_others_waiting(cluster, api, namespace, kubectl, on_fake_nodes):
    """Who deletes a namespace deletes its RoleBinding too, and may know nothing of the operator."""
    other = new_namespace(api)
    with Operator(cluster, namespace, more=(other,)) as operator:
        operator.kill()
        api.delete(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{other}/rolebindings/{RELEASE}")

        operator.start()
        kubectl.apply(a_benchmark(on_nodes=on_fake_nodes))

        until(kubectl, "Succeeded", "AllCellsMeasured")
        assert f"Namespace {other} is not served" in operator.said
        assert operator.stop() == 0
    drop_namespace(api, other)


def granted(api, watched):
    """Return what the operator's role allows, as pairs of verb and resource."""
    place = f"namespaces/{watched}/roles" if watched else "clusterroles"
    role = api.get(f"/apis/rbac.authorization.k8s.io/v1/{place}/{RELEASE}")
    return {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


def see_everything(kubectl, proxy):
    """Bring about all that a right is for: names that are taken, pods that are refused, a time that is over."""
    refused = a_benchmark("refused", cpu={"threads": 2})
    proxy.inject(Fault(status=500, verb="create", path="*/configmaps", is_late=True))
    limits = {"limits": [{"type": "Container", "max": {"cpu": "1500m"}}]}
    kubectl.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": limits})
    kubectl.apply(a_stranger(refused))
    kubectl.apply([refused, a_benchmark("short", ttlSecondsAfterFinished=1)])

    until(kubectl, "Running", "NameTaken", "refused")
    kubectl.delete("jobs", "--selector=stranger", wait=True)
    until(kubectl, "Running", "LimitRangeDenied", "refused")
    kubectl.run("wait", "--for=delete", "ibench/short", f"--timeout={SECONDS}s")


def a_stranger(benchmark):
    """Return a Job that has the name of a benchmark's first one, and is none of ours."""
    name = benchmark["metadata"]["name"]
    plan = plans.expand(document.from_object(benchmark, name))
    container = {"name": "it", "image": "it"}
    template = {"spec": {"containers": [container], "restartPolicy": "Never"}}
    head = {"name": f"{name}-{plan.short_hash}-0", "labels": {"stranger": ""}}
    spec = {"suspend": True, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": head, "spec": spec}
