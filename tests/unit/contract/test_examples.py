"""Every file in examples/ is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferbench_contract import document, schema
from inferbench_contract.statements import ExpectationForm
from inferbench_contract.words import Device

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid_and_says_what_it_is_and_how_to_run_it(path):
    benchmark = document.read(path)
    head = path.read_text(encoding="utf-8").split("apiVersion")[0]

    assert benchmark.name == path.stem
    assert f"examples/{path.name}" in head
    assert all(line.startswith("#") for line in head.splitlines())


def test_readme_names_every_example():
    readme = (EXAMPLES[0].parents[1] / "README.md").read_text(encoding="utf-8")

    assert [path.name for path in EXAMPLES if f"`{path.name}`" not in readme] == []


def test_the_ones_that_anybody_can_run_need_no_gpu_and_no_download():
    for name in ("minimal", "demo", "fake"):
        spec = document.read(EXAMPLES[0].with_name(f"{name}.yaml")).spec
        assert spec.device is Device.CPU
        assert spec.model.has_random_weights


def test_the_article_is_put_whole():
    spec = document.read(EXAMPLES[0].with_name("article.yaml")).spec

    assert [str(backend) for backend in spec.backends] == ["torch-eager", "torch-compile", "onnxruntime", "tensorrt"]
    assert [str(precision) for precision in spec.precisions] == ["fp32", "fp16", "int8-dynamic", "int8-static"]
    assert spec.batch_sizes == (1, 8, 32, 128)
    assert {expectation.form for expectation in spec.expectations} == set(ExpectationForm)


def test_everything_has_every_field_of_the_spec():
    """So that a new field comes with its comment there."""
    spec = document.read(EXAMPLES[0].with_name("everything.yaml")).spec

    missing = set(schema.fields(("spec",))) - {type(spec).model_fields[name].alias for name in spec.model_fields_set}

    assert missing == set()
