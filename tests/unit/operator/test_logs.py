"""Log lines: what each carries, whoever logs it, and that it is one line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
import warnings

import pytest

from inferbench_operator import logs
from inferbench_operator.settings import LogFormat, LogLevel

TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQifQ.c2lnbmF0dXJl"


@pytest.fixture
def written(request):
    """What is written from here on; the process logs as before when the test is over."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    logs.set_up(LogLevel.INFO, getattr(request, "param", LogFormat.JSON), stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers[:], sys.excepthook, threading.excepthook = before[0], before[2], before[3]
    root.setLevel(before[1])


in_text = pytest.mark.parametrize("written", [LogFormat.TEXT], indirect=True)
log = logging.getLogger("inferbench.reconcile")


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_when_how_grave_who_and_what(written):
    log.warning("The Job %s is gone.", "resnet50-1")

    (line,) = lines(written)
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "inferbench.reconcile", "message": "The Job resnet50-1 is gone."}


def test_every_line_about_a_benchmark_carries_its_name_namespace_and_uid(written):
    with logs.about("team-a", "resnet50", "uid-1"):
        log.info("one")
        logging.getLogger("some.library").info("two")
    log.info("three")

    one, two, three = lines(written)
    for line in (one, two):
        assert (line["namespace"], line["benchmark"], line["uid"]) == ("team-a", "resnet50", "uid-1")
    assert not {"namespace", "benchmark", "uid"} & three.keys()


def test_tasks_side_by_side_do_not_mix_up_what_they_are_about(written):
    async def work(name):
        with logs.about("team-a", name):
            await asyncio.sleep(0)
            log.info("%s", name)

    async def main():
        await asyncio.gather(*(work(name) for name in "abc"))

    asyncio.run(main())

    assert [line["benchmark"] for line in lines(written)] == [line["message"] for line in lines(written)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("InferenceBenchmark", {"benchmark": "resnet50", "namespace": "team-a", "uid": "uid-1"}),
        ("Job", {"object": "Job/resnet50", "namespace": "team-a", "uid": "uid-1"}),
    ],
)
def test_what_kopf_says_about_an_object_is_told_the_same_way(written, kind, expected):
    reference = {"apiVersion": "x/v1", "kind": kind, "name": "resnet50", "uid": "uid-1", "namespace": "team-a"}

    logging.getLogger("kopf.objects").info("Handler failed.", extra={"k8s_ref": reference, "settings": None})

    (line,) = lines(written)
    assert {key: line.get(key) for key in ("benchmark", "object", "namespace", "uid") if key in line} == expected


def test_an_error_is_one_line_with_its_traceback_in_it(written):
    try:
        raise ValueError("first line\nsecond line")
    except ValueError:
        log.exception("It failed.")

    (line,) = lines(written)
    assert line["level"] == "error"
    assert line["traceback"].startswith("Traceback (most recent call last)")
    assert line["traceback"].endswith("second line")


def test_an_error_that_nobody_caught_is_one_line_too(written):
    error = ValueError("nobody")

    sys.excepthook(ValueError, error, None)

    (line,) = lines(written)
    assert line["level"] == "critical"
    assert line["message"] == "The operator ends by an error that nobody caught: nobody"
    assert "ValueError: nobody" in line["traceback"]


def test_so_is_one_in_a_thread(written):
    def fail():
        raise ValueError("in a thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()

    (line,) = lines(written)
    assert "ValueError: in a thread" in line["traceback"]


def test_and_one_of_a_task_that_nobody_asked(written):
    async def main():
        asyncio.get_running_loop().set_exception_handler(logs.log_loop_error)
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(0)

    asyncio.run(main())

    (line,) = lines(written)
    assert "ZeroDivisionError" in line["traceback"]


def test_warnings_are_logged(written):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    (line,) = lines(written)
    assert "DeprecationWarning: old" in line["message"]


@pytest.mark.parametrize("secret", [TOKEN, f"Authorization: Bearer {TOKEN}", "authorization: bearer 0123456789abcdef"])
def test_no_token_is_written(written, secret):
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("Refused: %s", secret)

    text = written.getvalue()
    assert "[token]" in text
    assert secret.split()[-1] not in text


def test_lines_below_the_level_are_left_out(written):
    log.debug("nothing")

    assert written.getvalue() == ""


@in_text
def test_for_a_person_a_line_is_text(written):
    with logs.about("team-a", "resnet50", "uid-1"):
        log.info("It is done.")
    log.warning("So there.")

    first, second = written.getvalue().splitlines()
    assert first.endswith("Z INFO    team-a/resnet50: It is done.")
    assert second.endswith("Z WARNING So there.")


@in_text
def test_for_a_person_a_traceback_stands_below_its_line(written):
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("It failed.")

    first, second, *_, last = written.getvalue().splitlines()
    assert first.endswith("It failed.")
    assert (second, last) == ("Traceback (most recent call last):", "ValueError: x")
