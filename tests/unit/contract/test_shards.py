"""Shards keep results as they were handed over."""

from __future__ import annotations

import dataclasses

import pytest

from inferbench_contract import result as results
from inferbench_contract import shards
from inferbench_contract.errors import PlanError, ResultError
from tests.results import a_plan, a_result, measured, results_for

PLAN = a_plan(batch_sizes=[1, 8])
FOUND = results_for(PLAN, lambda _, batch_size, round_: 10.0 * batch_size + round_)


def test_what_is_packed_comes_out_again():
    assert shards.unpack(shards.pack(FOUND), PLAN) == FOUND


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_only_the_end_of_a_line_ends_a_result(mark):
    told = (dataclasses.replace(FOUND[0], fingerprint="abc"),)
    data = {shards.RESULTS: shards.pack(told)[shards.RESULTS].replace("abc", f"a{mark}c")}

    assert shards.unpack(data, PLAN) == (dataclasses.replace(FOUND[0], fingerprint="a c"),)


def test_a_full_first_shard_fits_into_a_config_map():
    """A ConfigMap may hold 1 MiB; the plan of 4,000 cells in rounds takes 40 kB."""
    assert shards.MAX_RESULTS * (results.MAX_BYTES + 1) + 40_000 < 2**20


def test_the_order_in_which_results_came_does_not_matter():
    assert shards.pack(FOUND[::-1]) == shards.pack(FOUND)


def test_the_first_shard_carries_the_plan():
    assert shards.plan_of(shards.pack(FOUND, PLAN), "shard r0") == PLAN


def test_a_later_shard_carries_none():
    assert shards.plan_of(shards.pack(FOUND), "shard r1") is None


def test_a_plan_that_was_changed_is_refused():
    data = shards.pack((), PLAN)
    data[shards.PLAN] = data[shards.PLAN].replace('"threads":null', '"threads":3')

    with pytest.raises(PlanError, match="shard r0 was changed"):
        shards.plan_of(data, "shard r0")


def test_the_checksum_does_not_depend_on_the_order_of_keys():
    data = shards.pack(FOUND, PLAN)

    assert shards.checksum(data) == shards.checksum(dict(reversed(data.items())))


def test_the_checksum_changes_with_a_number():
    changed = (dataclasses.replace(FOUND[0], cells=(measured(latency_ms=11.5),)), *FOUND[1:])

    assert shards.checksum(shards.pack(FOUND)) != shards.checksum(shards.pack(changed))


@pytest.mark.parametrize("line", ["{}", "[]", "nothing", '{"sweep": 99}', '{"sweep": -1}', '{"sweep": "0"}'])
def test_a_line_that_is_no_result_of_the_plan_is_refused(line):
    with pytest.raises(ResultError, match="WrongSweep"):
        shards.unpack({shards.RESULTS: line + "\n"}, PLAN)


def test_a_cell_that_cannot_be_read_is_refused_rather_than_lost():
    data = shards.pack([a_result(PLAN, 0, [measured(1), measured(8)])])
    data[shards.RESULTS] = data[shards.RESULTS].replace('"b":[1,8]', '"b":[1,9]')

    with pytest.raises(ResultError, match="NotInPlan"):
        shards.unpack(data, PLAN)
