"""The commands of README.md's section "On a cluster", as they stand there; only the node is played."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.kubernetes import tools
from tests.kubernetes.operators import KUBE_VERSION, Operator

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 90


def commands():
    """Return the command lines of the section, put together where they go on in the next line."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## On a cluster\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def terminal(cluster, namespace):
    """Return what types a command as a user of the namespace."""
    config = cluster.kubeconfig_with(f"user-of-{namespace}", cluster.token())
    cluster.kubectl_with(f"user-of-{namespace}", cluster.token()).run(
        "config", "set-context", "--current", f"--namespace={namespace}"
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), str(tools.tool("kubectl").parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "KUBECONFIG": str(config)}

    def types(words, seconds=SECONDS):
        return subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    return types


def test_the_chart_can_be_installed_with_the_values_that_are_given():
    install, *_ = commands()
    assert install[:4] == ["helm", "install", "inferbench", "charts/inferbench"]

    values = [word.replace("REGISTRY", "registry.example") for word in install[4:] if word != "--create-namespace"]
    rendered = subprocess.run(
        [tools.tool("helm"), "template", *install[2:4], "--kube-version", KUBE_VERSION, *values],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "registry.example/inferbench-operator" in rendered
    assert "registry.example/inferbench-runner" in rendered


def test_what_follows_measures_the_example_and_shows_its_answer(cluster, namespace, kubelet, terminal):
    _, apply, wait, get, watch = commands()
    assert [words[0] for words in (apply, wait, get, watch)] == ["kubectl", "kubectl", "inferbench", "kubectl"]
    with Operator(cluster, namespace):
        applied = terminal(apply)
        waited = terminal(wait)
        got = terminal(get)
        with pytest.raises(subprocess.TimeoutExpired) as watched:
            terminal(watch, seconds=3)  # it watches until somebody has seen enough

    assert applied.returncode == 0, applied.stderr
    assert waited.returncode == 0, waited.stderr
    assert b"minimal" in (watched.value.stdout or b"")
    assert got.returncode == 0, got.stderr
    assert "Batch 1: onnxruntime/fp32 is fastest" in got.stdout


def test_the_claim_that_examples_name_is_one_that_a_server_takes(kubectl):
    claim, demo = (
        yaml.safe_load((ROOT / "examples/cluster" / name).read_text()) for name in ("cache.yaml", "demo.yaml")
    )

    kubectl.run("apply", "--dry-run=server", "-f", str(ROOT / "examples/cluster/cache.yaml"))

    assert claim["metadata"]["name"] == demo["spec"]["cache"]["persistentVolumeClaim"]
