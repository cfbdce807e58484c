"""Templates: all that ship, overriding, fallbacks, and what the sandbox stops."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest

from daemon.errors import ConfigurationError, PermanentError
from handlers.email.rendering import Templates

NAMES = [
    "alert",
    "campaign",
    "notification",
    "password_reset",
    "payment_confirmation",
    "report_ready",
    "security_alert",
    "welcome",
]
REQUIRED = {
    "subject": "Subject",
    "message": "A <message>",
    "event": "New sign-in",
    "amount": "10.00",
    "reset_link": "https://example.com/reset",
    "report_url": "https://example.com/report",
}
OPTIONAL = {
    "name": "Ada",
    "title": "Title",
    "currency": "EUR",
    "action_url": "https://example.com/action",
    "action_text": "Do it",
    "activation_link": "https://example.com/activate",
    "receipt_url": "https://example.com/receipt",
    "unsubscribe_url": "https://example.com/unsubscribe",
    "expires_in": "1 h",
    "report_name": "Sales",
    "period": "May",
    "severity": "high",
    "value": 0,
}


def test_the_shipped_ones() -> None:
    assert Templates().names() == NAMES


@pytest.mark.parametrize("lang", ["en", "fr"])
@pytest.mark.parametrize("name", NAMES)
def test_each_renders_in_each_language(name: str, lang: str) -> None:
    templates = Templates()
    for context in (REQUIRED, REQUIRED | OPTIONAL, REQUIRED | dict.fromkeys(OPTIONAL)):
        parts = templates.render(name, lang, context)
        assert parts.html is not None
        assert parts.text is not None
        assert f'<html lang="{lang}">' in parts.html
        assert "style=" in parts.html
        for left in ("{{", "{%", "None"):
            assert left not in parts.html + parts.text
    if name != "alert":
        assert ("Bonjour" in parts.text) is (lang == "fr")


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_shows_in_both_parts(name: str) -> None:
    parts = Templates().render(name, "en", REQUIRED | OPTIONAL)
    for variable, value in (REQUIRED | OPTIONAL).items():
        if variable in ("subject", "message", "title", "action_text", "value"):
            continue
        assert (str(value) in (parts.html or "")) is (str(value) in (parts.text or "")), variable


def test_html_is_escaped_and_text_is_not() -> None:
    parts = Templates().render("notification", "en", REQUIRED)
    assert "A &lt;message&gt;" in (parts.html or "")
    assert "A <message>" in (parts.text or "")


def test_camel_case_names_reach_the_shipped_templates() -> None:
    parts = Templates().render("welcome", "en", {"subject": "s", "activationLink": "https://example.com/1"})
    assert "https://example.com/1" in (parts.text or "")


@pytest.mark.parametrize(("lang", "greeting"), [("fr-CA", "Bonjour"), ("FR_ca", "Bonjour"), ("de", "Hello")])
def test_language_falls_back(lang: str, greeting: str) -> None:
    assert greeting in (Templates().render("welcome", lang, REQUIRED).text or "")


def test_missing_variable_is_named() -> None:
    with pytest.raises(PermanentError, match="'reset_link' is undefined"):
        Templates().render("password_reset", "en", {"subject": "s"})


@pytest.mark.parametrize("name", ["unknown", "_layout"])
def test_missing_template_lists_what_there_is(name: str) -> None:
    with pytest.raises(PermanentError, match=r"there are alert, campaign, .*welcome"):
        Templates().render(name, "en", {})


def test_operators_folder_comes_first_and_wins_whole(tmp_path: Path) -> None:
    (tmp_path / "welcome.txt").write_text("Servus {{ name }}")
    (tmp_path / "offer.html").write_text("{% include '_part.html' %}")
    (tmp_path / "_part.html").write_text("<p>{{ name }}</p>")
    templates = Templates([tmp_path])
    for lang in ("en", "fr"):
        parts = templates.render("welcome", lang, {"name": "<Ada>"})
        assert parts.text == "Servus <Ada>\n"
        assert parts.html is None, "no part of the shipped template is mixed in"
    offer = templates.render("offer", "en", {"name": "<Ada>"})
    assert "&lt;Ada&gt;" in (offer.html or "")
    assert offer.text is None
    assert templates.render("alert", "fr", REQUIRED).html is not None
    assert "offer" in templates.names()


def test_operators_language_beside_the_shipped_base(tmp_path: Path) -> None:
    (tmp_path / "welcome.de.txt").write_text("Willkommen")
    templates = Templates([tmp_path])
    assert templates.render("welcome", "de-AT", {}).text == "Willkommen\n"
    assert "Welcome" in (templates.render("welcome", "en", REQUIRED).text or "")


def test_layout_can_be_replaced_alone(tmp_path: Path) -> None:
    (tmp_path / "_layout.html").write_text("<b>ours</b>{% block content %}{% endblock %}")
    assert "<b>ours</b>" in (Templates([tmp_path]).render("welcome", "en", REQUIRED).html or "")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * [1] }}",
        "{{ 9 ** 99999999 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ items.append(1) }}",
        "{% for x in range(10**12) %}{% endfor %}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{% include '../../settings.py' %}",
    ],
)
def test_stopped_by_the_sandbox(source: str, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text(source)
    with pytest.raises(PermanentError, match=r"template bad\.txt"):
        Templates([tmp_path]).render("bad", "en", {"items": []})


@pytest.mark.parametrize(
    "source",
    [
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "<style>p { top: 0 }</style><p style='@x {}'>Hi</p>",
    ],
)
def test_what_cannot_be_made_is_not_tried_again(source: str, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(source)
    with pytest.raises(PermanentError, match=r"template bad\.html fails"):
        Templates([tmp_path]).render("bad", "en", REQUIRED)


def test_ordinary_sums_are_not_stopped(tmp_path: Path) -> None:
    (tmp_path / "sum.txt").write_text("{{ 3 * 14 }} {{ 2**10 }} {{ '-' * 5 }} {{ 1.5 * price }}")
    assert Templates([tmp_path]).render("sum", "en", {"price": 2}).text == "42 1024 ----- 3.0\n"


def test_styles_are_never_fetched(tmp_path: Path) -> None:
    secret = tmp_path / "secret.css"
    secret.write_text("p { color: red }")
    (tmp_path / "linked.html").write_text(f'<link rel="stylesheet" href="file://{secret}"><p>text</p>')
    assert "red" not in (Templates([tmp_path]).render("linked", "en", {}).html or "")


HOSTILE = [
    "javascript:alert(1)",
    " JavaScript:alert(1)",
    "java\nscript:alert(1)",
    "\x01javascript:alert(1)",
    "vbscript:x",
    "data:text/html,<script>alert(1)</script>",
    "file://host/share",
    "ftp://example.com",
]


@pytest.mark.parametrize("link", HOSTILE)
@pytest.mark.parametrize(
    ("template", "variable"),
    [
        *((name, "action_url") for name in ("alert", "campaign", "notification", "security_alert")),
        ("campaign", "unsubscribe_url"),
        ("welcome", "activation_link"),
        ("payment_confirmation", "receipt_url"),
        ("password_reset", "reset_link"),
    ],
)
def test_links_lead_to_the_web_or_a_mail_address(template: str, variable: str, link: str) -> None:
    for lang in ("en", "fr"):
        with pytest.raises(PermanentError, match=f"^context.{variable}: a link begins with http://, https:// or"):
            Templates().render(template, lang, REQUIRED | {variable: link})


@pytest.mark.parametrize("link", HOSTILE)
def test_a_report_in_a_folder_is_told_without_a_link(link: str) -> None:
    html = Templates().render("report_ready", "en", REQUIRED | {"report_url": link}).html or ""
    assert "href" not in html
    assert link.strip()[-5:] in unescape(html)


@pytest.mark.parametrize("link", ["https://a.example/?x=javascript:1#data:", "HTTP://a.example", "mailto:a@b.example"])
def test_good_links_are_left_as_they_are(link: str) -> None:
    assert f'href="{link}"' in (Templates().render("notification", "en", REQUIRED | {"action_url": link}).html or "")


@pytest.mark.parametrize(
    ("source", "context", "told"),
    [
        ("<img src='{{ shop.logo }}'>", {"shop": {"logo": "data:image/svg+xml,<svg onload=x>"}}, "context.shop.logo:"),
        ("{% for i in items %}<a href={{ i.url | upper }}>x</a>{% endfor %}", "items", "context.items.1.url:"),
        ("<!--[if mso]><a href='{{ u }}'>x</a><![endif]-->", {"u": "javascript:x"}, "context.u:"),
        ("<a href='{{ u | truncate(30) }}'>x</a>", {"u": "file:" + "x" * 50}, "context.u:"),
        (
            "<a href='{{ a }}{{ b }}'>x</a>",
            {"a": "javascr", "b": "ipt:x"},
            "template own.html: a link begins with java",
        ),
    ],
)
def test_links_of_ones_own_templates(source: str, context: object, told: str, tmp_path: Path) -> None:
    if context == "items":
        context = {"items": [{"url": "https://a.example"}, {"url": "JAVASCRIPT:x"}]}
    (tmp_path / "own.html").write_text(source)
    assert isinstance(context, dict)
    with pytest.raises(PermanentError, match=told):
        Templates([tmp_path]).render("own", "en", context)


def test_what_a_template_says_itself_is_its_authors(tmp_path: Path) -> None:
    source = '<a href="tel:+331">Call</a><img src="cid:logo"><img src="data:image/png;base64,AA=="><p>{{ message }}</p>'
    (tmp_path / "own.html").write_text(source)
    context = {"message": "Data: 42 rows. tel: none", "note": "data:image/gif;base64,AA=="}
    html = Templates([tmp_path]).render("own", "en", context).html or ""
    assert all(each in html for each in ("tel:+331", "cid:logo", "data:image/png"))


def test_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TEMPLATE_DIRS"):
        Templates([tmp_path / "none"])
