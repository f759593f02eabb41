import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_contract import ranges
from inferbench_contract.spec import MAX_CELL_ROUNDS

SWEEPS = st.sets(st.integers(0, MAX_CELL_ROUNDS), min_size=1)


@given(SWEEPS)
def test_what_is_written_is_read_back(sweeps):
    assert ranges.parse_sweeps(ranges.format_sweeps(sweeps)) == tuple(sorted(sweeps))


@given(st.text(alphabet="0123456789-, ", max_size=12))
def test_any_text_is_read_or_refused_and_what_is_read_means_the_same_when_written_again(text):
    try:
        sweeps = ranges.parse_sweeps(text)
    except ValueError:
        return
    assert ranges.parse_sweeps(ranges.format_sweeps(sweeps)) == sweeps
    assert sweeps
    assert list(sweeps) == sorted(set(sweeps))


@pytest.mark.parametrize(
    ("sweeps", "text"),
    [
        pytest.param([3], "3", id="one"),
        pytest.param([3, 7, 8, 9], "3,7-9", id="a run is written by its ends"),
        pytest.param([9, 8, 3, 7, 7], "3,7-9", id="order and repetition do not matter"),
        pytest.param(range(4_000), "0-3999", id="all of the largest plan"),
        pytest.param([], "", id="none"),
    ],
)
def test_they_are_written_as_people_would(sweeps, text):
    assert ranges.format_sweeps(sweeps) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("", "''", id="nothing"),
        pytest.param("3,,4", "''", id="nothing between two commas"),
        pytest.param("3,x", "'x'", id="a letter"),
        pytest.param("3, 4", "' 4'", id="a space"),
        pytest.param("-3", "'-3'", id="a negative number"),
        pytest.param("3-", "'3-'", id="a run without an end"),
        pytest.param("9-7", "'9-7'", id="a run backwards"),
        pytest.param("7,3", "'3'", id="descending"),
        pytest.param("3,3", "'3'", id="twice"),
        pytest.param("3-5,5-7", "'5-7'", id="overlapping"),
        pytest.param("0-99999999999", "'0-99999999999'", id="more than any memory holds"),
        pytest.param("٣", "'٣'", id="a digit of another script"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(text, part):
    with pytest.raises(
        ValueError, match=r"^found .*, expected numbers of sweeps in ascending order, such as 3,7-9$"
    ) as e:
        ranges.parse_sweeps(text)

    assert str(e.value).startswith(f"found {part}, ")
