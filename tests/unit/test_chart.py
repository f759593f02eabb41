"""The chart says what the operator reads, and gives what it uses. What Helm makes of it is tested in tests/cluster."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_snake

from inferbench_contract import crd
from inferbench_operator.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/inferbench"
TEMPLATES = {file.name: file.read_text(encoding="utf-8") for file in sorted((CHART / "templates").iterdir())}
VALUES_TEXT = (CHART / "values.yaml").read_text(encoding="utf-8")
VALUES = yaml.safe_load(VALUES_TEXT)

DEFAULTS = dict(line.split("=", 1) for line in Settings().as_lines())
"""The operator's settings by their variables."""

DECIDED_BY_THE_CHART = {f"{PREFIX}RUNNER_IMAGE": "the chart and the runner's image are released together"}
"""Settings whose default in the chart is not the operator's, with the reason."""

FREE = (
    "podLabels", "podAnnotations", "resources", "podSecurityContext", "securityContext", "nodeSelector", "tolerations",
    "affinity", "topologySpreadConstraints", "imagePullSecrets", "runner.nodeSelector", "runner.tolerations",
    "serviceAccount.annotations", "service.annotations", "runner.imagePullSecrets", "watchNamespaces",
)  # fmt: skip
"""Values that are passed on whole, whatever they hold."""


def text_of(value: object) -> str:
    """Write a value as the template `inferbench.setting` does."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def paths(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        path = f"{before}{name}"
        if isinstance(value, dict) and path not in FREE:
            yield from paths(value, f"{path}.")
        else:
            yield path


def at(path: str) -> Any:
    value: Any = VALUES
    for name in path.split("."):
        value = value[name]
    return value


def given() -> dict[str, str]:
    """Return what the Deployment gives the operator with the chart's own values, by variable."""
    named = re.findall(rf"- name: ({PREFIX}[A-Z_]+)\n +value: .*?\.Values\.([\w.]+).*\n", TEMPLATES["deployment.yaml"])
    told = {variable: text_of(at(path)) for variable, path in named if variable not in DECIDED_BY_THE_CHART}
    return told | {f"{PREFIX}{to_snake(name).upper()}": text_of(value) for name, value in VALUES["settings"].items()}


class TestSettings:
    def test_every_setting_of_the_operator_is_a_value(self):
        assert {*given(), *DECIDED_BY_THE_CHART} == set(DEFAULTS)

    @pytest.mark.parametrize("variable", sorted(given()))
    def test_a_value_s_default_is_the_operator_s(self, variable):
        assert given()[variable] == DEFAULTS[variable]

    def test_the_operator_reads_what_the_chart_gives(self):
        assert Settings.from_environment(given()) == Settings()


class TestValues:
    @pytest.mark.parametrize("path", sorted(paths(VALUES)))
    def test_every_value_is_used(self, path):
        used = {name for text in TEMPLATES.values() for name in re.findall(r"\.Values\.([\w.]+)", text)}
        images = {path.rpartition(".")[0]} if path.rpartition(".")[2] in {"repository", "tag", "digest"} else set()
        settings = {"settings"} if path.startswith("settings.") else set()

        assert used & {path, *images, *settings}

    def test_every_value_that_a_template_names_is_there(self):
        used = {name for text in TEMPLATES.values() for name in re.findall(r"\.Values\.([\w.]+)", text)}

        for path in used:
            at(path)

    def test_every_value_has_a_comment(self):
        """Above it, as the first line in it, or above the neighbour that it is explained with."""
        commented = {path for path, is_explained in places() if is_explained}

        assert {path for path, _ in places()} - commented == WITH_A_NEIGHBOUR


WITH_A_NEIGHBOUR = {
    "fullnameOverride", "podAnnotations", "securityContext", "tolerations", "affinity", "topologySpreadConstraints",
    "runner.memory", "settings.apiBurst",
}  # fmt: skip
"""Values under the comment of the one before them."""


def places() -> Iterator[tuple[str, bool]]:
    """Return the path of each value in the file, and whether a comment stands above it or begins what is in it."""
    lines = ["", *VALUES_TEXT.splitlines(), ""]
    stack: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        if found := re.match(r"( *)(\w+):", line):
            stack = [*(each for each in stack if each[0] < len(found[1])), (len(found[1]), found[2])]
            path = ".".join(name for _, name in stack)
            if not path.startswith(tuple(f"{free}." for free in FREE)):
                inside = " " * (len(found[1]) + 2)
                yield path, lines[number - 1].lstrip().startswith("#") or lines[number + 1].startswith(f"{inside}#")


class TestRights:
    def rules(self) -> dict[str, set[str]]:
        text = re.search(r'define "inferbench\.rules" -}}\n(.*?)\n{{- end', TEMPLATES["_helpers.tpl"], re.DOTALL)
        assert text is not None
        return {
            f"{group}/{resource}": set(rule["verbs"])
            for rule in yaml.safe_load(text[1])
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }

    def test_the_operator_may_do_exactly_this(self):
        assert self.rules() == {
            "inferbench.dev/inferencebenchmarks": {"list", "watch", "delete"},
            "inferbench.dev/inferencebenchmarks/status": {"patch"},
            "batch/jobs": {"get", "list", "watch", "create", "patch"},
            "/pods": {"list", "watch"},
            "/configmaps": {"get", "create"},
            "/events": {"create", "list"},
        }

    def test_the_security_page_explains_every_right(self):
        page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
        table = page[page.index("| on | verbs |") : page.index("What that amounts to")]
        rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines()[2:] if line]
        told: dict[str, set[str]] = {}
        for what, verbs in rows:
            name = what.strip("`") or [*told][-1]
            told.setdefault(name, set()).update(verb.strip() for verb in verbs.split(","))

        assert told == {name.split("/", 1)[1]: verbs for name, verbs in self.rules().items()}

    def test_both_roles_have_the_same_rules(self):
        assert TEMPLATES["rbac.yaml"].count('include "inferbench.rules"') == 2
        assert TEMPLATES["rbac.yaml"].count("rules:") == 2


class TestResourceDefinitions:
    def test_they_are_those_of_the_repository(self):
        kept = {file.name: file.read_bytes() for file in (ROOT / "crds").iterdir()}
        copied = {file.name: file.read_bytes() for file in (CHART / "files/crds").iterdir()}

        assert crd.FILE in kept
        assert copied == kept, "run `make generated`"

    def test_the_variant_without_rules_on_pod_templates_is_the_one_that_the_contract_makes(self):
        made = crd.dump(crd.definition(allow_privileged_pod_templates=True))

        assert (CHART / "files/crds-privileged" / crd.FILE).read_text(encoding="utf-8") == made, "run `make generated`"


def test_the_chart_has_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))

    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_the_documented_scrape_configuration_is_yaml_with_two_jobs():
    text = (CHART / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)

    jobs = {job["job_name"]: job for job in yaml.safe_load(block)["scrape_configs"]}

    assert set(jobs) == {"inferbench", "inferbench-results"}
    assert jobs["inferbench-results"]["honor_labels"] is True
