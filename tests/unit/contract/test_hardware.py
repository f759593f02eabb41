import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_contract import hardware

WORDS = st.text(st.characters(codec="ascii", exclude_characters=","), min_size=1).filter(
    lambda text: "driver" not in text
)


@given(WORDS, WORDS, st.lists(WORDS))
def test_a_gpu_and_its_driver_are_read_as_they_were_written(product, driver, settings):
    assert hardware.gpu_and_driver(hardware.of_gpu(product, driver, settings)) == (product, driver)


@pytest.mark.parametrize("text", ["", "AMD EPYC, 2 threads", "a processor whose driver is a person"])
def test_a_processor_is_no_gpu(text):
    assert hardware.gpu_and_driver(text) == ("", "")
