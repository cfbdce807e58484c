"""``arqd webhooks``, the settings and the payloads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daemon.cli.command import main
from daemon.errors import ConfigurationError
from daemon.settings import load_settings
from handlers.integrations.endpoint_names import endpoint_group
from handlers.webhooks.payloads import DeliverWebhook, endpoint_name
from tests.handlers.webhooks.support import new_secret

Arqd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def arqd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arqd:
    """Run the command in an empty folder; gives its status and what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARQD_WEBHOOKS__SECRETS__SHOP", new_secret())

    def run(*words: str) -> tuple[int, str, str]:
        status = main(words)
        return status, *capsys.readouterr()

    return run


def test_the_life_of_an_endpoint(arqd: Arqd) -> None:
    assert "run arqd db upgrade" in arqd("webhooks", "list")[2]
    assert arqd("db", "upgrade")[0] == 0
    added = arqd("webhooks", "add", "shop", "https://hooks.example.com/t0ken", "--secret", "shop")
    assert added[:2] == (0, "shop is registered\n")
    assert arqd("webhooks", "disable", "shop")[0] == 0
    listed = arqd("webhooks", "list", "--disabled", "--json")[1]
    (found,) = json.loads(listed)
    assert (found["name"], found["host"], found["disabled_why"]) == ("shop", "hooks.example.com", "by an operator")
    assert "t0ken" not in listed + arqd("webhooks", "list")[1]
    assert arqd("webhooks", "enable", "shop")[0] == 0
    assert json.loads(arqd("webhooks", "list", "--disabled", "--json")[1]) == []
    assert arqd("webhooks", "deliveries", "shop", "--json")[1].strip() == "[]"
    status, _, told = arqd("webhooks", "remove", "other")
    assert (status, "there is no endpoint other" in told) == (1, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("a b", "https://x.example"), "an endpoint is a URL, or a name"),
        (("shop", "ftp://x.example"), "https://host/path"),
        (("shop", "https://x.example", "--schedule", "daily"), "'family' or 'standard'"),
        (("shop", "https://x.example", "--secret", "lost"), "ARQD_WEBHOOKS__SECRETS__LOST"),
    ],
)
def test_bad_endpoints(arqd: Arqd, words: tuple[str, ...], told: str) -> None:
    status, _, error = arqd("webhooks", "add", "--secret", "shop", *words)
    assert status == 1
    assert told in error
    assert error.count("\n") == 1


def test_secrets_have_names_in_any_case() -> None:
    first, second = new_secret(), new_secret()
    settings: Any = load_settings({"ARQD_WEBHOOKS__SECRETS__Shop": f"{first} {second}"})
    assert settings.webhooks.secrets_of("SHOP") == [first, second]
    assert settings.webhooks.secrets_of("other") is None


@pytest.mark.parametrize(
    "value",
    ["hello", "whsec_", "whsec_aGVsbG8=", new_secret(16), new_secret(65), " "],
    ids=["no prefix", "empty", "short", "too short", "too long", "blank"],
)
def test_a_secret_that_is_none_is_refused_and_not_quoted(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"ARQD_WEBHOOKS__SECRETS__SHOP": value})
    assert "ARQD_WEBHOOKS__SECRETS" in str(caught.value)
    assert len(value) < 10 or value not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "https://user:pw@x.example/"},
        {"endpoint": "ftp://x.example/"},
        {"endpoint": "https://x.example/ a"},
        {"endpoint": "https://x.example:port/"},
        {"endpoint": "-"},
        {"endpoint": "ordered:shop"},
        {"event": "a b"},
        {"secret_ref": None},
        {"unknown": 1},
    ],
)
def test_bad_payloads(fields: dict[str, Any]) -> None:
    good = {"endpoint": "https://x.example/in", "event": "order.paid", "payload": {}, "secret_ref": "shop"}
    DeliverWebhook(**good)
    with pytest.raises(ValidationError):
        DeliverWebhook(**{**good, **fields})


def test_the_name_of_a_url_tells_nothing_of_its_path() -> None:
    one, other = endpoint_name("https://x.example/secret"), endpoint_name("https://x.example/other")
    assert one != other
    assert one.startswith("x.example#")
    assert "secret" not in one
    assert endpoint_name("shop") == "shop"


@pytest.mark.parametrize(
    ("endpoint", "begins"),
    [
        ("shop", "shop"),
        ("ordered", "ordered"),
        ("https://shop.example:8443/in?a=b:c", "shop.example#"),
        ("https://[2001:db8::1]:8443/in", "2001-db8--1#"),
        ("http://ordered:80/in", "ordered#"),
        # A group has 128 characters at most.
        ("s" * 200, "#"),
        (f"https://{'s' * 150}.example/in", "#"),
    ],
)
def test_deliveries_of_an_endpoint_are_a_group(endpoint: str, begins: str) -> None:
    fields: dict[str, Any] = {"endpoint": endpoint, "event": "order.paid", "payload": {}, "secret_ref": "shop"}
    group, ordered = (DeliverWebhook(**fields, ordered=ordered).group_key() for ordered in (False, True))
    assert group.startswith(begins)
    assert ":" not in group, "nothing but an ordered delivery is of the kind"
    assert ordered == f"ordered:{group}"
    assert len(ordered) <= 128
    assert group == endpoint_group(endpoint), "who enqueues by name gives the same"


@pytest.mark.parametrize("endpoint", ["http://[::1/in", "no name", "a:b", "a\nb", ""])
def test_what_is_no_endpoint_has_a_group_that_is_one(endpoint: str) -> None:
    """Its job is refused by the worker, not whoever enqueues it among fifty others."""
    assert re.fullmatch("#[0-9a-f]{12}", endpoint_group(endpoint))
