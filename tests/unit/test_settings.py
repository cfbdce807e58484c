"""Settings: names, files of secrets, other systems' names, and what is said when one of them is wrong."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from daemon.encryption import generate_key
from daemon.environment import FALLBACKS
from daemon.errors import ConfigurationError
from daemon.family import RateLimit, SharedLimit
from daemon.retry import Backoff
from daemon.settings import Settings, load_settings
from daemon.settings_docs import fallback_table, settings_table, with_tables

ROOT = Path(__file__).parents[2]


def refused(environ: dict[str, str]) -> str:
    """Give the message; it must be one line."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def value(settings: Settings, path: str) -> Any:
    """Follow ``smtp.host``, ``family.email.max_jobs``; secrets are revealed."""
    found: Any = settings
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found.get_secret_value() if isinstance(found, SecretStr) else found


def test_nothing_needs_to_be_set() -> None:
    settings = load_settings({})
    assert settings.redis_url is None
    assert settings.overrides() == {}
    assert "email" in settings.families


@pytest.mark.parametrize(
    ("name", "text", "path", "expected"),
    [
        ("ARQD_REDIS_URL", "rediss://u:p@h/1", "redis_url", "rediss://u:p@h/1"),
        ("ARQD_LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("ARQD_PROBE__PORT", "9999", "probe.port", 9999),
        ("ARQD_PROBE__PORT", "", "probe.port", 9191),
        ("ARQD_FAMILY__EMAIL__MAX_JOBS", "20", "family.email.max_jobs", 20),
        ("ARQD_FAMILY__EMAIL__LEASE", "1m30s", "family.email.lease", 90),
        ("ARQD_FAMILY__EMAIL__PRIORITY", "high", "family.email.priority", 3),
        ("ARQD_FAMILY__EMAIL__BACKOFF", "fixed 5s", "family.email.backoff", Backoff(5, False, None)),
        ("ARQD_FAMILY__EMAIL__RATE_LIMIT", "30/m", "family.email.rate_limit", RateLimit(30, 60)),
        ("ARQD_FAMILY__EMAIL__RATE_LIMIT", "none", "family.email.rate_limit", None),
        ("ARQD_FAMILY__EMAIL__SHARED_LIMITS", "x 5/s", "family.email.shared_limits", (SharedLimit("x", 5),)),
        ("ARQD_FAMILY__EMAIL__SHARED_LIMITS", "none", "family.email.shared_limits", ()),
        ("ARQD_FAMILY__EMAIL__GROUP_LIMITS", "a:* 1, b:* 2", "family.email.group_limits", {"a:*": 1, "b:*": 2}),
        ("ARQD_FAMILY__EMAIL__GROUP_LIMITS", '{"a:*": 1}', "family.email.group_limits", {"a:*": 1}),
        ("ARQD_FAMILY__EMAIL__GROUP_LIMITS", "none", "family.email.group_limits", {}),
        ("ARQD_FAMILY__EMAIL__KEEP_COMPLETED", "None", "family.email.keep_completed", None),
        ("ARQD_FAMILY", '{"email": {"max_tries": 2}}', "family.email.max_tries", 2),
        ("ARQD_FAMILIES", '{"reports": "json.tool:Settings"}', "families.reports", "json.tool:Settings"),
        ("ARQD_FAMILIES__REPORTS", "json.tool:Settings", "families.reports", "json.tool:Settings"),
        ("ARQD_SMTP__TLS", "none", "smtp.tls", "none"),
        ("ARQD_SMTP", '{"username": "u", "password": "hush"}', "smtp.password", "hush"),
        ("ARQD_EMAIL__TEMPLATE_DIRS", "/a:/b", "email.template_dirs", (Path("/a"), Path("/b"))),
        ("ARQD_EMAIL__DKIM__SELECTOR", "", "email.dkim.selector", None),
        ("ARQD_EMAIL__SENDER", "arqd@example.com", "email.sender", "arqd@example.com"),
    ],
)
def test_a_variable_sets_its_value(name: str, text: str, path: str, expected: Any) -> None:
    assert value(load_settings({name: text}), path) == expected


def test_only_what_is_set_overrides_the_class_of_a_family() -> None:
    settings = load_settings({"ARQD_FAMILY__EMAIL__MAX_JOBS": "3", "ARQD_FAMILY__EMAIL__GLOBAL_LIMIT": "none"})
    assert settings.overrides() == {"email": {"max_jobs": 3, "global_limit": None}}


def test_a_family_with_a_dash_is_written_with_an_underscore() -> None:
    environ = {"ARQD_FAMILIES": '{"my-reports": "json.tool:S"}', "ARQD_FAMILY__MY_REPORTS__MAX_JOBS": "2"}
    assert load_settings(environ).overrides() == {"my-reports": {"max_jobs": 2}}


def test_a_family_named_on_the_command_line_can_be_set_too() -> None:
    settings = load_settings({"ARQD_FAMILY__GREETINGS__MAX_JOBS": "2"}, {"greetings": "json.tool:S"})
    assert settings.overrides() == {"greetings": {"max_jobs": 2}}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"ARQD_REDIS_ULR": "x"}, "ARQD_REDIS_ULR is not a setting: did you mean ARQD_REDIS_URL?"),
        ({"ARQD_FAMILY__EMAIL__MAX_JOB": "1"}, "did you mean ARQD_FAMILY__EMAIL__MAX_JOBS?"),
        ({"ARQD_FAMILY__EMIAL__MAX_JOBS": "1"}, "did you mean ARQD_FAMILY__EMAIL__MAX_JOBS?"),
        ({"ARQD_PROBE_PORT": "9000"}, "ARQD_PROBE_PORT is not a setting: did you mean ARQD_PROBE__PORT?"),
        ({"ARQD_XYZZY": ""}, "ARQD_XYZZY is not a setting: docs/settings.md lists what there is"),
        ({"ARQD_PROBE__PORT": "http"}, "ARQD_PROBE__PORT: Input should be a valid integer"),
        ({"ARQD_LOG_LEVEL": "loud"}, "ARQD_LOG_LEVEL: Input should be 'debug', "),
        ({"ARQD_FAMILY__EMAIL__MAX_JOBS": "0"}, "ARQD_FAMILY__EMAIL__MAX_JOBS: Input should be greater than or equal"),
        ({"ARQD_FAMILY__EMAIL__RATE_LIMIT": "0/s"}, "ARQD_FAMILY__EMAIL__RATE_LIMIT: Input should be greater than"),
        ({"ARQD_FAMILY__EMAIL__GROUP_LIMITS": "a 1"}, "ARQD_FAMILY__EMAIL__GROUP_LIMITS: 'a' is no kind of groups"),
        ({"ARQD_FAMILY__EMAIL__GROUP_LIMITS": "a:* 0"}, "ARQD_FAMILY__EMAIL__GROUP_LIMITS: Input should be greater"),
        ({"ARQD_EMAIL__DKIM__SELECTOR": "x y"}, "ARQD_EMAIL__DKIM__SELECTOR: String should match pattern"),
        ({"ARQD_EMAIL__DKIM__SELECTOR": "x"}, "ARQD_EMAIL__DKIM: a key and its selector belong together"),
        ({"ARQD_FAMILY__EMAIL__BACKOFF": "slowly"}, "ARQD_FAMILY__EMAIL__BACKOFF: write 'exponential 3s"),
        ({"ARQD_FAMILY__EMAIL__JOB_TIMEOUT": "soon"}, "ARQD_FAMILY__EMAIL__JOB_TIMEOUT: 'soon' is not a duration"),
        ({"ARQD_FAMILY__EMAIL__PRIORITY": "11"}, "ARQD_FAMILY__EMAIL__PRIORITY: priority '11' is not a level"),
        ({"ARQD_FAMILY": '{"emial": {"max_jobs": 1}}'}, "ARQD_FAMILY: no family 'emial'; known are"),
        ({"ARQD_FAMILY": '{"email": {"jobs": 1}}'}, "ARQD_FAMILY__EMAIL__JOBS: Extra inputs are not permitted"),
        ({"ARQD_FAMILIES": "reports"}, "ARQD_FAMILIES: Input should be a valid dictionary"),
        ({"ARQD_FAMILIES": '{"reports": "app.jobs"}'}, "'reports' must name a class as 'package.module:Class'"),
        ({"ARQD_FAMILIES": '{"reports": "no_such_package.jobs:S"}'}, "no_such_package"),
        ({"ARQD_SMTP__PORT": "x", "ARQD_PROBE__PORT": "x"}, "(and 1 more)"),
        ({"ARQD_SECRETS_DIR": "/no/such/folder"}, "ARQD_SECRETS_DIR: /no/such/folder cannot be read: No such file"),
        ({"QUEUE_CONCURRENCY": "many"}, "ARQD_FAMILY__ANALYTICS__MAX_JOBS (from QUEUE_CONCURRENCY): Input should be"),
        ({"BULLMQ_BACKOFF_DELAY": "2s"}, "BULLMQ_BACKOFF_DELAY must be a whole number"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "x"}, "REDIS_PORT must be a whole number"),
        ({"REDIS_URL": "redis://:hush@[::1"}, "REDIS_URL is no URL: Invalid IPv6 URL"),
        ({"EMAIL_SERVICE": "pigeon"}, "EMAIL_SERVICE is none of gmail"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(environ: dict[str, str], said: str) -> None:
    assert said in refused(environ)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ARQD_PORT", "tcp://10.0.0.1:80"),
        ("ARQD_SERVICE_HOST", "10.0.0.1"),
        ("ARQD_PROBE_SERVICE_HOST", "10.0.0.1"),
        ("ARQD_PROBE_SERVICE_PORT", "9191"),
        ("ARQD_PROBE_SERVICE_PORT_HTTP", "9191"),
        ("ARQD_PROBE_PORT", "tcp://10.0.0.1:9191"),
        ("ARQD_PROBE_PORT_9191_TCP", "tcp://10.0.0.1:9191"),
        ("ARQD_PROBE_PORT_9191_TCP_PROTO", "tcp"),
        ("ARQD_PROBE_PORT_9191_TCP_PORT", "9191"),
        ("ARQD_PROBE_PORT_9191_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_names_that_kubernetes_injects_for_services_are_no_settings(name: str, text: str) -> None:
    settings = load_settings({name: text, "ARQD_PROBE__PORT": "9000"})
    assert settings.probe.port == 9000


def test_secrets_come_from_files_and_variables_win(tmp_path: Path) -> None:
    mounted, credentials = tmp_path / "mounted", tmp_path / "credentials"
    mounted.mkdir()
    credentials.mkdir()
    (mounted / "..data").mkdir()
    (mounted / "unrelated.bin").write_bytes(b"\xff\x00")
    (mounted / "arqd_redis_url").write_text("redis://mounted/0\n")
    (mounted / "ARQD_SMTP__PASSWORD").write_text("from a file")
    (credentials / "arqd_redis_url").write_text("redis://credentials/0")
    (credentials / "arqd_email__sender").write_text("file@example.com")
    environ = {
        "ARQD_SECRETS_DIR": str(mounted),
        "CREDENTIALS_DIRECTORY": str(credentials),
        "ARQD_EMAIL__SENDER": "variable@example.com",
        "ARQD_SMTP__USERNAME": "u",
    }
    settings = load_settings(environ)
    assert value(settings, "redis_url") == "redis://mounted/0"
    assert value(settings, "smtp.password") == "from a file"
    assert value(settings, "email.sender") == "variable@example.com"


def test_a_wrong_secret_file_is_named_but_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "arqd_smpt__password").write_text("hush")
    message = refused({"ARQD_SECRETS_DIR": str(tmp_path)})
    assert (
        f"(from the file {tmp_path}/arqd_smpt__password) is not a setting: did you mean ARQD_SMTP__PASSWORD" in message
    )
    assert "hush" not in message
    (tmp_path / "arqd_smpt__password").rename(tmp_path / "arqd_smtp__password")
    (tmp_path / "arqd_smtp__password").write_bytes(b"\xff\xfe")
    assert "arqd_smtp__password is not UTF-8 text" in refused({"ARQD_SECRETS_DIR": str(tmp_path)})


def test_secrets_are_in_no_message_and_no_representation() -> None:
    secret = secrets.token_hex(8)
    environ = {"ARQD_SMTP__USERNAME": "u", "ARQD_SMTP__PASSWORD": secret, "REDIS_PASSWORD": secret}
    settings = load_settings({**environ, "ARQD_REDIS_URL": f"redis://:{secret}@h/0"})
    assert secret not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    for wrong in (
        {"ARQD_PROBE__PORT": secret},
        {"ARQD_SMTP": secret},
        {"ARQD_SMTP__PORT": secret},
        {"REDIS_DB": secret},
    ):
        assert secret not in refused({**environ, **wrong})


GMAIL = {"smtp.host": "smtp.gmail.com", "smtp.port": 587, "smtp.tls": "starttls"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"REDIS_URL": "redis://h:1"}, {"redis_url": "redis://h:1"}),
        ({"REDIS_URL": "redis://h:1", "REDIS_PASSWORD": "p@"}, {"redis_url": "redis://:p%40@h:1"}),
        ({"REDIS_URL": "redis://:own@h:1", "REDIS_PASSWORD": "p"}, {"redis_url": "redis://:own@h:1"}),
        ({"REDIS_HOST": "h"}, {"redis_url": "redis://h:6379/0"}),
        (
            {"REDIS_HOST": "h", "REDIS_PORT": "1", "REDIS_PASSWORD": "a/b@c", "REDIS_DB": "2"},
            {"redis_url": "redis://:a%2Fb%40c@h:1/2"},
        ),
        ({"REDIS_HOST": "::1", "REDIS_PASSWORD": ""}, {"redis_url": "redis://[::1]:6379/0"}),
        ({"REDIS_PORT": "tcp://10.0.0.1:6379"}, {"redis_url": None}),
        ({"REDIS_HOST": "h", "REDIS_PORT": "tcp://10.0.0.1:6379"}, {"redis_url": "redis://h:6379/0"}),
        ({"REDIS_URL": "redis://h", "ARQD_REDIS_URL": "redis://mine"}, {"redis_url": "redis://mine"}),
        (
            {"EMAIL_SERVICE": "Gmail", "EMAIL_USER": "u@gmail.com", "EMAIL_PASSWORD": "p", "EMAIL_FROM": "f@x.org"},
            {**GMAIL, "smtp.username": "u@gmail.com", "smtp.password": "p", "email.sender": "f@x.org"},
        ),
        ({"EMAIL_SERVICE": "mail.example.com"}, {"smtp.host": "mail.example.com", "smtp.username": None}),
        ({"EMAIL_USER": "u", "EMAIL_PASSWORD": "p"}, {"smtp.host": None, "smtp.username": None}),
        (
            {"SENDGRID_API_KEY": "key"},
            {"smtp.host": "smtp.sendgrid.net", "smtp.username": "apikey", "smtp.password": "key"},
        ),
        (
            {"EMAIL_SERVICE": "sendgrid", "SENDGRID_API_KEY": "key"},
            {"smtp.host": "smtp.sendgrid.net", "smtp.username": "apikey", "smtp.password": "key"},
        ),
        # Another host must not be given this password.
        (
            {"ARQD_SMTP__HOST": "mine", "EMAIL_SERVICE": "gmail", "EMAIL_USER": "u", "EMAIL_PASSWORD": "p"},
            {"smtp.host": "mine", "smtp.username": None, "smtp.password": None},
        ),
        ({"QUEUE_CONCURRENCY": "7"}, {"family.email.max_jobs": 7}),
        ({"BULLMQ_CONCURRENCY_EMAIL": "8", "QUEUE_CONCURRENCY": "7"}, {"family.email.max_jobs": 8}),
        ({"BULLMQ_CONCURRENCY_EMAIL": "8", "ARQD_FAMILY__EMAIL__MAX_JOBS": "9"}, {"family.email.max_jobs": 9}),
        ({"BULLMQ_CONCURRENCY_EMAIL": "8", "ARQD_FAMILY": '{"email": {"max_jobs": 9}}'}, {"family.email.max_jobs": 9}),
        ({"ETH_MAINNET_RPC": "http://127.0.0.1:1"}, {"rpc.mainnet": "http://127.0.0.1:1"}),
        ({"BULLMQ_MAX_ATTEMPTS": "3"}, {"family.email.max_tries": 3}),
        ({"BULLMQ_BACKOFF_DELAY": "2500"}, {"family.email.backoff": Backoff(2.5, True, 3600)}),
        ({"QUEUE_REMOVE_ON_COMPLETE": "10"}, {"family.email.keep_completed": 10}),
        ({"QUEUE_REMOVE_ON_FAIL": "50"}, {"family.email.keep_failed_count": 50}),
    ],
)
def test_names_of_other_systems_stand_in(environ: dict[str, str], expected: dict[str, Any]) -> None:
    settings = load_settings(environ)
    assert {path: value(settings, path) for path in expected} == expected


def test_every_fallback_sets_a_setting_there_is() -> None:
    known = {name for row in settings_table().splitlines()[2:] for name in re.findall(r"`(ARQD_[^`]+)`", row)[:1]}
    for row in FALLBACKS:
        for name in row.sets:
            plain = re.sub(r"(?<=_RPC)__\w+", "", name)
            assert re.sub(r"FAMILY__(\*|EMAIL|MEDIA)__", "FAMILY__<FAMILY>__", plain) in known


def test_a_package_of_ones_own_brings_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shop_jobs"
    package.mkdir()
    (package / "__init__.py").write_text('SETTINGS = {"shop": "shop_jobs.settings:ShopSettings"}')
    (package / "settings.py").write_text(
        "from pydantic import BaseModel\n\n"
        "class ShopSettings(BaseModel):\n    name: str = 'shop'\n    tags: list[str] = []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = {"ARQD_FAMILIES": json.dumps({"shop": "shop_jobs.worker:WorkerSettings"})}
    settings = load_settings({**own, "ARQD_SHOP__NAME": "corner", "ARQD_SHOP__TAGS": '["a", "b"]'})
    assert (value(settings, "shop.name"), value(settings, "shop.tags")) == ("corner", ["a", "b"])
    assert refused({**own, "ARQD_SHOP__NAMES": "x"}).endswith("did you mean ARQD_SHOP__NAME?")
    assert refused({**own, "ARQD_SHOP__TAGS": "a,b"}) == "ARQD_SHOP__TAGS: Input should be a valid list"
    assert isinstance(value(load_settings(own), "shop"), BaseModel)


def test_a_section_is_loaded_when_something_is_set_or_it_is_asked_for() -> None:
    settings = load_settings({"ARQD_EMAIL__SENDER": "a@example.org"})
    assert "email" not in settings.unset
    assert value(settings, "smtp.host") is None
    assert settings.section("smtp") is settings.section("smtp")
    assert value(load_settings({"ARQD_SMTP": '{"host": "mail"}'}), "smtp.host") == "mail"
    with pytest.raises(AttributeError, match="snmp"):
        settings.section("snmp")


def test_a_setting_without_default_is_asked_for_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tea_jobs"
    package.mkdir()
    (package / "__init__.py").write_text('SETTINGS = {"tea": "tea_jobs.settings:TeaSettings"}')
    (package / "settings.py").write_text(
        "from pydantic import BaseModel\n\nclass TeaSettings(BaseModel):\n    shop: str\n    cups: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = {"ARQD_FAMILIES": json.dumps({"tea": "tea_jobs.worker:WorkerSettings"})}
    with pytest.raises(ConfigurationError, match=r"^ARQD_TEA__SHOP: Field required \(and 1 more\)$"):
        load_settings(own).section("tea")
    assert refused({**own, "ARQD_TEA__CUPS": "2"}) == "ARQD_TEA__SHOP: Field required"


def test_every_setting_has_a_meaning() -> None:
    assert [row for row in settings_table().splitlines()[2:] if row.endswith("|  |")] == []


@pytest.mark.parametrize("page", ["docs/settings.md", "README.md"])
def test_the_tables_in_the_documentation_are_up_to_date(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert "<!-- settings:begin -->" in text
    assert text == with_tables(text), "run: python -m daemon.settings --write"


def test_tables_are_replaced_between_their_marks() -> None:
    text = "a\n<!-- settings:begin -->\nOLD TABLE\n<!-- settings:end -->\n"
    text += "b\n<!-- fallbacks:begin -->\n<!-- fallbacks:end -->\n"
    written = with_tables(text)
    assert settings_table() in written
    assert fallback_table() in written
    assert "OLD TABLE" not in written
    assert with_tables(written) == written


def test_keys_come_from_a_variable_or_a_file_and_are_not_quoted(tmp_path: Path) -> None:
    key = generate_key("2026a")
    assert not load_settings({}).keyring()
    assert load_settings({"ARQD_ENCRYPTION_KEYS": key}).keyring().ids == ("2026a",)
    (tmp_path / "arqd_encryption_keys").write_text(f"{key}\n{generate_key('2025b')}\n")
    for variable in ("ARQD_SECRETS_DIR", "CREDENTIALS_DIRECTORY"):
        settings = load_settings({variable: str(tmp_path)})
        assert settings.keyring().ids == ("2026a", "2025b")
        assert key[6:] not in repr(settings)
    wrong = load_settings({"ARQD_ENCRYPTION_KEYS": key[6:]})
    with pytest.raises(ConfigurationError, match="ARQD_ENCRYPTION_KEYS: key 1 is not") as caught:
        wrong.keyring()
    assert key[6:] not in str(caught.value)
