"""docs/resource.md: its tables follow from the models, and what it says of conditions from the operator."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import yaml

from inferbench_contract import document

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/resource.md").read_text(encoding="utf-8")
TOLD = (ROOT / "operator/inferbench_operator/conditions.py").read_text(encoding="utf-8")


def test_its_tables_are_in_step_with_the_models():
    answer = subprocess.run([sys.executable, "docs/resource.py", "--check"], cwd=ROOT, check=False, capture_output=True)

    assert answer.returncode == 0, answer.stderr.decode()


def test_its_example_is_valid():
    (example,) = re.findall(r"```yaml\n(.+?)```", PAGE, flags=re.DOTALL)

    assert document.from_object(yaml.safe_load(example), "docs/resource.md").name == "resnet50"


def test_it_tells_every_reason_that_the_operator_gives_a_condition_itself():
    calls = [node for node in ast.walk(ast.parse(TOLD)) if isinstance(node, ast.Call)]
    conditions = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Condition"]
    reasons = {
        word.value
        for call in conditions
        for argument in (call.args[0], *call.args[2:3])
        for word in ast.walk(argument)
        if isinstance(word, ast.Constant) and word.value[0].isupper()  # a reason, and no key of a mapping
    }

    missing = [word for word in reasons if f"`{word}`" not in PAGE]

    assert len(reasons) > 20
    assert missing == []
