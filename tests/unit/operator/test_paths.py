"""Paths of the API server, and what stands at them."""

from __future__ import annotations

import pytest

from inferbench_operator import paths


@pytest.mark.parametrize(
    ("path", "expected", "resource", "is_one"),
    [
        (
            paths.benchmarks("team-a", "resnet50", "status"),
            "/apis/inferbench.dev/v1alpha1/namespaces/team-a/inferencebenchmarks/resnet50/status",
            "inferencebenchmarks/status",
            True,
        ),
        (
            paths.benchmarks(None),
            "/apis/inferbench.dev/v1alpha1/inferencebenchmarks",
            "inferencebenchmarks",
            False,
        ),
        (paths.jobs("team-a"), "/apis/batch/v1/namespaces/team-a/jobs", "jobs", False),
        (paths.jobs("team-a", "j-0"), "/apis/batch/v1/namespaces/team-a/jobs/j-0", "jobs", True),
        (paths.pods("team-a"), "/api/v1/namespaces/team-a/pods", "pods", False),
        (paths.pods(None), "/api/v1/pods", "pods", False),
        (paths.config_maps("team-a", "r-0"), "/api/v1/namespaces/team-a/configmaps/r-0", "configmaps", True),
        (paths.events("team-a"), "/api/v1/namespaces/team-a/events", "events", False),
        ("/api/v1/namespaces", "/api/v1/namespaces", "namespaces", False),
        ("/api/v1/namespaces/team-a", "/api/v1/namespaces/team-a", "namespaces", True),
        ("/apis/batch/v1", "/apis/batch/v1", "discovery", False),
        ("/version", "/version", "discovery", False),
    ],
)
def test_a_path_reads_back_as_its_resource(path, expected, resource, is_one):
    assert path == expected
    assert paths.resource_of(path) == (resource, is_one)
