"""What Helm makes of the chart, a real API server takes; and it gives exactly the rights that it says."""

from __future__ import annotations

import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferbench_contract import crd
from inferbench_operator.settings import Settings
from tests.kubernetes import tools
from tests.kubernetes.client import eventually
from tests.kubernetes.kubectl import KubectlError

pytestmark = pytest.mark.cluster

CHART = Path(__file__).resolve().parents[2] / "charts/inferbench"
RELEASE = "inferbench"
DEFINITION = f"{crd.PLURAL}.{crd.GROUP}"

Objects = dict[tuple[str, str, str], dict[str, Any]]

MANY = {
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "key"}],
    "serviceAccount": {"annotations": {"example.com/a": "b"}},
    "podLabels": {"team": "a"},
    "podAnnotations": {"example.com/a": "b"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "priorityClassName": "system-cluster-critical",
    "service": {"annotations": {"example.com/a": "b"}},
    "runner": {
        "imagePullSecrets": ["key", "other-key"],
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [],
        "priorityClassName": "low",
        "cpu": 4,
    },
    "settings": {"maxResultSeries": 10_000_000, "httpPort": 9000, "logFormat": "text"},
    "allowPrivilegedPodTemplates": True,
}
"""A value of each kind that the chart's own values leave empty."""


def helm(*arguments: str) -> str:
    done = subprocess.run(
        [str(tools.tool("helm")), *arguments], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def render(tmp_path):
    """Return the objects of a release in a namespace, by kind, namespace and name."""

    def rendered(namespace: str = "default", values: dict[str, Any] | None = None) -> Objects:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values or {}), encoding="utf-8")
        flags = ("--namespace", namespace, "--values", str(file), "--kube-version", "1.33")
        text = helm("template", RELEASE, str(CHART), *flags)
        objects = [each for each in yaml.safe_load_all(text) if each]
        return {key(each): each for each in objects}

    return rendered


def key(each: dict[str, Any]) -> tuple[str, str, str]:
    return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]


def the(objects: Objects, kind: str) -> dict[str, Any]:
    (found,) = [each for each in objects.values() if each["kind"] == kind]
    return found


def variables(objects: Objects) -> dict[str, str]:
    (container,) = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_helm_finds_no_fault_in_it():
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize("values", [pytest.param({}, id="its own values"), pytest.param(MANY, id="many others")])
def test_the_api_server_takes_every_object_as_it_is(kubectl, namespace, render, values):
    objects = render(namespace, values)

    said = kubectl.run(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-",
        given=yaml.safe_dump_all(objects.values()),
    )  # fmt: skip

    assert len(said.splitlines()) == len(objects) == 6


def test_the_operator_s_pod_passes_restricted_pod_security(api, kubectl, namespace, render):
    enforce = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    api.patch(f"/api/v1/namespaces/{namespace}", enforce)
    objects = render(namespace)
    kubectl.apply(the(objects, "ServiceAccount"))
    template = the(objects, "Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], "name": "operator"}}

    assert "created (server dry run)" in kubectl.create(pod, "--dry-run=server")


class TestSettings:
    def test_the_operator_reads_the_chart_s_own_values_as_its_defaults(self, render):
        given = variables(render())

        version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
        assert Settings.from_environment(given) == Settings(runner_image=f"inferbench-runner:{version}")

    def test_it_reads_others_as_they_are_meant(self, render):
        found = Settings.from_environment(variables(render(values={**MANY, "watchNamespaces": ["a", "b"]})))

        assert found.watch_namespaces == ("a", "b")
        assert found.image_pull_secrets == ("key", "other-key")
        assert found.runner_node_selector == {"pool": "gpu"}
        assert found.runner_tolerations == ()
        assert (found.runner_priority_class, found.runner_cpu) == ("low", "4")
        assert (found.max_result_series, found.port, found.log_format) == (10_000_000, 9000, "text")
        assert found.allow_privileged_pod_templates is True

    def test_an_image_without_a_repository_is_none(self, render):
        given = variables(render(values={"runner": {"image": {"repository": ""}}}))

        assert Settings.from_environment(given).runner_image == ""

    def test_a_digest_goes_before_a_tag(self, render):
        digest = f"sha256:{'1' * 64}"
        image = {"repository": "here/runner", "tag": "old", "digest": digest}

        given = variables(render(values={"runner": {"image": image}}))

        assert Settings.from_environment(given).runner_image == f"here/runner@{digest}"

    def test_the_port_is_the_same_everywhere(self, render):
        objects = render(values={"settings": {"httpPort": 9000}})
        template = the(objects, "Deployment")["spec"]["template"]
        (container,) = template["spec"]["containers"]

        assert container["ports"] == [{"name": "metrics", "containerPort": 9000}]
        assert template["metadata"]["annotations"]["prometheus.io/port"] == "9000"
        assert the(objects, "Service")["metadata"]["annotations"]["prometheus.io/port"] == "9000"


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")

RESOURCES = (
    ("inferbench.dev", "inferencebenchmarks", ""), ("inferbench.dev", "inferencebenchmarks", "status"),
    ("batch", "jobs", ""), ("batch", "jobs", "status"), ("batch", "cronjobs", ""), ("apps", "deployments", ""),
    ("", "pods", ""), ("", "pods", "log"), ("", "pods", "exec"), ("", "configmaps", ""), ("", "secrets", ""),
    ("", "events", ""), ("events.k8s.io", "events", ""), ("", "serviceaccounts", "token"), ("", "namespaces", ""),
    ("", "nodes", ""), ("", "persistentvolumeclaims", ""), ("rbac.authorization.k8s.io", "roles", ""),
    ("rbac.authorization.k8s.io", "clusterrolebindings", ""),
    ("apiextensions.k8s.io", "customresourcedefinitions", ""),
)  # fmt: skip
"""What the operator uses, and what somebody who took it over would like to have."""

RIGHTS = {
    ("inferbench.dev", "inferencebenchmarks", ""): {"list", "watch", "delete"},
    ("inferbench.dev", "inferencebenchmarks", "status"): {"patch"},
    ("batch", "jobs", ""): {"get", "list", "watch", "create", "patch"},
    ("", "pods", ""): {"list", "watch"},
    ("", "configmaps", ""): {"get", "create"},
    ("", "events", ""): {"create", "list"},
}


def rights(api, user: str, namespace: str) -> dict[tuple[str, str, str], set[str]]:
    """Ask the API server what a user may do in a namespace."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for resource, verb in product(RESOURCES, VERBS):
        about = dict(zip(("group", "resource", "subresource"), resource, strict=True))
        asked = {"user": user, "resourceAttributes": {**about, "verb": verb, "namespace": namespace}}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": asked}
        if api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"]:
            found.setdefault(resource, set()).add(verb)
    return found


class TestRights:
    def given(self, kubectl, namespace: str, objects: Objects) -> str:
        """Apply what gives rights, and return who has them."""
        kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
        kubectl.apply([each for each in objects.values() if each["kind"] in kinds])
        return f"system:serviceaccount:{namespace}:{the(objects, 'ServiceAccount')['metadata']['name']}"

    def test_with_namespaces_it_has_them_there_and_none_elsewhere(self, api, kubectl, namespace, render):
        objects = render(namespace, {"watchNamespaces": [namespace]})

        user = self.given(kubectl, namespace, objects)

        eventually(lambda: rights(api, user, namespace) == RIGHTS, 10, "the rights to be given")
        assert rights(api, user, "default") == {}
        assert not [kind for kind, *_ in objects if kind.startswith("Cluster")]

    def test_without_it_has_them_in_all_namespaces(self, api, cluster, namespace, render):
        objects = render(namespace, {"fullnameOverride": namespace})  # of its own: a ClusterRole is everybody's

        user = self.given(cluster.kubectl(), namespace, objects)
        try:
            eventually(lambda: rights(api, user, "default") == RIGHTS, 10, "the rights to be given")
            assert rights(api, user, "") == RIGHTS
        finally:
            cluster.kubectl().delete("clusterrole,clusterrolebinding", namespace)

    def test_without_rbac_it_gives_none(self, render):
        kinds = {kind for kind, *_ in render(values={"rbac": {"create": False}})}

        assert kinds == {"CustomResourceDefinition", "ServiceAccount", "Deployment", "Service"}


class TestResourceDefinition:
    def test_it_is_the_contract_s_and_stays_when_the_chart_goes(self, render):
        found = the(render(), "CustomResourceDefinition")

        assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert found == crd.definition()

    def test_it_goes_with_the_chart_when_it_is_told_to(self, render):
        assert the(render(values={"crds": {"keep": False}}), "CustomResourceDefinition") == crd.definition()

    def test_with_privileged_pod_templates_it_is_the_variant_for_them(self, render):
        found = the(render(values={"allowPrivilegedPodTemplates": True}), "CustomResourceDefinition")

        assert found["spec"] == crd.definition(allow_privileged_pod_templates=True)["spec"]

    def test_it_can_be_left_to_others(self, render):
        assert "CustomResourceDefinition" not in {kind for kind, *_ in render(values={"crds": {"install": False}})}


def test_a_release_comes_is_upgraded_and_goes_and_the_benchmarks_stay(own_cluster):
    """As the chart's README tells it, on a cluster of its own: the definition of the resource is everybody's."""
    kubectl = own_cluster.kubectl()
    flags = ("--kubeconfig", str(own_cluster.kubeconfig()), "--namespace", "inferbench-system")
    privileged = a_benchmark("privileged", podTemplate={"spec": {"hostNetwork": True}})

    said = helm("install", RELEASE, str(CHART), "--create-namespace", *flags)

    assert "inferbench 0.1.0 serves all namespaces." in said
    kubectl.wait(f"crd/{DEFINITION}", condition="condition=Established")
    kubectl.apply(a_benchmark("mine"))
    with pytest.raises(KubectlError, match="it gives the pod rights"):
        kubectl.apply(privileged)

    said = helm("upgrade", RELEASE, str(CHART), "--set", "allowPrivilegedPodTemplates=true", *flags)

    assert "WARNING: allowPrivilegedPodTemplates is on." in said
    eventually(lambda: kubectl.apply(privileged), 30, "the upgraded definition to be served")

    helm("uninstall", RELEASE, *flags)

    assert {each["metadata"]["name"] for each in kubectl.get("ibench")["items"]} == {"mine", "privileged"}

    helm("install", RELEASE, str(CHART), *flags)

    assert kubectl.get("deployment", "inferbench", "-n", "inferbench-system")["spec"]["replicas"] == 1


def a_benchmark(name: str, **spec: Any) -> dict[str, Any]:
    small = {"model": {"torchvision": {"name": "resnet50"}}, "backends": ["onnxruntime"], "batchSizes": [1]}
    head = {"apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": {"name": name}}
    return {**head, "spec": {**small, **spec}}
