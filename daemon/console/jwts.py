"""JWTs of an identity provider: HS256 with a secret of 32 bytes or more, RS256 and EdDSA with keys of a JWKS file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt

from daemon.console.roles import Role
from daemon.console.settings import ConsoleSettings
from daemon.errors import ConfigurationError
from daemon.job import from_ms

#: A clock may be so far off, seconds.
LEEWAY = 30
_PUBLIC = ("RS256", "EdDSA")


@dataclass(frozen=True, slots=True)
class Verified:
    """Who a JWT is for, with which role, and when it ends."""

    name: str
    role: Role
    ends: datetime


class Verifier:
    """Checks JWTs; without a secret and a JWKS file it takes none.

    Raises:
        ConfigurationError: for a JWKS file that cannot be used.
    """

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings = settings
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        self._keys = {} if settings.jwks_file is None else _read_keys(settings.jwks_file)

    def check(self, text: str) -> Verified | None:
        """Give who it is for; None for anything but a JWT that is signed with a known key, in its time, with a role."""
        try:
            head = jwt.get_unverified_header(text)
            key = self._key(head)
            if key is None:
                return None
            claims = jwt.decode(
                text,
                key,
                # The algorithm belongs to the key: a public key is never taken for a secret.
                algorithms=[head["alg"]],
                issuer=self._settings.jwt_issuer,
                audience=self._settings.jwt_audience,
                leeway=LEEWAY,
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": self._settings.jwt_audience is not None,
                    "verify_iss": self._settings.jwt_issuer is not None,
                },
            )
        except (jwt.InvalidTokenError, ValueError, TypeError):
            return None
        role, name = _role(claims.get(self._settings.jwt_role_claim)), claims["sub"]
        if role is None or not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 256:
            return None
        # No calendar has the year of an end that was written in milliseconds.
        return Verified(name, role, from_ms(int(claims["exp"]) * 1000))

    def _key(self, head: dict[str, Any]) -> Any:
        algorithm = head.get("alg")
        if algorithm == "HS256":
            return self._secret
        for key in self._keys.get(str(algorithm), ()):
            if head.get("kid") in (None, key.key_id):
                return key.key
        return None


def _role(claim: Any) -> Role | None:
    """Give the highest role of a claim that holds one or several."""
    named: Iterable[Any] = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    held = [role for role in Role if role in named]
    return held[-1] if held else None


def _read_keys(path: Path) -> dict[str, list[jwt.PyJWK]]:
    """Give the keys of a JWKS file by algorithm; those for other algorithms are left out."""
    try:
        keys = [jwt.PyJWK.from_dict(key) for key in json.loads(path.read_text("utf-8"))["keys"]]
    except OSError as error:
        raise ConfigurationError(f"ARQD_CONSOLE__JWKS_FILE: {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise ConfigurationError(f"ARQD_CONSOLE__JWKS_FILE: {path} is no set of JSON Web Keys: {error}") from None
    found = {name: [key for key in keys if key.algorithm_name == name] for name in _PUBLIC}
    if not any(found.values()):
        raise ConfigurationError(f"ARQD_CONSOLE__JWKS_FILE: {path} has no key for {' or '.join(_PUBLIC)}")
    return found
