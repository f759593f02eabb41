"""What the fields of a benchmark are made of: bounded texts, numbers and lists, and what all of its parts share.

Every list, text and number has bounds, so that a CRD can be made of it. There are no floats: percentages and factors
are text, durations whole units in the name.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, Strict
from pydantic.alias_generators import to_camel

from inferbench_contract.places import Mistakes, contents, refuse
from inferbench_contract.words import Backend, Precision

MAX_ITEMS = 64
"""Of any list: the API server refuses rules over longer ones, because they might cost it too much to check."""

MAX_FREE_BYTES = 8_192
"""Of a free mapping as JSON: the plan has to fit into a Job, and the object stays small."""

T = TypeVar("T")


def distinct(items: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse what is there a second time."""
    again = [(i, item) for i, item in enumerate(items) if item in items[:i]]
    refuse({(i,): f"found {item} a second time, expected each once." for i, item in again})
    return items


def _modest(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what is too large, and floats: Kubernetes writes 1.0 as 1, and the plan's hash would differ there."""
    floats = [(place, item) for place, item in contents(value) if isinstance(item, float)]
    refuse({place: f"found {item}, expected no fraction: use a smaller unit, or quotes." for place, item in floats})
    if (size := len(json.dumps(value))) > MAX_FREE_BYTES:
        raise Mistakes({(): f"found {size:,} bytes as JSON, expected at most {MAX_FREE_BYTES:,}."})
    return value


def _even_or_one(rounds: int) -> int:
    if rounds > 1 and rounds % 2:
        raise Mistakes({(): f"found {rounds}, expected an even number, or 1 for a look without verdicts."})
    return rounds


# A JSON number with a fraction, a text or a boolean is no integer, and no integer is a boolean.
Integer = Annotated[int, Strict()]
Boolean = Annotated[bool, Strict()]

BatchSize = Annotated[Integer, Field(ge=1, le=65_536)]
BatchSizes = Annotated[tuple[BatchSize, ...], Field(min_length=1, max_length=MAX_ITEMS), AfterValidator(distinct)]
Rounds = Annotated[Integer, Field(ge=1, le=100), AfterValidator(_even_or_one)]
Seconds = Annotated[Integer, Field(ge=1, le=3_600)]
Backends = Annotated[tuple[Backend, ...], Field(min_length=1, max_length=len(Backend)), AfterValidator(distinct)]
Precisions = Annotated[tuple[Precision, ...], Field(min_length=1, max_length=len(Precision)), AfterValidator(distinct)]
FreeMapping = Annotated[dict[str, JsonValue], AfterValidator(_modest)]


def bounded(max_length: int, pattern: str, kind: str, *examples: str) -> Any:
    """Bound a text. The kind and the examples stand in messages: "expected a percentage such as 99.5%"."""
    return Field(min_length=1, max_length=max_length, pattern=pattern, title=kind, examples=list(examples))


DNS_LABEL = (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "lower-case letters, digits and hyphens")
DNS_NAME = (r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", "lower-case letters, digits, hyphens and dots")
QUALIFIED = (r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[-A-Za-z0-9_.]+$", "a resource name")
WEIGHTS = (r"^(random|[A-Z][A-Z0-9_]*)$", "DEFAULT, random, a name in the model's weights enum, or a path:")
MODULE_FUNCTION = (r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$", "module:function")

BenchmarkName = Annotated[str, bounded(45, *DNS_LABEL, "resnet50")]
"""A host name of 63 characters is made of it: `<name>-<10 digits of hash>-<stage>-<up to 4 digits of sweep>`."""
ShortName = Annotated[str, bounded(63, *DNS_LABEL, "lead-grows")]
Namespace = Annotated[str, bounded(63, *DNS_LABEL, "default")]
ObjectName = Annotated[str, bounded(253, *DNS_NAME, "gpu-queue")]
Product = Annotated[str, bounded(63, r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", "a product", "NVIDIA-L4")]
ResourceName = Annotated[str, bounded(253, *QUALIFIED, "nvidia.com/gpu")]
Image = Annotated[str, bounded(512, r"^\S+$", "an image", "registry.example/inferbench-runner:0.1.0")]
FilePath = Annotated[str, bounded(1_024, r"^[^\x00-\x1f\x7f]+$", "a path", "models/resnet50.onnx")]
ModelName = Annotated[str, bounded(128, r"^[a-z][a-z0-9_]*$", "a name in torchvision.models", "resnet50")]
WeightsName = Annotated[str, bounded(128, *WEIGHTS, "DEFAULT", "IMAGENET1K_V2", "random")]
Factory = Annotated[str, bounded(256, *MODULE_FUNCTION, "my.models:make_resnet")]
InputName = Annotated[str, bounded(128, r"^\S+$", "a name without spaces", "input")]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
AnnotationValue = Annotated[str, Field(max_length=65_536)]
Percent = Annotated[str, bounded(8, r"^(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)%$", "a percentage", "99.5%")]
Factor = Annotated[str, bounded(8, r"^[1-9][0-9]{0,2}(\.[0-9]{1,3})?x$", "a factor of at least 1x", "1.1x")]
"""At least 1x: "slower" is said by exchanging the two sides."""


def fraction(text: str) -> Fraction:
    """Read a percentage ("99.5%") or a factor ("1.1x") exactly."""
    return Fraction(text[:-1]) / (100 if text.endswith("%") else 1)


class Model(BaseModel):
    """What all parts of the document share: camelCase in YAML, no unknown field, no change after reading."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )
