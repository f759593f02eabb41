"""The status as a document: what it holds, what it leaves out, and what stays of the one before."""

from __future__ import annotations

from dataclasses import replace

from inferbench_operator import status
from inferbench_operator.observed import JobEnd, Shard
from inferbench_operator.standing import Standing
from tests.clusters import NOW, World, a_job, seen, wanted


def standing_of(world, before=None, **fields):
    observed = replace(world.observed, benchmark=seen(world.asked, before), **fields)
    return Standing(observed, None, None, None, None)


def document(world, before=None, shards=(), **fields):
    return status.document(standing_of(world, before, **fields), shards, NOW)


def has_null(value):
    if isinstance(value, dict):
        return any(has_null(item) for item in value.values())
    return value is None or (isinstance(value, list) and any(has_null(item) for item in value))


def test_nothing_in_it_is_null():
    world = World(wanted())
    world.settle()

    assert not has_null(world.status)


def test_what_has_no_value_yet_is_left_out():
    told = document(World(wanted()))

    assert told.keys() == {"observedGeneration", "conditions", "plan"}


def test_it_began_when_its_first_job_was_seen_and_stays_so():
    world = World(wanted())
    job = a_job(world.plan)

    assert document(world, jobs=(job,))["startTime"] == "2026-01-01T12:00:00Z"
    assert document(world, {"startTime": "2025-12-31T00:00:00Z"}, jobs=(job,))["startTime"] == "2025-12-31T00:00:00Z"


def test_every_stage_there_was_is_listed_with_its_end():
    world = World(wanted())
    before = {"stages": [{"job": "of-old", "sweeps": 2, "reason": "Deleted"}]}
    stages = (a_job(world.plan, 0, end=JobEnd.FAILED), a_job(world.plan, 1, sweeps=(1,)))

    told = document(world, before, jobs=stages)["stages"]

    assert [(stage["sweeps"], stage["reason"]) for stage in told] == [(2, "Deleted"), (2, "Failed"), (1, "Running")]


def test_a_job_that_somebody_deleted_is_told_as_such():
    world = World(wanted())

    (stage,) = document(world, jobs=(a_job(world.plan, is_gone=True),))["stages"]

    assert stage["reason"] == "Deleted"


def test_shards_are_named_with_what_they_hold_and_its_checksum():
    told = document(World(wanted()), shards=(Shard("example-r0", "abc", ()),))

    assert told["shards"] == [{"configMap": "example-r0", "sweeps": 0, "sha256": "abc"}]


def test_an_answer_stays_until_there_is_another():
    before = {"best": "fake/fp32@1", "speedup": "1.5x", "cells": {"planned": 1}, "hardware": "a CPU", "summary": {}}

    told = document(World(wanted()), before)

    assert {key: told[key] for key in before} == before


def test_the_answer_is_the_summarys():
    world = World(wanted(backends=["torch-eager", "onnxruntime"]))
    world.settle()

    assert world.status["best"] == world.status["summary"]["answer"]
    assert world.status["cells"] == world.status["summary"]["cells"]
    assert world.status["hardware"] == "a CPU"
