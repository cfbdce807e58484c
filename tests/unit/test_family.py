"""A family from its WorkerSettings class: inheritance, overrides, and one clear line for each mistake."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from arq.worker import func as arq_func

from daemon.errors import ConfigurationError
from daemon.family import Exponential, FamilySettings, Fixed, RateLimit, SharedLimit, func, load_family


async def greet(ctx: Any, name: str) -> str:
    return name


def plain(ctx: Any) -> None: ...


class Base(FamilySettings):
    max_jobs = 3
    job_timeout = "2m"

    async def on_startup(ctx: Any) -> None:  # type: ignore[misc]
        ctx["up"] = True


class Greetings(Base):
    family = "greetings"
    functions = (greet, func(plain, name="p", timeout="10m", max_tries=2, backoff=Fixed(1)))
    max_tries = 7
    backoff = Exponential(base=1)
    rate_limit = RateLimit(100, per=1)


def test_values_and_hooks_are_collected_over_inheritance() -> None:
    family = load_family(Greetings)
    assert (family.name, family.keys.queue) == ("greetings", "arq:{greetings}")
    assert (family.values.max_jobs, family.values.job_timeout, family.values.max_tries) == (3, 120, 7)
    assert set(family.functions) == {"greet", "p"}
    assert (family.functions["p"].timeout, family.functions["p"].max_tries) == (600, 2)
    assert family.hooks == {"on_startup": Base.__dict__["on_startup"]}


def test_the_environment_wins_over_the_class() -> None:
    overrides = {
        "max_jobs": 20,
        "rate_limit": "5/10s",
        "backoff": "exponential 3s max 1h jitter 0.1",
        "priority": "low",
    }
    values = load_family(Greetings, overrides).values
    assert (values.max_jobs, values.rate_limit, values.priority) == (20, RateLimit(5, 10), 7)
    assert values.backoff == Exponential(3, 3600, 0.1)
    assert load_family(Greetings, {"backoff": "fixed 500ms"}).values.backoff == Fixed(0.5)


def test_shared_limits_are_objects_or_text() -> None:
    made = type(
        "Made", (Greetings,), {"shared_limits": [SharedLimit("openai", rate=RateLimit(50, per=1), concurrency=20)]}
    )
    assert load_family(made).values == load_family(Greetings, {"shared_limits": "openai 50/1s 20"}).values
    several = load_family(Greetings, {"shared_limits": "openai 20 50/s, maps 10/m"}).values.shared_limits
    assert several == (SharedLimit("openai", RateLimit(50), 20), SharedLimit("maps", "10/60s"))
    assert load_family(made, {"shared_limits": None}).values.shared_limits == ()


def test_limits_of_kinds_of_groups_are_a_mapping_or_text() -> None:
    made = type("Made", (Greetings,), {"group_limits": {"ordered:*": 1, "free trial:*": 2}})
    assert load_family(made).values == load_family(Greetings, {"group_limits": "ordered:* 1, free trial:* 2"}).values
    assert load_family(made, {"group_limits": None}).values.group_limits == {}


def test_durations_may_be_timedeltas() -> None:
    assert load_family(Greetings, {"keep_result": timedelta(hours=2)}).values.keep_result == 7200


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"family": None}, "must be a name"),
        ({"family": "Mail"}, r"must be a name matching \[a-z0-9_-\]"),
        ({"functions": []}, "registers no function"),
        ({"functions": [greet, greet]}, "'greet' is registered twice"),
        ({"functions": [func(greet, name="a\nb")]}, "not plain text"),
        ({"functions": ["greet"]}, "'greet' is not a function"),
        ({"max_job": 3}, r"unknown \['max_job'\]; known are .*max_jobs"),
        ({"max_jobs": 0}, "'t': max_jobs: .*greater than or equal to 1"),
        ({"job_timeout": "soon"}, "'t': job_timeout: .*not a duration"),
        ({"priority": 11}, "'t': priority: .*not a level"),
        ({"backoff": "sometimes"}, "exponential 3s max 1h jitter 0.1"),
        ({"shared_limits": "openai"}, "'openai' limits nothing: give it a rate, a concurrency or both"),
        ({"shared_limits": "openai few"}, "shared_limits: .*write name, starts per period and jobs"),
        ({"shared_limits": "Open AI 5/s"}, "shared_limits: .*write name, starts per period and jobs"),
        ({"shared_limits": "Openai 5/s"}, "shared_limits: .*should match pattern"),
        ({"shared_limits": "a 5, a 5/s"}, "a shared limit is named twice"),
        ({"group_limits": {"ordered": 1}}, "'ordered' is no kind of groups: write 'ordered:\\*' for those whose names"),
        ({"group_limits": {"acme:eu:*": 1}}, "'t': group_limits: .*'acme:eu:\\*' is no kind of groups"),
        ({"group_limits": {"*": 1}}, "is no kind of groups.*each group has group_limit"),
        ({"group_limits": {":*": 1}}, "is no kind of groups"),
        ({"group_limits": {"a\nb:*": 1}}, "is no kind of groups"),
        ({"group_limits": {"ordered:*": 0}}, "'t': group_limits: .*greater than or equal to 1"),
        ({"group_limits": "ordered:*"}, "write a kind of groups and how many jobs of each"),
        ({"group_limits": "ordered:* few"}, "write a kind of groups and how many jobs of each"),
        ({"group_limits": "a:* 1, a:* 2"}, "a kind of groups is named twice"),
        ({"on_startup": plain}, "on_startup must be an async function"),
    ],
)
def test_a_mistake_is_told_in_one_line(attributes: dict[str, Any], said: str) -> None:
    settings = type("WorkerSettings", (FamilySettings,), {"family": "t", "functions": [greet], **attributes})
    with pytest.raises(ConfigurationError, match=said) as caught:
        load_family(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["many", "5/x", "0/1s", 0])
def test_a_wrong_rate_limit_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="'greetings': rate_limit"):
        load_family(Greetings, {"rate_limit": wrong})


def test_what_stock_arqs_func_gave_is_taken_over() -> None:
    registered = func(arq_func(greet, name="hello", timeout=12, max_tries=3, keep_result=60))
    assert (registered.name, registered.timeout, registered.max_tries, registered.keep_result) == ("hello", 12, 3, 60)


def test_an_arq_function_without_values_of_its_own_leaves_them_to_the_family() -> None:
    registered = func(arq_func(greet))
    assert (registered.timeout, registered.max_tries, registered.keep_result) == (None, None, None)
    assert not registered.keep_result_forever
