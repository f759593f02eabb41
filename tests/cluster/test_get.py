"""`inferbench get` asks a real API server through the real kubectl. The operator's part is written by hand."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from inferbench_cli import table
from tests.in_cluster import FINISHED, NAME, RUNNING, InCluster, a_finished
from tests.kubernetes import tools
from tests.kubernetes.access import write_kubeconfig

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("crds")]

PROGRAMS = Path(sys.executable).parent
BENCHMARKS = "/apis/inferbench.dev/v1alpha1/namespaces/{}/inferencebenchmarks"


class Terminal:
    """A shell in which a user of the cluster types."""

    def __init__(self, kubeconfig: Path) -> None:
        path = os.pathsep.join([str(PROGRAMS), str(tools.tool("kubectl").parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "KUBECONFIG": str(kubeconfig)}

    def types(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    def gets(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.types("inferbench", "get", *words)


@pytest.fixture
def terminal(cluster) -> Terminal:
    return Terminal(cluster.kubeconfig())


def put(api, namespace: str, kept: InCluster) -> None:
    """Write what a user and the operator would have written."""
    api.create(BENCHMARKS.format(namespace), kept.manifest)
    for name, data in kept.stored.items():
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "immutable": True, "data": data}
        api.create(f"/api/v1/namespaces/{namespace}/configmaps", body)
    tell(api, namespace, kept)


def tell(api, namespace: str, kept: InCluster) -> None:
    api.patch(f"{BENCHMARKS.format(namespace)}/{NAME}/status", {"status": kept.status})


def shown(kept: InCluster) -> str:
    """What local mode prints of the same results."""
    stream = io.StringIO()
    table.show(Console(file=stream, highlight=False, markup=False, emoji=False), kept.found().summarize())
    return stream.getvalue()


def test_the_table_is_the_one_of_local_mode(api, namespace, terminal):
    kept = a_finished(per_shard=2)
    put(api, namespace, kept)

    said = terminal.gets(NAME, "--namespace", namespace)

    assert (said.stdout, said.stderr, said.returncode) == (shown(kept), "", 0)


def test_a_single_shard_is_read_too(api, namespace, terminal):
    kept = a_finished()
    put(api, namespace, kept)

    assert terminal.gets(NAME, "-n", namespace).stdout == shown(kept)


def test_kubectl_inferbench_is_the_same_program(api, namespace, terminal):
    put(api, namespace, a_finished())

    said = terminal.types("kubectl", "inferbench", "get", NAME, "-n", namespace)

    assert said.stdout == terminal.gets(NAME, "-n", namespace).stdout
    assert said.returncode == 0


def test_the_folder_gives_the_same_answer_again(api, namespace, terminal, tmp_path):
    put(api, namespace, a_finished())

    said = terminal.gets(NAME, "-n", namespace, "--output", str(tmp_path / "out"))
    again = terminal.types("inferbench", "report", str(tmp_path / "out"))

    assert f"Everything is in {tmp_path}/out/" in said.stdout
    assert again.returncode == 0
    assert said.stdout.partition("\nEverything")[0] == again.stdout.partition("\nWritten")[0]


def test_as_json_it_is_summary_json(api, namespace, terminal, tmp_path):
    kept = a_finished()
    put(api, namespace, kept)

    said = terminal.gets(NAME, "-n", namespace, "--json", "--output", str(tmp_path))

    assert said.stdout == kept.found().summarize().dump() == (tmp_path / "summary.json").read_text(encoding="utf-8")


def test_a_shard_that_somebody_deleted_is_told(api, namespace, terminal):
    kept = a_finished(per_shard=2)
    put(api, namespace, kept)
    *_, last = kept.stored
    api.delete(f"/api/v1/namespaces/{namespace}/configmaps/{last}")

    said = terminal.gets(NAME, "-n", namespace)

    assert said.returncode == 1
    assert said.stderr == f"inferbench: ConfigMap {last} is gone: the results of 2 sweeps are missing here.\n"


def test_a_benchmark_that_waits_says_for_what(api, namespace, terminal):
    waiting = ("Running", "False", "Unschedulable", "0/2 nodes have enough nvidia.com/gpu.")
    put(api, namespace, InCluster(waiting))

    said = terminal.gets(NAME, "-n", namespace)

    assert said.returncode == 0
    assert said.stdout.splitlines() == [
        f"{namespace}/{NAME} is not finished: 0 of 4 sweeps.",
        "Not running (Unschedulable): 0/2 nodes have enough nvidia.com/gpu.",
    ]


def test_a_benchmark_that_no_operator_looks_at_says_so(api, namespace, terminal):
    api.create(BENCHMARKS.format(namespace), a_finished().manifest)

    said = terminal.gets(NAME, "-n", namespace)

    assert said.stdout.startswith(f"No operator has looked at {namespace}/{NAME} yet.")


def test_watching_ends_with_the_benchmark(api, namespace, terminal):
    put(api, namespace, InCluster(RUNNING))
    command = ["inferbench", "get", NAME, "-n", namespace, "--watch"]

    with subprocess.Popen(command, env=terminal.environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        first = watching.stdout.readline()
        kept = InCluster(FINISHED).measured()
        api.delete(f"{BENCHMARKS.format(namespace)}/{NAME}")
        put(api, namespace, kept)
        rest = watching.stdout.read()

    assert first == f"{namespace}/{NAME} is not finished: 0 of 4 sweeps.\n"
    assert rest == shown(kept)
    assert watching.returncode == 0


class TestWhatCannotBeShown:
    def test_a_name_that_is_not_there_is_exit_status_2(self, namespace, terminal):
        said = terminal.gets("nothing", "-n", namespace)

        assert said.returncode == 2
        assert said.stderr == (
            'inferbench: kubectl: Error from server (NotFound): inferencebenchmarks.inferbench.dev "nothing" not found '
            f"(the namespace {namespace}). Name the right one with --namespace.\n"
        )

    def test_somebody_without_the_right_is_told_which(self, cluster, api, namespace):
        token = api.token_of(namespace, "default")
        stranger = Terminal(cluster.kubeconfig_with(f"stranger-{namespace}", token))

        said = stranger.gets(NAME, "-n", namespace)

        assert said.returncode == 2
        assert 'cannot get resource "inferencebenchmarks"' in said.stderr

    def test_a_context_that_is_not_there_is_named(self, terminal):
        said = terminal.gets(NAME, "--context", "nowhere")

        assert (said.returncode, "nowhere" in said.stderr) == (2, True)

    def test_a_cluster_without_the_resource_says_what_to_install(self, own_cluster):
        said = Terminal(own_cluster.kubeconfig()).gets(NAME)

        assert said.returncode == 2
        assert "This cluster does not know InferenceBenchmark: install charts/inferbench there" in said.stderr

    def test_a_cluster_that_does_not_answer_is_exit_status_3(self, cluster, tmp_path):
        nowhere = write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:9", cluster.ca_file, "token")

        said = Terminal(nowhere).gets(NAME)

        assert said.returncode == 3
        assert said.stderr.startswith("inferbench: The cluster gave no answer. kubectl: The connection to the server")
