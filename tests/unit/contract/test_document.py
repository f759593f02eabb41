"""Reading a benchmark from YAML, from a file and from the API server: what is right is read, and nothing breaks it."""

from __future__ import annotations

import json
from itertools import pairwise
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
from tests.mistakes import mistakes, the_mistake

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
GENERATED = settings(max_examples=max(200, settings().max_examples))
"""Enough to meet most branches in seconds; 10,000 with INFERBENCH_HYPOTHESIS=thorough."""


class Quoting(yaml.SafeDumper):
    """Writes every text in quotes, as nobody can misread it."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def as_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=Quoting, allow_unicode=True, sort_keys=False)


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


def test_a_file_of_several_benchmarks_is_refused(tmp_path):
    path = tmp_path / "bench.yaml"
    path.write_text(f"---\n{a_document()}---\n{a_document(device='gpu')}---\n", encoding="utf-8")

    with pytest.raises(SpecError, match=r":11: found 2 documents, expected one: put each in its own file\."):
        document.read(path)


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
