"""The operator's settings: what the environment may say, and what it is told when it says something else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_operator.settings import LogFormat, LogLevel, ResultsDetail, Settings, SettingsError

OPERATOR = "INFERBENCH_OPERATOR_"


def read(**variables):
    return Settings.from_environment({f"{OPERATOR}{name}": value for name, value in variables.items()})


def mistakes(**variables):
    with pytest.raises(SettingsError) as caught:
        read(**variables)
    return caught.value.mistakes


def test_nothing_has_to_be_set():
    settings = Settings.from_environment({"PATH": "/usr/bin"})

    assert settings == Settings()
    assert settings.runner_tolerations == ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},)


def test_lists_are_separated_by_commas_and_objects_are_json():
    settings = read(
        WATCH_NAMESPACES="team-a, team-b,",
        IMAGE_PULL_SECRETS="registry.example",
        RUNNER_NODE_SELECTOR='{"disk": "ssd"}',
        RUNNER_TOLERATIONS="[]",
        ALLOW_PRIVILEGED_POD_TEMPLATES="true",
        RESULTS_DETAIL="all",
        LOG_LEVEL="DEBUG",
        LOG_FORMAT="text",
        API_QPS="20",
    )

    assert settings.watch_namespaces == ("team-a", "team-b")
    assert settings.image_pull_secrets == ("registry.example",)
    assert settings.runner_node_selector == {"disk": "ssd"}
    assert settings.runner_tolerations == ()
    assert settings.allow_privileged_pod_templates is True
    assert settings.results_detail is ResultsDetail.ALL
    assert (settings.log_level, settings.log_format) == (LogLevel.DEBUG, LogFormat.TEXT)
    assert settings.api_qps == 20


def test_an_empty_list_is_one_without_entries():
    assert read(WATCH_NAMESPACES="").watch_namespaces == ()


def test_every_mistake_is_told_at_once():
    found = mistakes(WORKERS="many", API_QPS="0", LOG_LEVEL="LOUD", WORKER="8")

    assert found == (
        'INFERBENCH_OPERATOR_WORKERS is "many"; expected a whole number from 1 to 64.',
        'INFERBENCH_OPERATOR_API_QPS is "0"; expected a whole number from 1 to 10,000.',
        'INFERBENCH_OPERATOR_LOG_LEVEL is "LOUD"; expected one of DEBUG, INFO, WARNING, ERROR.',
        'INFERBENCH_OPERATOR_WORKER is "8"; there is no such setting. Remove it, or mend its name.',
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RUNNER_CPU", "two", "a quantity such as 2, 500m or 8Gi"),
        ("RUNNER_MEMORY", "8 GiB", "a quantity such as 2, 500m or 8Gi"),
        ("RUNNER_IMAGE", "an image", "an image without spaces"),
        ("IMAGE_PULL_POLICY", "Sometimes", "Always, IfNotPresent or Never"),
        ("RUNNER_PRIORITY_CLASS", "High!", "the name of a PriorityClass"),
        ("WATCH_NAMESPACES", "team-a,Team_B", "namespaces, separated by commas"),
        ("IMAGE_PULL_SECRETS", "a,-", "names of Secrets, separated by commas"),
        ("RUNNER_NODE_SELECTOR", "disk=ssd", 'labels as JSON, such as {"disk": "ssd"}'),
        ("RUNNER_NODE_SELECTOR", '{"disk": 1}', 'labels as JSON, such as {"disk": "ssd"}'),
        (
            "RUNNER_TOLERATIONS",
            "nvidia.com/gpu",
            'tolerations as JSON, such as [{"key": "nvidia.com/gpu", "operator": "Exists"}]',
        ),
        ("ALLOW_PRIVILEGED_POD_TEMPLATES", "yes", "true or false"),
        ("ALLOW_PRIVILEGED_POD_TEMPLATES", "1", "true or false"),
        ("HTTP_PORT", "65536", "a whole number from 1 to 65,535"),
        ("RESULTS_DETAIL", "none", "one of benchmark, cells, all"),
        ("LOG_FORMAT", "xml", "one of json, text"),
    ],
)
def test_a_mistake_names_the_variable_its_value_and_what_was_expected(name, value, expected):
    (sentence,) = mistakes(**{name: value})

    assert sentence == f'{OPERATOR}{name} is "{value}"; expected {expected}.'


def test_the_variables_of_a_service_called_like_the_operator_are_no_mistakes():
    """Kubernetes sets them in every pod of the namespace; one of them would be a setting's, were it called PORT."""
    kubernetes = {
        "PORT": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP_ADDR": "10.0.0.1",
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8080",
        "SERVICE_PORT_METRICS": "8080",
        "METRICS_SERVICE_HOST": "10.0.0.1",
    }

    assert read(**kubernetes) == Settings()


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


@given(
    st.builds(
        Settings,
        watch_namespaces=st.lists(NAMES, max_size=3).map(tuple),
        image_pull_secrets=st.lists(NAMES, max_size=3).map(tuple),
        runner_node_selector=st.dictionaries(st.text(), st.text(), max_size=3),
        runner_tolerations=st.lists(st.dictionaries(st.text(), st.text(), max_size=2), max_size=2).map(tuple),
        allow_privileged_pod_templates=st.booleans(),
        workers=st.integers(1, 64),
        results_detail=st.sampled_from(ResultsDetail),
    )
)
def test_what_is_printed_reads_back_as_the_same_settings(settings):
    environment = dict(line.split("=", 1) for line in settings.as_lines())

    assert Settings.from_environment(environment) == settings


def test_every_setting_is_printed_in_one_line():
    lines = Settings().as_lines()

    assert len(lines) == len(Settings.model_fields)
    assert not any("\n" in line for line in lines)
    assert f"{OPERATOR}WORKERS=8" in lines
    assert f"{OPERATOR}HTTP_PORT=8080" in lines
    assert json.loads(next(line for line in lines if "TOLERATIONS" in line).split("=", 1)[1])


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Settings().workers = 3


def test_an_empty_variable_is_as_good_as_none():
    """Charts write one for every value that nobody gave."""
    assert read(WORKERS="", RUNNER_TOLERATIONS="", LOG_LEVEL="") == Settings()


@pytest.mark.parametrize(("running", "seconds"), [(1, 5), (5, 5), (40, 40), (60, 60)])
def test_counters_of_all_that_run_are_written_once_a_second_in_all(running, seconds):
    assert Settings(status_interval_seconds=5).counters_interval(running).total_seconds() == seconds


@pytest.mark.parametrize(("interval", "seconds"), [(5, 60), (300, 300)])
def test_counters_are_a_minute_old_at_most_unless_asked_for_less_often(interval, seconds):
    assert Settings(status_interval_seconds=interval).counters_interval(10_000).total_seconds() == seconds
