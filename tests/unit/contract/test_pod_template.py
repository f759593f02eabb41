"""What a pod template may be: its mistakes are told with their places."""

from __future__ import annotations

import pytest

from inferbench_contract.pod_template import MERGE_KEYS, POD_SHAPES
from tests.builders import a_document
from tests.mistakes import mistakes, the_mistake

RIGHTS = [
    "serviceAccountName: admin",
    "automountServiceAccountToken: true",
    "hostNetwork: true",
    "hostPID: true",
    "hostUsers: true",
    "volumes: [{name: v, hostPath: {path: /}}]",
    "volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]",
    "volumes: [{name: v, projected: {sources: [{podCertificate: {keyType: ED25519}}]}}]",
    "volumes: [{name: v, csi: {driver: secrets-store.csi.k8s.io}}]",
    "containers: [{name: c, ports: [{containerPort: 1, hostPort: 1}]}]",
    "initContainers: [{name: c, securityContext: {capabilities: {add: [NET_ADMIN]}}}]",
    "containers: [{name: c, securityContext: {allowPrivilegeEscalation: true}}]",
]


@pytest.mark.parametrize("right", RIGHTS)
def test_a_pod_template_cannot_make_the_operator_its_authors_deputy(right):
    assert "rights that its author may not have" in the_mistake(a_document(podTemplate=f"{{spec: {{{right}}}}}"))


def test_a_pod_template_may_give_up_rights_and_place_the_pod():
    modest = (
        "automountServiceAccountToken: false, hostUsers: false, hostAliases: [], nodeSelector: {a: b},"
        " containers: [{name: c, securityContext: {runAsNonRoot: true, capabilities: {drop: [ALL]}}}]"
    )

    assert mistakes(a_document(podTemplate=f"{{spec: {{{modest}}}}}")) == ()


@pytest.mark.parametrize(
    ("template", "mistake"),
    [
        ("metadata:", "metadata: found nothing, expected a value"),
        ("metadata: {labels:}", "metadata.labels: found nothing, expected a value"),
        ("metadata: {labels: [a=b]}", "metadata.labels: found a list, expected a mapping."),
        ("spec: text", "spec: found text, expected a mapping."),
        ("spec: {automountServiceAccountToken:}", "spec.automountServiceAccountToken: found nothing"),
        ("spec: {containers: {runner: {}}}", "spec.containers: found a mapping, expected a list."),
        ("spec: {containers: [runner]}", "spec.containers[0]: found text, expected a mapping."),
        ("spec: {containers: [{image: x}]}", "spec.containers[0]: found an entry without a name, expected one."),
        ("spec: {containers: [{name: {a: b}}]}", "spec.containers[0].name: found a mapping, expected text."),
        ("spec: {containers: [{name: c, env:}]}", "spec.containers[0].env: found nothing"),
        ("spec: {containers: [{name: c, env: {A: b}}]}", "spec.containers[0].env: found a mapping, expected a list."),
        ("spec: {initContainers: [{name: c, env: [{value: a}]}]}", "spec.initContainers[0].env[0]: found an entry"),
        (
            "spec: {containers: [{name: c, ports: [{containerPort: '1'}]}]}",
            "containerPort: found text, expected a number.",
        ),
        ("spec: {tolerations: [{key: [a]}]}", "spec.tolerations[0].key: found a list, expected text."),
    ],
)
def test_a_pod_template_of_a_shape_that_cannot_be_merged_is_a_mistake(template, mistake):
    assert mistake in the_mistake(a_document(podTemplate=f"{{{template}}}"))


def test_every_list_that_is_merged_entry_by_entry_has_its_shape_looked_at():
    assert {place[-1] for place, kind in POD_SHAPES.items() if kind is list} == set(MERGE_KEYS)
