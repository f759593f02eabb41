"""What a reader is told of a benchmark that is wrong: all of it at once, in sentences with lines and places."""

from __future__ import annotations

import pytest

from inferbench_contract import document
from inferbench_contract.words import Backend
from tests.builders import a_document
from tests.mistakes import mistakes, the_mistake


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


def test_a_mode_that_is_a_backend_of_its_own_is_told_as_that():
    mistake = the_mistake(
        a_document(backends="[torch-compile]", backendOptions="{torch-compile: {mode: max-autotune}}")
    )

    assert mistake.endswith(
        'backendOptions.torch-compile.mode: found "max-autotune", expected one of default, reduce-overhead, '
        "max-autotune-no-cudagraphs: max-autotune is a backend of its own, torch-compile-max-autotune."
    )


def test_a_short_word_is_not_taken_for_another():
    assert the_mistake(a_document(device="tpu")).endswith('found "tpu", expected one of gpu, cpu.')


def test_a_share_is_not_taken_for_a_percentage():
    """0.995 means 99.5%, and not the 0.995% that its digits would make."""
    mistake = the_mistake(a_document(accuracy="{minTop1Agreement: {fp32: 0.995}}"))

    assert "did you mean" not in mistake


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
