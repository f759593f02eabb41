"""Reading a benchmark: what is right is read, and what is wrong is named with its line, all of it at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbench_contract import document, schema
from inferbench_contract.errors import SpecError
from inferbench_contract.spec import Calibration, InferenceBenchmark, Layout
from inferbench_contract.words import Backend, Device, Precision
from tests.builders import a_benchmark, a_document

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
GENERATED = settings(max_examples=max(200, settings().max_examples))
"""Enough to meet most branches in seconds; 10,000 with INFERBENCH_HYPOTHESIS=thorough."""

SENTENCE = re.compile(r"f\.yaml(:\d+)?: (.+?: )?found .+[.?]", re.DOTALL)
PYDANTICS_WORDS = ("Input should", "validation error", "value_error", "Value error", "type=", "errors.pydantic")


def mistakes(text: str) -> tuple[str, ...]:
    """What is wrong with a document called f.yaml, in words that are ours; nothing if it is right."""
    try:
        document.parse_all(text, "f.yaml")
    except SpecError as error:
        for mistake in error.mistakes[: document.MAX_MISTAKES]:
            assert SENTENCE.fullmatch(mistake), mistake
            assert not any(word in mistake for word in PYDANTICS_WORDS), mistake
        return error.mistakes
    return ()


def the_mistake(text: str) -> str:
    """The only thing that is wrong with a document."""
    (mistake,) = mistakes(text)
    return mistake.removeprefix("f.yaml:")


class Quoting(yaml.SafeDumper):
    """Writes every text in quotes, as nobody can misread it."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def as_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=Quoting, allow_unicode=True, sort_keys=False)


# ---- what a reader is told -----------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file():
    text = a_document(
        backends="[torch-eager, tensort]",
        batchSizes="[1, 8, 0]",
        precision="[fp32]",
        measurement="{rounds: 3}",
        objective="{batchSize: 4}",
    )

    assert mistakes(text) == (
        f'f.yaml:7: spec.backends[1]: found "tensort", expected one of {", ".join(Backend)}: did you mean tensorrt?',
        "f.yaml:8: spec.batchSizes[2]: found 0, expected an integer from 1 to 65536.",
        "f.yaml:9: spec.precision: found an unknown field, did you mean precisions?",
        "f.yaml:10: spec.measurement.rounds: found 3, expected an even number, or 1 for a look without verdicts.",
    )


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        pytest.param(
            {"batch_sizes": "[1]"},
            "9: spec.batch_sizes: found an unknown field, did you mean batchSizes?",
            id="snake case",
        ),
        pytest.param(
            {"measurement": "{maxSeconds: 3}"},
            "9: spec.measurement.maxSeconds: found an unknown field, did you mean maxSecondsPerCell?",
            id="the beginning of a name",
        ),
        pytest.param(
            {"measurement": "{seconds_per_cell: 3}"},
            "9: spec.measurement.seconds_per_cell: found an unknown field, did you mean maxSecondsPerCell?",
            id="a part of a name",
        ),
        pytest.param(
            {"rounds": "4"},
            "9: spec.rounds: found an unknown field, expected it in spec.measurement.",
            id="a field in the wrong place",
        ),
        pytest.param(
            {"cpu": "{cores: 4}"},
            "9: spec.cpu.cores: found an unknown field, expected threads.",
            id="a field that is nothing like it",
        ),
        pytest.param(
            {"batchSizes": None},
            "4: spec.batchSizes: found nothing, expected a list of 1 to 64 items.",
            id="a missing field is told with the line of what it belongs to",
        ),
        pytest.param(
            {"batchSizes": "[]"},
            "8: spec.batchSizes: found 0 items, expected a list of 1 to 64 items.",
            id="an empty list",
        ),
        pytest.param(
            {"batchSizes": "[1, 8, 1]"},
            "8: spec.batchSizes[2]: found 1 a second time, expected each once.",
            id="a batch size twice",
        ),
        pytest.param(
            {"batchSizes": '["8"]'},
            '8: spec.batchSizes[0]: found "8", expected an integer from 1 to 65536.',
            id="a number in quotes",
        ),
        pytest.param(
            {"suspend": "1"},
            "9: spec.suspend: found 1, expected true or false.",
            id="a number for a boolean",
        ),
        pytest.param(
            {"queueName": "x" * 300},
            f'9: spec.queueName: found "{"x" * 56}..., expected lower-case letters, digits, hyphens and dots'
            " of at most 253 characters such as gpu-queue.",
            id="a long value is cut",
        ),
        pytest.param(
            {"accuracy": "{minTop1Agreement: {fp32: 0.995}}"},
            "9: spec.accuracy.minTop1Agreement.fp32: found 0.995, a number with a fraction or an exponent,"
            " expected text in quotes such as 99.5%.",
            id="a percentage that is a number",
        ),
        pytest.param(
            {"accuracy": "{minTop1Agreement: {fp33: '99%'}}"},
            "9: spec.accuracy.minTop1Agreement.fp33: found an unknown name, expected one of fp32, tf32, fp16, bf16,"
            " int8-dynamic, int8-static, fp8.",
            id="an unknown key of a map",
        ),
        pytest.param(
            {"model": "{torchvision: {name: resnet50, weights: 3}}"},
            "5: spec.model.torchvision.weights: found 3, expected DEFAULT, random, a name in the model's weights enum,"
            " or a path: in quotes such as DEFAULT, IMAGENET1K_V2, random, or a mapping with path.",
            id="neither kind of weights",
        ),
        pytest.param(
            {"model": "{torchvision: {name: resnet50, weights: {file: w.pth, path: w.pth}}}"},
            "5: spec.model.torchvision.weights.file: found an unknown field, expected path.",
            id="inside a union",
        ),
        pytest.param(
            {"model": "{torchvision: {name: resnet50}, onnx: {path: m.onnx}}"},
            "5: spec.model: found torchvision and onnx, expected exactly one of torchvision, onnx, python.",
            id="two models",
        ),
        pytest.param(
            {"model": "{inputs: []}"},
            "5: spec.model: found none of them, expected exactly one of torchvision, onnx, python.",
            id="no model",
        ),
        pytest.param(
            {"model": '{python: {factory: "m:f"}}'},
            "5: spec.model.inputs: found none, expected the name, shape and dtype of each: a function tells none.",
            id="a function whose inputs nobody knows",
        ),
        pytest.param(
            {"exclude": "[{backend: torch-compile, precision: fp32}]"},
            "9: spec.exclude[0]: found torch-compile/fp32, expected a pair of backends and precisions.",
            id="excluding what is not there",
        ),
        pytest.param(
            {"backends": "[fake]", "exclude": "[{backend: fake, precision: fp32}]"},
            "9: spec.exclude: found every strategy, expected at least one to be left.",
            id="excluding all",
        ),
        pytest.param(
            {"baseline": "{backend: torch-compile, precision: fp32}"},
            "9: spec.baseline: found torch-compile/fp32, expected one of this benchmark:"
            " torch-eager/fp32, onnxruntime/fp32.",
            id="a baseline that is not measured",
        ),
        pytest.param(
            {"objective": "{metric: latency, batchSize: 4}"},
            "9: spec.objective.batchSize: found 4, expected one of batchSizes: 1, 8.",
            id="an objective at another batch size",
        ),
        pytest.param(
            {"objective": "{metric: throughput, batchSize: 8}"},
            "9: spec.objective.batchSize: found it, expected nothing: metric throughput does not use it.",
            id="an objective with the other metric's field",
        ),
        pytest.param(
            {"backendOptions": "{torch-compile: {freezing: 1}}"},
            "9: spec.backendOptions.torch-compile.freezing: found 1, expected true or false.",
            id="an option of the wrong type",
        ),
        pytest.param(
            {"backendOptions": "{torch-eager: {freezing: true}}"},
            "9: spec.backendOptions.torch-eager.freezing: found an unknown field,"
            " expected it in spec.backendOptions.torch-compile.",
            id="an option of another backend",
        ),
        pytest.param(
            {"backendOptions": "{torch-eager: {speed: 11}}"},
            "9: spec.backendOptions.torch-eager.speed: found an unknown field, expected none.",
            id="an option of none",
        ),
        pytest.param(
            {"backendOptions": "{fake: {faults: [{fault: crush}]}}"},
            "9: spec.backendOptions.fake.faults[0].fault",
            id="the fake backend's script",
        ),
        pytest.param(
            {"podTemplate": "{spec: {containers: [{name: c, securityContext: {privileged: true}}]}}"},
            "9: spec.podTemplate.spec.containers[0].securityContext.privileged: found it, expected nothing:"
            " it gives the pod rights that its author may not have.",
            id="a privileged pod",
        ),
        pytest.param(
            {"podTemplate": f"{{metadata: {{annotations: {{a: {'x' * 9000}}}}}}}"},
            "9: spec.podTemplate: found 9,040 bytes as JSON, expected at most 8,192.",
            id="a large free mapping",
        ),
    ],
)
def test_a_mistake_names_its_line_its_place_the_value_and_what_was_expected(fields, mistake):
    assert the_mistake(a_document(**fields)).startswith(mistake)


FASTER = "name: a, faster: torch-eager/fp32, than: onnxruntime/fp32"


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        pytest.param({"precisions": "[float16]"}, "fp16", id="PyTorch's name of a precision"),
        pytest.param({"precisions": "[fp-32]"}, "fp32", id="a precision that is spelt alike"),
        pytest.param({"backends": "[openvio]"}, "openvino", id="a backend that is spelt alike"),
        pytest.param({"device": "cuda"}, "gpu", id="PyTorch's name of a device"),
        pytest.param({"device": "CPU"}, "cpu", id="a word in capitals"),
        pytest.param(
            {"model": "{onnx: {path: a}, inputs: [{name: x, shape: [1], dtype: fp16}]}"},
            "float16",
            id="a precision for the type of an input",
        ),
        pytest.param({"expectations": f"[{{{FASTER}, by: 1.2}}]"}, "1.2x", id="a number for a factor"),
        pytest.param({"expectations": f"[{{{FASTER}, by: '1.2'}}]"}, "1.2x", id="the same in quotes"),
        pytest.param({"expectations": f"[{{{FASTER}, by: 2}}]"}, "2x", id="a whole number for a factor"),
    ],
)
def test_a_value_that_is_nearly_right_is_asked_about(fields, meant):
    mistake = the_mistake(a_document(**fields))

    assert mistake.endswith(f": did you mean {meant}?")
    assert " in quotes" not in mistake


def test_a_short_word_is_not_taken_for_another():
    assert the_mistake(a_document(device="tpu")).endswith('found "tpu", expected one of gpu, cpu.')


def test_a_share_is_not_taken_for_a_percentage():
    """0.995 means 99.5%, and not the 0.995% that its digits would make."""
    mistake = the_mistake(a_document(accuracy="{minTop1Agreement: {fp32: 0.995}}"))

    assert "did you mean" not in mistake


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


EXPECTATIONS = [
    pytest.param(
        "faster: torch-eager/fp32", "than: found faster, expected faster and than, or equal, to and within.", id="half"
    ),
    pytest.param(
        "than: torch-eager/fp32, to: torch-eager/fp32",
        "to: found than, to, expected faster and than, or equal, to and within.",
        id="two halves",
    ),
    pytest.param(
        "equal: torch-eager/fp32, to: onnxruntime/fp32, within: '5%', by: 2x",
        "by: found by, equal, to, within, expected faster and than, or equal",
        id="a mixture",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: torch-eagr/fp32",
        'than: found "torch-eagr/fp32", expected instead of torch-eagr one of torch-eager, ',
        id="an unknown backend",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: torch-eager/fp33",
        'than: found "torch-eager/fp33", expected instead of fp33 one of fp32, ',
        id="an unknown precision",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: torch-eagr/fp33",
        f'than: found "torch-eagr/fp33", expected instead of torch-eagr one of {", ".join(Backend)}, and instead of '
        "fp33 one of fp32, ",
        id="an unknown backend at an unknown precision",
    ),
    pytest.param(
        "faster: torch-eager/fp32@1, than: tensorrt/fp16@4",
        "than: found tensorrt/fp16, expected one of this benchmark: torch-eager/fp32, onnxruntime/fp32. "
        "found batch size 4, expected one of the benchmark's: 1, 8.",
        id="a cell of a strategy and of a batch size that are not measured",
    ),
    pytest.param(
        "fastr: torch-eager/fp32, than: onnxruntime/fp32",
        "fastr: found an unknown field, did you mean faster?",
        id="what is missing stands there under another name",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: yes",
        "than: found yes, which some programs read as true or false, expected",
        id="what is missing is there and cannot be read",
    ),
    pytest.param(
        "faster: torch-eager, than: onnxruntime/fp32",
        'faster: found "torch-eager", expected a strategy or a cell such as torch-eager/fp32, torch-eager/fp32@8.',
        id="a backend alone",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: tensorrt/fp16",
        "than: found tensorrt/fp16, expected one of this benchmark: torch-eager/fp32, onnxruntime/fp32.",
        id="a strategy that is not measured",
    ),
    pytest.param(
        "equal: torch-eager/fp32@1, to: torch-eager/fp32@4, within: '5%'",
        "to: found batch size 4, expected one of the benchmark's: 1, 8.",
        id="a cell that is not measured",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, batchSizes: [1, 2]",
        "batchSizes[1]: found 2, expected one of the benchmark's: 1, 8.",
        id="a batch size that is not measured",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, batchSizes: [8], growsWithBatchSize: true",
        "growsWithBatchSize: found one batch size, expected at least two to grow with.",
        id="growing over one batch size",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32@8",
        "than: found torch-eager/fp32 and onnxruntime/fp32@8, expected two strategies or two cells.",
        id="a strategy and a cell",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: torch-eager/fp32",
        "than: found torch-eager/fp32 on both sides, expected two different ones.",
        id="the same twice",
    ),
    pytest.param(
        "faster: torch-eager/fp32@1, than: torch-eager/fp32@8, batchSizes: [1]",
        "batchSizes: found it beside two cells, expected it beside two strategies.",
        id="batch sizes of cells",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, by: 0.9x",
        'by: found "0.9x", expected a factor of at least 1x such as 1.1x.',
        id="faster by less than nothing",
    ),
    pytest.param(
        "equal: torch-eager/fp32, to: onnxruntime/fp32, within: '0%'",
        "within: found 0%, expected more: no two measurements are the same.",
        id="equal to within nothing",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, growsWithBatchSize: true,"
        " byMoreThan: {faster: torch-eager/fp32, than: onnxruntime/fp32}",
        "byMoreThan: found growsWithBatchSize and byMoreThan, expected one of them: write two expectations.",
        id="two statements",
    ),
    pytest.param(
        "faster: torch-eager/fp32, than: onnxruntime/fp32, byMoreThan: {faster: fake/fp32, than: onnxruntime/fp32}",
        "byMoreThan.faster: found fake/fp32, expected one of this benchmark: torch-eager/fp32, onnxruntime/fp32.",
        id="a lead over what is not measured",
    ),
]


@pytest.mark.parametrize(("statement", "mistake"), EXPECTATIONS)
def test_an_expectation_speaks_of_what_is_measured(statement, mistake):
    text = a_document(expectations=f"[{{name: e, {statement}}}]")

    assert the_mistake(text).replace("[0].", "[0]: ").startswith(f"9: spec.expectations[0]: {mistake}")


SOUND = {"name": "it", "faster": "torch-eager/fp32", "than": "onnxruntime/fp32"}

WRONG_BY_ITSELF = {
    "a name": {"name": "It is"},
    "an unknown field": {"colour": "red"},
    "an unknown backend": {"faster": "tensort/fp32"},
    "a factor": {"by": "0.9x"},
    "another lead": {"byMoreThan": {"faster": "tensort/fp32", "than": "torch-eager/fp32"}},
}
WRONG_TOGETHER = {
    "a strategy that is not measured": {"than": "tensorrt/fp32"},
    "a batch size that is not measured": {"batchSizes": [8, 4]},
    "a field of another form": {"within": "5%"},
    "another lead over what is not measured": {"byMoreThan": {"faster": "fake/fp32", "than": "torch-eager/fp32"}},
}
"""What is wrong with an expectation; nothing of the second kind can be seen from one field alone."""

PAIRS = [
    pytest.param(one, other, id=f"{a} and {b}")
    for (a, one), (b, other) in combinations({**WRONG_BY_ITSELF, **WRONG_TOGETHER}.items(), 2)
    if not one.keys() & other.keys()
]


def wrong_fields(*expectations: Mapping[str, Any], **spec: str) -> set[str]:
    """Return where the mistakes of a benchmark with these expectations are."""
    text = a_document(**spec, expectations=json.dumps(expectations))
    return {mistake.split(": ")[1] for mistake in mistakes(text)}


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_mistake_in_an_expectation_hides_another(one, other):
    alone = wrong_fields({**SOUND, **one}) | wrong_fields({**SOUND, **other})

    assert len(alone) == 2
    assert wrong_fields({**SOUND, **one, **other}) == alone


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_mistake_in_an_expectation_hides_one_in_the_next(one, other):
    first, second = {**SOUND, **one}, {**SOUND, "name": "next", **other}
    moved = {field.replace("[0]", "[1]", 1) for field in wrong_fields(second)}

    assert wrong_fields(first, second) == wrong_fields(first) | moved


def test_a_mistake_inside_a_field_does_not_hide_that_the_field_does_not_belong_there():
    cells = {"name": "it", "faster": "torch-eager/fp32@1", "than": "torch-eager/fp32@8"}

    assert wrong_fields(
        {**cells, "batchSizes": [4], "byMoreThan": {"faster": "tensort/fp32", "than": "fake/fp32"}}
    ) == {
        "spec.expectations[0].batchSizes",
        "spec.expectations[0].batchSizes[0]",
        "spec.expectations[0].byMoreThan",
        "spec.expectations[0].byMoreThan.faster",
        "spec.expectations[0].byMoreThan.than",
    }


def test_two_names_that_are_the_same_are_told_beside_a_mistake_in_one_of_them():
    assert wrong_fields(SOUND, {**SOUND, "by": "0.9x"}) == {"spec.expectations[1].name", "spec.expectations[1].by"}


def test_a_wrong_batch_size_of_the_benchmark_hides_no_strategy_that_is_not_measured():
    told = wrong_fields({**SOUND, "than": "tensorrt/fp32", "batchSizes": [4]}, batchSizes="[1, 0]")

    assert told == {"spec.batchSizes[1]", "spec.expectations[0].than"}


def test_what_the_benchmark_measures_is_not_judged_by_a_list_that_is_wrong_itself():
    assert wrong_fields({**SOUND, "than": "tensorrt/fp32"}, backends="[tensort, torch-eager]") == {"spec.backends[0]"}


@pytest.mark.parametrize("items", ["[[1], {a: 1}, x, 8]", "{a: 8}", "[" + "9, " * 64 + "9]", "yes"])
def test_batch_sizes_that_are_none_get_no_second_mistake_of_what_they_are_not(items):
    text = a_document(
        expectations=f"[{{name: e, faster: torch-eager/fp32, than: onnxruntime/fp32, batchSizes: {items}}}]"
    )
    told = [mistake.split(": ")[1] for mistake in mistakes(text)]

    assert len(set(told)) == len(told) > 0
    assert all(place.startswith("spec.expectations[0].batchSizes") for place in told)


def test_two_expectations_have_two_names():
    one = "{name: e, faster: torch-eager/fp32, than: onnxruntime/fp32}"

    assert the_mistake(a_document(expectations=f"[{one}, {one}]")) == (
        '9: spec.expectations[1].name: found "e" a second time, expected each once.'
    )


def test_a_name_has_to_fit_into_host_names():
    text = a_document().replace("name: example", f"name: {'a' * 46}")

    assert "of at most 45 characters" in the_mistake(text)


@pytest.mark.parametrize(("key", "wanted"), [("", "that is not empty"), ("a" * 318, "of at most 317 characters")])
def test_a_label_has_a_name_of_bounded_length(key, wanted):
    text = a_document().replace("name: example", f'name: example, labels: {{"{key}": b}}')

    assert the_mistake(text).endswith(f"found an unknown name, expected text {wanted}.")


def test_more_cells_than_allowed_are_refused_without_expanding_them():
    sizes = ", ".join(str(size) for size in range(1, 65))
    text = a_document(
        backends="[torch-eager, torch-compile, onnxruntime]",
        precisions="[fp32, tf32, fp16, bf16, int8-dynamic, int8-static]",
        batchSizes=f"[{sizes}]",
    )

    assert the_mistake(text).startswith("8: spec.batchSizes: found 18 strategies x 64 batch sizes = 1,152 cells")


def test_mistakes_beyond_fifty_are_counted():
    found = mistakes(a_document(**{f"unknown{i}": "1" for i in range(60)}))

    assert len(found) == document.MAX_MISTAKES + 1
    assert found[-1] == "f.yaml: and 10 more mistakes."


# ---- what YAML makes of things -------------------------------------------------------------------


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "Yes", "y", "N"])
def test_a_word_that_some_read_as_a_boolean_is_refused(word):
    assert the_mistake(a_document(suspend=word)).startswith(
        f"9: spec.suspend: found {word}, which some programs read as"
    )


@pytest.mark.parametrize(
    "number", ["010", "0x10", "0o17", "1_000", "1:30", "1e3", "8.0", ".inf", "9" * 30, "2026-01-01"]
)
def test_a_number_that_some_read_as_another_is_refused(number):
    found = the_mistake(a_document(retries=number))

    assert found.startswith("9: spec.retries: found ")
    assert found.endswith("expected an integer from 0 to 10.")


def test_text_that_is_not_text_for_all_is_put_in_quotes():
    assert "which YAML reads as a date" in the_mistake(a_document(queueName="2026-01-01"))
    assert mistakes(a_document(queueName='"2026-01-01"')) == ()


def test_a_field_twice_is_told_with_both_lines():
    text = a_document() + "  device: gpu\n"

    assert the_mistake(text) == "9: spec.device: found it a second time, expected it once: see line 6."


def test_a_merge_key_and_a_key_that_is_no_text_are_refused():
    for key in ("<<", "on", "1", "~", "[a]"):
        assert "found a name that YAML does not read as text" in "".join(
            mistakes(a_document() + f"  ? {key}\n  : {{}}\n")
        )


def test_anchors_may_be_used():
    text = a_document(batchSizes="&sizes [1, 8]") + (
        "  expectations:\n    - {name: e, faster: onnxruntime/fp32, than: torch-eager/fp32, batchSizes: *sizes}\n"
    )

    assert document.parse(text, "f.yaml").spec.expectations[0].batch_sizes == (1, 8)


def test_a_mistake_behind_an_anchor_is_told_where_it_stands():
    text = a_document(batchSizes="&sizes [1, 0]", measurement="{rounds: *sizes}")

    assert mistakes(text) == (
        "f.yaml:8: spec.batchSizes[1]: found 0, expected an integer from 1 to 65536.",
        "f.yaml:9: spec.measurement.rounds: found a list, expected an integer from 1 to 100.",
    )


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMB_INLINE = (
    "[&a [x, x], "
    + ", ".join(f"&{after} [*{before}, *{before}]" for before, after in pairwise("abcdefghijklmnopqrstuvwxyz"))
    + "]"
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 5_000))


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        pytest.param("", "f.yaml: found nothing, expected an InferenceBenchmark", id="an empty file"),
        pytest.param("# hello\n---\n", "f.yaml: found nothing, expected an InferenceBenchmark", id="only a comment"),
        pytest.param("- 1", "f.yaml:1: found a list, expected a mapping with apiVersion, kind,", id="a list"),
        pytest.param("hello", 'f.yaml:1: found "hello", expected a mapping', id="a word"),
        pytest.param("a:\n\tb: 1", "f.yaml:2: found a tab, expected spaces", id="a tab"),
        pytest.param("a: \0", "f.yaml:1: found the control character '\\x00', expected text.", id="a NUL"),
        pytest.param(
            "\n\na: [1, 2", "f.yaml:3: found what is not YAML in column 9: expected ','", id="an open bracket"
        ),
        pytest.param(
            "a:\n  device:cpu\n\n  b: c",
            "f.yaml:2: found device:cpu, expected a space behind the colon.",
            id="no space",
        ),
        pytest.param(
            "a: 1\nb:[1]", "f.yaml:2: found b:[1], expected a space behind the colon.", id="no space in the last line"
        ),
        pytest.param("- http://a\nb: c", "f.yaml:2: found what is not YAML", id="an address is no field"),
        pytest.param("a: b: c", "f.yaml:1: found what is not YAML in column 5: mapping values", id="two colons"),
        pytest.param("a: *b", "f.yaml:1: found what is not YAML in column 4: found undefined alias", id="no anchor"),
        pytest.param('a: "\\U00110000"', "f.yaml:1: found what is not YAML: chr()", id="no such character"),
        pytest.param(
            f"%YAML {'9' * 5000}.1\n--- a", "f.yaml:1: found what is not YAML", id="a version of 5,000 digits"
        ),
        pytest.param("\na: &a\n  b: *a", "f.yaml:2: found an anchor that contains itself", id="an anchor in a circle"),
        pytest.param("&a [*a]", "f.yaml:1: found an anchor that contains itself", id="a small circle"),
        pytest.param(BOMB, "found more than 20,000 values, expected a benchmark.", id="a bomb of aliases"),
        pytest.param(f"{BOMB}? *i\n: 1", "found more than 20,000 values", id="a bomb as a key"),
        pytest.param(f"? {BOMB_INLINE}\n: 1", "found a name that YAML does not read as text", id="a bomb in a key"),
        pytest.param(CHAIN, "found more than 32 levels of nesting", id="a chain of aliases"),
        pytest.param("- a\n" * 250_000, "f.yaml:20001: found more than 20,000 values", id="a quarter million of items"),
        pytest.param("[" * 100_000, "f.yaml:1: found more than 32 levels of nesting", id="100,000 brackets"),
        pytest.param("{" * 100_000, "f.yaml:1: found more than 32 levels of nesting", id="100,000 braces"),
        pytest.param("- " * 100_000, "f.yaml:1: found more than 32 levels of nesting", id="100,000 dashes"),
        pytest.param("a" * 10_000_000, "f.yaml:1: found 10,000,000 characters", id="10 MB"),
    ],
)
def test_what_is_no_benchmark_at_all_is_refused_in_a_sentence(text, mistake):
    assert mistake in "".join(mistakes(text))


@pytest.mark.parametrize(
    "value", ['"\\ud800"', '"a\\0b"', "!!python/object/apply:os.system [ls]", "!!binary aGk=", "!x y"]
)
def test_what_json_cannot_hold_is_refused(value):
    assert the_mistake(a_document(queueName=value)).startswith("9: spec.queueName: found ")


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_is_named_in_its_mistakes(tmp_path):
    path = tmp_path / "bench.yaml"
    path.write_text(a_document(retries="11"), encoding="utf-8")

    with pytest.raises(SpecError, match=r"bench\.yaml:9: spec\.retries: found 11, expected an integer from 0 to 10\."):
        document.read(path)


def test_a_file_from_windows_is_read(tmp_path):
    path = tmp_path / "bench.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + a_document().replace("\n", "\r\n").encode())

    assert document.read(path) == a_benchmark()


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        pytest.param(b"a: 1\nb: \xff\n", r":2: found the byte 0xff, expected text in UTF-8\.", id="not UTF-8"),
        pytest.param("a: 1".encode("utf-16"), "found the byte 0xff, expected text in UTF-8", id="UTF-16"),
        pytest.param(b"#" * 10_000_000, "found more than 1,048,576 bytes", id="10 MB"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, mistake):
    path = tmp_path / "bench.yaml"
    path.write_bytes(content)

    with pytest.raises(SpecError, match=mistake):
        document.read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"missing\.yaml: found no file that can be read: No such file"):
        document.read(tmp_path / "missing.yaml")
    with pytest.raises(SpecError, match="Is a directory"):
        document.read(tmp_path)


def test_a_file_of_several_benchmarks_can_be_validated_and_not_run(tmp_path):
    path = tmp_path / "bench.yaml"
    path.write_text(f"---\n{a_document()}---\n{a_document(device='gpu')}---\n", encoding="utf-8")

    assert document.read_all(path) == (a_benchmark(), a_benchmark(device="gpu"))
    with pytest.raises(SpecError, match=r":11: found 2 documents, expected one: put each in its own file\."):
        document.read(path)


def test_the_mistakes_of_all_documents_are_told():
    found = mistakes(f"{a_document(retries='11')}---\n{a_document(retries='12')}")

    assert [sentence.split(":")[1] for sentence in found] == ["9", "19"]


# ---- objects -------------------------------------------------------------------------------------


def test_an_object_of_the_api_server_is_read_without_what_the_server_added():
    authored = a_benchmark().model_dump(mode="json", by_alias=True)
    served = {
        **authored,
        "metadata": {**authored["metadata"], "uid": "1", "generation": 2, "managedFields": [{"f:spec": {}}]},
        "status": {"conditions": []},
    }

    assert document.from_object(served, "ml/example") == a_benchmark()


def test_a_mistake_in_an_object_has_no_line():
    authored = a_benchmark().model_dump(mode="json", by_alias=True)
    authored["spec"]["podTemplate"] = {"spec": {"terminationGracePeriodSeconds": 1.5}}

    with pytest.raises(SpecError) as caught:
        document.from_object(authored, "ml/example")

    assert str(caught.value) == (
        "ml/example: spec.podTemplate.spec.terminationGracePeriodSeconds:"
        " found 1.5, expected no fraction: use a smaller unit, or quotes."
    )


def test_a_deep_object_is_refused():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(SpecError):
        document.from_object({"spec": {"podTemplate": {"spec": deep}}}, "ml/example")


# ---- ten thousand benchmarks ---------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FREE = st.dictionaries(TEXTS, JSON, max_size=3)


def some(words, most):
    return st.lists(st.sampled_from(list(words)), min_size=1, max_size=most, unique=True)


@st.composite
def benchmarks(draw) -> InferenceBenchmark:
    """Any valid benchmark, as far as its parts are independent of each other."""
    backends, precisions = draw(some(Backend, 4)), draw(some(Precision, 3))
    sizes = draw(st.lists(st.integers(1, 65_536), min_size=1, max_size=6, unique=True))
    strategies = [f"{backend}/{precision}" for backend in backends for precision in precisions]
    model = st.one_of(
        st.builds(
            dict, torchvision=st.builds(dict, name=st.just("vit_b_16"), weights=st.sampled_from(["DEFAULT", "random"]))
        ),
        st.builds(dict, onnx=st.builds(dict, path=TEXTS.filter(bool))),
        st.just({"torchvision": {"name": "resnet50", "weights": {"path": "w.pth"}}}),
        st.builds(
            lambda kwargs: {"python": {"factory": "m:f", "kwargs": kwargs}, "inputs": [{"name": "x", "shape": [3]}]},
            FREE,
        ),
    )
    pairs = st.lists(st.sampled_from(strategies), min_size=2, max_size=2, unique=True)
    expectation = st.builds(
        lambda name, pair, by: {"name": name, "faster": pair[0], "than": pair[1], "by": by},
        NAMES,
        pairs if len(strategies) > 1 else st.nothing(),
        st.sampled_from(["1.1x", "2x", None]),
    )
    optional = {
        "measurement": st.builds(
            dict,
            layout=st.sampled_from(Layout),
            rounds=st.sampled_from([1, 2, 4, 8]),
            max_seconds_per_cell=st.integers(1, 3600),
        ),
        "objective": st.builds(dict, metric=st.just("latency"), batch_size=st.sampled_from(sizes)),
        "accuracy": st.builds(
            dict, min_top1_agreement=st.dictionaries(st.sampled_from(Precision), st.just("97%"), max_size=2)
        ),
        "quantization": st.builds(dict, calibration=st.sampled_from(Calibration)),
        "cpu": st.builds(dict, threads=st.integers(1, 1024)),
        "retries": st.integers(0, 10),
        "suspend": st.booleans(),
        "queue_name": NAMES,
        "pod_template": st.builds(
            dict, metadata=st.builds(dict, annotations=st.dictionaries(TEXTS, TEXTS, max_size=3))
        ),
        "expectations": st.lists(expectation, max_size=3, unique_by=lambda e: e["name"]),
    }
    given_fields = draw(st.fixed_dictionaries({}, optional=optional))
    device = draw(st.sampled_from(Device))
    return a_benchmark(
        draw(NAMES),
        model=draw(model),
        device=device,
        backends=backends,
        precisions=precisions,
        batch_sizes=sizes,
        **given_fields,
    )


def as_json(benchmark: InferenceBenchmark) -> dict[str, Any]:
    return benchmark.model_dump(mode="json", by_alias=True, exclude_none=True)


@given(benchmarks())
def test_what_was_written_is_what_is_read(benchmark):
    written = as_json(benchmark)

    assert document.parse(as_yaml(written), "f.yaml") == benchmark
    assert document.parse(json.dumps(written, ensure_ascii=False), "f.yaml") == benchmark
    assert document.from_object(written, "object") == benchmark


def places(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place, *(deeper for key, inner in inside for deeper in places(inner, (*place, key)))]


def changed(node: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place."""
    if not place:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[place[0]] = changed(copy[place[0]], place[1:], value)
    return copy


WORDS = sorted({step for place in places(schema.document_schema()) for step in place if isinstance(step, str)})
JUNK = (
    JSON
    | st.floats()
    | st.sampled_from([*WORDS, *map(str, Backend), *map(str, Precision), "torch-eager/fp32@8", "5%", "1.1x"])
)


@GENERATED
@given(st.data())
def test_a_damaged_benchmark_is_valid_or_every_mistake_has_a_line_and_a_place(data):
    value: Any = as_json(data.draw(benchmarks()))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(places(value)))
        grown = {data.draw(st.sampled_from(WORDS)): data.draw(JUNK)}
        value = changed(value, place, data.draw(st.just(grown) | JUNK))

    mistakes(as_yaml(value))


TOKENS = st.sampled_from(
    [*"\t\0[]{}:\n-'\"|>%@?#\\\ufeff\ud800\x85", "&a ", "*a", "!!x ", "<<", "---\n", "...\n", "  "]
)


@GENERATED
@given(
    st.sampled_from(EXAMPLES),
    st.lists(st.tuples(st.integers(0, 6_000), TOKENS | st.text(max_size=3)), min_size=1, max_size=4),
)
def test_a_file_that_somebody_sat_on_is_valid_or_gets_mistakes(path, damage):
    text = path.read_text(encoding="utf-8")
    for at, inserted in damage:
        text = text[: at % len(text)] + inserted + text[at % len(text) + len(inserted) :]

    mistakes(text)
