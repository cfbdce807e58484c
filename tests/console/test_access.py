"""Who gets in: tokens, JWTs, sessions, links, CSRF; and what every answer carries."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from daemon.console.jwts import Verifier
from daemon.console.roles import Role
from daemon.console.settings import ConsoleSettings
from daemon.errors import ConfigurationError, InvalidToken, TokenConflict, TokenNotFound
from tests.conftest import RedisServerFactory
from tests.console.support import API, console, served

WORKERS = f"{API}/workers"


async def test_nobody_is_let_in_without_a_token(redis_url: str) -> None:
    async with console(redis_url) as found:
        for client in (found.anyone, found.client("arqd_nobody.guess"), found.client("x.y.z"), found.client("")):
            refused = await client.get(WORKERS)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == 'Bearer realm="arqd"'
            assert refused.json()["status"] == 401
        assert (await found.anyone.get(f"{API}/queues/nope")).status_code == 401


async def test_a_token_is_shown_once_and_kept_hashed(redis_url: str) -> None:
    async with console(redis_url) as found:
        info, text = await found.services.tokens.add("ci", Role.VIEWER, expires=60, by="ada")
        assert (info.name, info.role, info.created_by) == ("ci", Role.VIEWER, "ada")
        assert (await found.client(text).get(WORKERS)).status_code == 200
        assert (await found.client(text + "x").get(WORKERS)).status_code == 401
        (kept,) = (await found.services.redis.hgetall("{arqd:console}:tokens")).values()
        assert text.partition(".")[2].encode() not in kept
        assert await found.services.tokens.list() == [info]

        with pytest.raises(TokenConflict, match="'ci' already"):
            await found.services.tokens.add("ci", Role.ADMIN)
        await found.services.tokens.revoke("ci")
        assert (await found.client(text).get(WORKERS)).status_code == 401
        with pytest.raises(TokenNotFound):
            await found.services.tokens.revoke("ci")


async def test_an_expired_token_is_none(redis_url: str) -> None:
    async with console(redis_url) as found:
        _, text = await found.services.tokens.add("ci", Role.VIEWER, expires=60)
        kept = json.loads(await found.services.redis.hget("{arqd:console}:tokens", "ci"))
        kept["expires"] = round(time.time() * 1000) - 1
        await found.services.redis.hset("{arqd:console}:tokens", "ci", json.dumps(kept))
        assert (await found.client(text).get(WORKERS)).status_code == 401
        (listed,) = await found.services.tokens.list()
        assert listed.expired


@pytest.mark.parametrize(
    ("name", "role", "expires", "told"),
    [("Ci", "viewer", None, "a-z"), ("ci", "root", None, "viewer, operator, admin"), ("ci", "viewer", 0.1, "a second")],
)
async def test_wrong_tokens_are_refused(redis_url: str, name: str, role: str, expires: float | None, told: str) -> None:
    async with console(redis_url) as found:
        with pytest.raises(InvalidToken, match=told):
            await found.services.tokens.add(name, role, expires=expires)
        assert await found.services.tokens.list() == []


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "ada", "role": "operator", "exp": int(time.time()) + 60, **more}


async def test_jwts_signed_with_the_secret(redis_url: str) -> None:
    secret = secrets.token_urlsafe(32)
    async with console(redis_url, jwt_secret=secret, jwt_issuer="https://id.example", jwt_audience="arqd") as found:
        good = {"iss": "https://id.example", "aud": "arqd"}

        async def status(payload: dict[str, Any], key: str = secret, algorithm: str = "HS256") -> int:
            text = jwt.encode(payload, key, algorithm)
            return (await found.client(text).get(WORKERS)).status_code

        assert await status(claims(**good)) == 200
        assert await status(claims(**good, role=["other", "viewer"])) == 200
        wrong: list[dict[str, Any]] = [
            claims(**{**good, "iss": "https://else.example"}),
            claims(**{**good, "aud": "other"}),
            claims(iss="https://id.example"),
            claims(**good, role="root"),
            claims(**good, exp=int(time.time()) - 120),
            claims(**good, sub=7),
            {name: value for name, value in claims(**good).items() if name != "exp"},
            {name: value for name, value in claims(**good).items() if name != "role"},
        ]
        for payload in wrong:
            assert await status(payload) == 401, payload
        assert await status(claims(**good), key=secrets.token_urlsafe(32)) == 401
        assert await status(claims(**good), algorithm="HS512") == 401
        assert await status(claims(**good), key="", algorithm="none") == 401


async def test_jwts_signed_with_keys_of_a_file(redis_url: str, tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ed_key, stranger = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    keys = [
        {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key.public_key())), "kid": "r", "alg": "RS256"},
        {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(ed_key.public_key())), "kid": "e"},
    ]
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": keys}))
    async with console(redis_url, jwks_file=path) as found:

        async def status(key: Any, algorithm: str, kid: str | None) -> int:
            text = jwt.encode(claims(), key, algorithm, headers={"kid": kid} if kid else None)
            return (await found.client(text).get(WORKERS)).status_code

        assert await status(rsa_key, "RS256", "r") == 200
        assert await status(ed_key, "EdDSA", "e") == 200
        assert await status(ed_key, "EdDSA", None) == 200
        assert await status(stranger, "EdDSA", "e") == 401
        assert await status(rsa_key, "RS512", "r") == 401
        # A public key as the secret of an HMAC, the oldest trick: without a secret there is no HS256 at all.
        assert await status(secrets.token_urlsafe(32), "HS256", "r") == 401


@pytest.mark.parametrize("text", ["", "[]", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AAAA"}]}'])
def test_a_wrong_key_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"ARQD_CONSOLE__JWKS_FILE: .*jwks.json"):
        Verifier(ConsoleSettings(jwks_file=path))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Verifier(ConsoleSettings(jwks_file=tmp_path / "none"))


async def test_a_link_logs_in_once(redis_url: str) -> None:
    async with console(redis_url, base_path="/admin/queues") as found:
        code = await found.services.sessions.make_link("ada", Role.ADMIN)
        browser = found.client()
        # As a program does that looks where the links of a message lead.
        looked = await found.client().head(f"/admin/queues/login/{code}")
        assert (looked.status_code, "set-cookie" in looked.headers) == (200, False)
        answer = await browser.get(f"/admin/queues/login/{code}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/queues/")
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=lax", "path=/admin/queues/", "max-age=43200"))
        assert (await browser.get(f"/admin/queues{WORKERS}")).status_code == 200
        assert (await found.client().get(f"/admin/queues/login/{code}")).status_code == 401


async def test_a_token_logs_in_until_it_is_revoked(redis_url: str) -> None:
    async with console(redis_url) as found:
        _, text = await found.services.tokens.add("ada", Role.OPERATOR)
        browser = found.client()
        assert (await browser.post("/login", data={"token": "arqd_ada.wrong"})).status_code == 401
        forged = await browser.post("/login", data={"token": text}, headers={"sec-fetch-site": "cross-site"})
        assert forged.status_code == 403
        answer = await browser.post("/login", data={"token": f" {text} ", "next": "/queues/t?state=failed"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/queues/t?state=failed")
        assert (await browser.get(WORKERS)).status_code == 200
        await found.services.tokens.revoke("ada")
        assert (await browser.get(WORKERS)).status_code == 401


async def test_a_new_token_of_an_old_name_lets_nobody_back_in(redis_url: str) -> None:
    async with console(redis_url) as found:
        _, leaked = await found.services.tokens.add("ops", Role.ADMIN)
        browser = found.client()
        assert (await browser.post("/login", data={"token": leaked})).status_code == 303
        await found.services.tokens.revoke("ops")
        await found.services.tokens.add("ops", Role.VIEWER)
        assert (await browser.get(WORKERS)).status_code == 401


async def test_a_jwt_may_end_when_no_calendar_has_a_date(redis_url: str) -> None:
    secret = secrets.token_urlsafe(32)
    async with console(redis_url, jwt_secret=secret) as found:
        # Milliseconds in the place of seconds.
        text = jwt.encode(claims(exp=round(time.time() * 1000)), secret, "HS256")
        assert (await found.client(text).get(WORKERS)).status_code == 200
        assert (await found.client().post("/login", data={"token": text})).status_code == 303


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "/a\r\nx: y", "\\"])
async def test_logging_in_leads_nowhere_else(redis_url: str, wanted: str) -> None:
    async with console(redis_url) as found:
        _, text = await found.services.tokens.add("ada", Role.VIEWER)
        answer = await found.client().post("/login", data={"token": text, "next": wanted})
        assert answer.headers["location"] == "/"


async def test_a_session_ends_with_logging_out(redis_url: str) -> None:
    async with console(redis_url) as found:
        browser, csrf = await found.browser()
        cookie = browser.cookies["arqd_session"]
        assert (await browser.post("/logout")).status_code == 403
        answer = await browser.post("/logout", data={"csrf": csrf})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        late = found.client(cookie=f"arqd_session={cookie}")
        assert (await late.get(WORKERS)).status_code == 401


async def test_every_answer_carries_the_security_headers(redis_url: str) -> None:
    async with console(redis_url) as found:
        viewer = await found.of("viewer")
        answers = [
            await viewer.get(WORKERS),
            await found.anyone.get(WORKERS),
            await found.anyone.get("/nowhere"),
            await viewer.post(WORKERS),
            await viewer.post(WORKERS, content=b"x" * 10_000_001),
        ]
        assert [answer.status_code for answer in answers] == [200, 401, 404, 405, 413]
        for answer in answers:
            policy = answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"


async def test_health_tells_strangers_the_status_alone(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    async with console(server.url) as found:
        viewer = await found.of("viewer")
        assert (await found.anyone.get(f"{API}/health")).json() == {"status": "ok"}
        told = (await viewer.get(f"{API}/health")).json()
        assert (told["status"], told["waiting"], told["details"]) == ("ok", 0, [])
        server.kill()
        # Within the two seconds for which the answer to strangers holds they may still be told the last one.
        found.app.state.bare_status._at = 0.0
        down = await found.anyone.get(f"{API}/health")
        assert (down.status_code, down.json()) == (503, {"status": "down"})
        refused = await viewer.get(WORKERS)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "127.0.0.1" not in refused.text


@pytest.mark.parametrize(("trusted", "address"), [("127.0.0.1", "203.0.113.9"), ("", "127.0.0.1")])
async def test_a_proxy_is_believed_where_it_is_named(redis_url: str, trusted: str, address: str) -> None:
    secure = bool(trusted)
    async with console(redis_url) as found, served(found, trusted_proxies=trusted) as client:
        forwarded = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
        link = await found.services.sessions.make_link("ada", Role.ADMIN)
        answer = await client.get(f"/login/{link}", headers=forwarded)
        assert ("secure" in answer.headers["set-cookie"].lower()) == secure
        assert ("strict-transport-security" in answer.headers) == secure
        _, token = await found.services.tokens.add("ci", Role.OPERATOR)
        headers = {**forwarded, "authorization": f"Bearer {token}"}
        assert (await client.post(f"{API}/queues/t/pause", headers=headers)).status_code == 200
        (entry,) = (await found.services.audit.page()).entries
        assert (entry.actor, entry.address) == ("ci", address)
