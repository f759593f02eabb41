"""crds/ on a real API server: what it takes, what it refuses and in which words, what it keeps and what may change."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import yaml

from inferbench_contract import crd, document, plan, rules, schema
from tests.bad_specs import BAD_SPECS, EVERY_PRECISION, VALID, By, changed
from tests.kubernetes.client import ApiError
from tests.kubernetes.kubectl import KubectlError
from tests.stored import SPEC, filled_in
from tests.summaries import everything, over_full

pytestmark = pytest.mark.usefixtures("crds")

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
REFUSED_AT_APPLY = [bad for bad in BAD_SPECS if bad.by is not By.OPERATOR]
TAKEN_AT_APPLY = [bad for bad in BAD_SPECS if bad.by is By.OPERATOR]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="module")
def benchmarks(cluster):
    """The path of the benchmarks in one namespace for all tests here that store little or nothing."""
    name = f"crd-{secrets.token_hex(3)}"
    api = cluster.api()
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield benchmarks_in(name)
    api.delete(f"/api/v1/namespaces/{name}")


def benchmarks_in(namespace):
    return f"/apis/{crd.GROUP}/{crd.VERSION}/namespaces/{namespace}/{crd.PLURAL}"


def tried(api, benchmarks, body):
    """What the API server would store of an object; it stores nothing. As strict as kubectl is."""
    return api.create(benchmarks, body, dryRun="All", fieldValidation="Strict")


def refusal(act, *arguments, **query):
    """Why the API server refuses something."""
    with pytest.raises(ApiError) as refused:
        act(*arguments, **query)
    assert refused.value.status in {400, 422}
    return str(refused.value)


# ---- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", REFUSED_AT_APPLY, ids=lambda bad: bad.name)
def test_a_bad_spec_is_refused_at_apply_in_the_words_of_validate(api, benchmarks, bad):
    said = refusal(tried, api, benchmarks, bad.document)

    for told in bad.told_by_server:
        assert told in said


@pytest.mark.parametrize("bad", TAKEN_AT_APPLY, ids=lambda bad: bad.name)
def test_what_only_the_operator_can_know_is_taken_and_kept_as_it_is(api, benchmarks, bad):
    """It becomes Accepted=False: tests/cluster/test_operator.py."""
    stored = tried(api, benchmarks, bad.document)

    assert stored["spec"] == filled_in(SPEC, bad.document["spec"])


def test_kubectl_tells_the_place_and_what_was_expected(kubectl):
    bad = changed(VALID, {"spec.measurement.rounds": 3})

    with pytest.raises(KubectlError) as refused:
        kubectl.apply(bad)

    assert "spec.measurement.rounds" in refused.value.said
    assert "expected an even number, or 1 for a look without verdicts." in refused.value.said


def test_kubectl_tells_a_field_that_does_not_exist(kubectl):
    with pytest.raises(KubectlError, match=r"spec\.precision"):
        kubectl.apply(changed(VALID, {"spec.precision": ["fp32"]}))


# ---- what is right -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_taken_and_stays_the_same_benchmark(api, benchmarks, path):
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    written["metadata"].pop("namespace", None)

    stored = tried(api, benchmarks, written)

    mine, theirs = document.from_object(written, "mine"), document.from_object(stored, "theirs")
    assert theirs.spec == mine.spec
    assert plan.expand(theirs).hash == plan.expand(mine).hash


def test_defaults_are_what_the_unit_tests_take_them_for(api, benchmarks):
    stored = tried(api, benchmarks, dict(VALID))

    assert stored["spec"] == filled_in(SPEC, VALID["spec"])


def largest():
    """Every list as long and every text as long as it may be: what rules cost most for."""
    backends = [*schema.at(("spec", "backends"))["items"]["enum"]]
    pairs = [{"backend": b, "precision": p} for p in EVERY_PRECISION for b in backends]
    sizes = [*range(65_536 - 63, 65_537)]
    expectations = [
        {
            "name": f"{i:02}-".ljust(63, "x"),
            "faster": "torch-compile-max-autotune/fp8",
            "than": "torch-aot-inductor/fp8",
            "byMoreThan": {"faster": "torch-compile-max-autotune/fp8", "than": "torch-aot-inductor/fp8"},
            "by": "100.125x",
            "batchSizes": sizes,
        }
        for i in range(64)
    ]
    return {
        **VALID,
        "metadata": {"name": "a" * 45},
        "spec": {
            "model": {
                "python": {"factory": "m:" + "f" * 254, "kwargs": {f"k{i}": 1 for i in range(700)}},
                "inputs": [{"name": "n" * 128, "shape": [65_536] * 8}] * 64,
            },
            "backends": backends,
            "precisions": EVERY_PRECISION,
            "exclude": [*pairs[:41], *[pairs[0]] * 23],
            "batchSizes": sizes,
            "gpu": {"products": [f"{i:02}".ljust(63, "x") for i in range(64)]},
            "accuracy": {"minTop1Agreement": dict.fromkeys(EVERY_PRECISION, "99.125%")},
            "baseline": pairs[-1],
            "expectations": expectations,
            "podTemplate": {"spec": {"containers": [{"name": f"c{i}", "ports": [{}] * 20} for i in range(64)]}},
        },
    }


def test_the_largest_benchmark_that_there_can_be_is_taken(api, benchmarks):
    """The API server also limits what the rules may cost for one object."""
    asked = largest()

    stored = tried(api, benchmarks, asked)

    strategies = document.from_object(stored, "largest").spec.strategies
    assert len(strategies) * len(asked["spec"]["batchSizes"]) == 960


# ---- what may be changed -------------------------------------------------------------------------

FP32, FP16 = ({"backend": "torch-eager", "precision": precision} for precision in ("fp32", "fp16"))
STAYS = {
    "model": ({"onnx": {"path": "a.onnx"}}, {"onnx": {"path": "b.onnx"}}),
    "device": ("cpu", "gpu"),
    "backends": (["torch-eager", "onnxruntime"], ["onnxruntime", "torch-eager"]),
    "precisions": (["fp32", "fp16"], ["fp16", "fp32"]),
    "exclude": ([FP16], []),
    "batchSizes": ([1, 8], [1, 8, 32]),
    "backendOptions": ({"onnxruntime": {"interOpThreads": 2}}, {"onnxruntime": {"interOpThreads": 3}}),
    "gpu": ({"count": 2}, {"count": 2, "products": ["NVIDIA-L4"]}),
    "cpu": ({"threads": 2}, {"threads": 3}),
    "measurement": ({"rounds": 2}, {"rounds": 6}),
    "quantization": ({"calibration": "percentile"}, {"calibration": "entropy"}),
    "accuracy": ({"minTop1Agreement": {"fp32": "99%"}}, {"minTop1Agreement": {"fp32": "98%"}}),
    "objective": ({"batchSize": 8}, {"batchSize": 1}),
    "baseline": (FP32, {"backend": "onnxruntime", "precision": "fp32"}),
    "expectations": ([{"name": "it", "faster": "torch-eager/fp32", "than": "onnxruntime/fp32"}], []),
    "queueName": ("queue", "other"),
    "cache": ({"persistentVolumeClaim": "claim"}, {"persistentVolumeClaim": "other"}),
    "retries": (2, 3),
    "timeoutSecondsPerSweep": (60, 70),
    "maxFailedCells": (1, 2),
    "image": ("registry.example/runner:1", "registry.example/runner:2"),
    "podTemplate": (
        {"spec": {"nodeSelector": {"pool": "a"}, "priorityClassName": "low"}},
        {"spec": {"nodeSelector": {"pool": "b"}, "priorityClassName": "low"}},
    ),
}
"""For each field that stays: a value that is not its default, and another one."""

REQUIRED = ("model", "backends", "batchSizes")
BASE = {**VALID["spec"], "precisions": ["fp32", "fp16"]}


def made(api, benchmarks, name, **spec):
    """Make a benchmark and return its path."""
    api.create(benchmarks, {**VALID, "metadata": {"name": name}, "spec": {**BASE, **spec}})
    return f"{benchmarks}/{name}"


def replaced(api, path, **spec):
    """What would be stored if fields of a benchmark were replaced; None leaves one out."""
    found = api.get(path)
    found["spec"] = {name: value for name, value in {**found["spec"], **spec}.items() if value is not None}
    return api.request("PUT", path, found, query={"dryRun": "All"})


def test_every_field_is_tried():
    assert set(STAYS) | set(rules.CHANGEABLE) == set(schema.fields(("spec",)))


@pytest.mark.parametrize("field", STAYS)
def test_a_field_stays_as_it_is(api, benchmarks, field):
    value, other = STAYS[field]
    path = made(api, benchmarks, f"stays-{field.lower()}", **{field: value})

    said = refusal(replaced, api, path, **{field: other})

    assert f"spec.{field}: Invalid value" in said
    assert rules.UNCHANGED in said
    assert replaced(api, path)["spec"] == api.get(path)["spec"]


@pytest.mark.parametrize("field", [name for name in STAYS if name not in REQUIRED])
def test_a_field_does_not_go(api, benchmarks, field):
    path = made(api, benchmarks, f"goes-{field.lower()}", **{field: STAYS[field][0]})

    assert rules.UNCHANGED in refusal(replaced, api, path, **{field: None})


@pytest.mark.parametrize("field", [name for name in STAYS if name not in BASE])
def test_a_field_does_not_come(api, benchmarks, field):
    path = made(api, benchmarks, f"comes-{field.lower()}")

    assert rules.UNCHANGED in refusal(replaced, api, path, **{field: STAYS[field][0]})


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("suspend", (True, False, None)),
        ("parallelism", (4, 1, None)),
        ("ttlSecondsAfterFinished", (0, 86_400, None)),
    ],
)
def test_what_may_change_changes_comes_and_goes(api, benchmarks, field, values):
    path = made(api, benchmarks, f"changes-{field.lower()}")

    for value in values:
        api.patch(path, {"spec": {field: value}})
        if value is not None:
            assert api.get(path)["spec"][field] == value


def test_labels_and_annotations_may_change(kubectl):
    kubectl.apply(dict(VALID))

    kubectl.run("label", "ibench/good", "team=vision")
    kubectl.run("annotate", "ibench/good", "example.com/why=because")

    assert kubectl.get("ibench", "good")["metadata"]["labels"] == {"team": "vision"}


def test_applying_the_same_again_changes_nothing(kubectl):
    """What the API server filled in is no change: neither for kubectl, nor for what compares files with a cluster."""
    kubectl.apply(dict(VALID), "--server-side")
    before = kubectl.get("ibench", "good")["metadata"]

    kubectl.apply(dict(VALID), "--server-side")

    assert kubectl.get("ibench", "good")["metadata"]["generation"] == before["generation"] == 1
    assert kubectl.get("ibench", "good")["metadata"]["resourceVersion"] == before["resourceVersion"]


# ---- the status ----------------------------------------------------------------------------------


def a_status(summary):
    """A status in which everything is said that can be said."""
    time = "2026-11-25T20:38:00Z"
    kinds = ("Accepted", "Running", "Suspended", "QuotaReserved", "HardwareUniform", "ResultsComplete",
             "ExpectationsMet", "Succeeded", "Finished")  # fmt: skip
    conditions = [
        {"type": kind, "status": "True", "reason": "AllCellsMeasured", "message": "It is. " * 100,
         "lastTransitionTime": time, "observedGeneration": 1}
        for kind in kinds
    ]  # fmt: skip
    return {
        "observedGeneration": 1,
        "conditions": conditions,
        "startTime": time,
        "completionTime": time,
        "plan": {"hash": "34bed1a750", "rounds": 4},
        "cells": summary["cells"],
        "sweeps": summary["sweeps"],
        "stages": [{"job": f"good-34bed1a750-{i}", "sweeps": 12, "reason": "Completed"} for i in range(3)],
        "best": "onnxruntime/fp32@1",
        "speedup": "1.77x",
        "hardware": "NVIDIA A100-SXM4-80GB, driver 570.86",
        "summary": {key: value for key, value in summary.items() if value is not None},
        "shards": [{"configMap": f"good-34bed1a750-r{i}", "sweeps": 64, "sha256": "0" * 64} for i in range(64)],
    }


@pytest.mark.parametrize("summary", [everything, over_full], ids=lambda summary: summary.__name__)
def test_a_status_that_says_everything_is_kept_whole(api, benchmarks, summary):
    path = made(api, benchmarks, f"has-{summary.__name__.replace('_', '-')}")
    said = a_status(summary())

    api.patch(f"{path}/status", {"status": said})

    assert api.get(path)["status"] == said


def test_the_status_is_not_written_with_the_spec(api, benchmarks):
    """Only who may write `inferencebenchmarks/status` writes it."""
    stored = api.create(benchmarks, {**VALID, "status": {"best": "mine"}})

    assert "status" not in stored


def test_kubectl_get_shows_the_answer_in_a_line(api, kubectl, namespace):
    path = made(api, benchmarks_in(namespace), "good")
    api.patch(f"{path}/status", {"status": a_status(everything())})

    head, line = kubectl.run("get", "ibench").splitlines()

    assert head.split() == ["NAME", *(name.upper() for name, *_ in crd.COLUMNS)]
    assert line.split()[:6] == ["good", "True", "AllCellsMeasured", "12", "12", "1"]
    assert "onnxruntime/fp32@1" in line
    assert "1.77x" in line


def test_kubectl_finds_it_by_all_its_names_and_by_its_category(kubectl):
    kubectl.apply(dict(VALID))

    for name in ("ibench", "inferencebenchmark", "inferencebenchmarks", "inferbench"):
        assert "good" in kubectl.run("get", name, "--output", "name")


def test_kubectl_explains_fields_of_spec_and_status_in_our_words(kubectl):
    rounds = kubectl.run("explain", "ibench.spec.measurement.rounds")
    weights = kubectl.run("explain", "ibench.spec.model.torchvision.weights")
    best = kubectl.run("explain", "ibench.status.summary.best")

    assert "an even number" in " ".join(rounds.split())
    assert "random (seeded" in " ".join(weights.split())
    assert "The strategy with the lowest latency." in " ".join(best.split())


# ---- the definition ------------------------------------------------------------------------------


def test_the_definition_is_structural_and_its_names_are_its_own(api):
    conditions = api.get(f"{DEFINITIONS}/{crd.PLURAL}.{crd.GROUP}")["status"]["conditions"]

    found = {condition["type"]: condition["status"] for condition in conditions}
    assert found == {"NamesAccepted": "True", "Established": "True"}


def test_the_definition_without_rules_for_pod_templates_is_taken_too(api):
    privileged = crd.definition(allow_privileged_pod_templates=True)
    path = f"{DEFINITIONS}/{crd.PLURAL}.{crd.GROUP}"

    stored = api.patch(path, privileged, "apply", fieldManager="inferbench-tests", force="true", dryRun="All")

    spec = stored["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    template = spec["properties"]["podTemplate"]["properties"]["spec"]
    assert "hostNetwork" not in template.get("properties", {})
