"""AWS Signature Version 4: a header for a request, or a URL that carries its own signature."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
#: Said in place of the digest of a body that is not known when a URL is signed.
UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs requests to S3 with a key pair."""

    access_key: str
    secret_key: str
    region: str
    session_token: str | None = None

    def headers(
        self,
        method: str,
        host: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: str,
        now: datetime,
    ) -> dict[str, str]:
        """Give headers with those that sign them.

        Args:
            path: percent-encoded.
            query: not encoded.
            headers: to be sent and signed.
            body: SHA-256 of the body, hexadecimal.
            now: in UTC.
        """
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
        signed |= {"host": host, "x-amz-content-sha256": body, "x-amz-date": stamp}
        if self.session_token:
            signed["x-amz-security-token"] = self.session_token
        names, signature = self._signature(method, path, query, signed, body, stamp)
        credential = f"{self.access_key}/{self._scope(stamp)}"
        signed["authorization"] = f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
        return signed

    def link(self, host: str, path: str, lifetime: int, now: datetime) -> str:
        """Give path and query of a GET that anybody may make.

        Args:
            path: percent-encoded.
            lifetime: seconds.
            now: in UTC.
        """
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        query = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{self._scope(stamp)}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(lifetime),
            "X-Amz-SignedHeaders": "host",
        }
        if self.session_token:
            query["X-Amz-Security-Token"] = self.session_token
        _, signature = self._signature("GET", path, query, {"host": host}, UNSIGNED, stamp)
        return f"{path}?{encoded(query)}&X-Amz-Signature={signature}"

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self.region}/s3/aws4_request"

    def _signature(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: str, stamp: str
    ) -> tuple[str, str]:
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join((method, path, encoded(query), lines, names, body))
        digest = hashlib.sha256(request.encode()).hexdigest()
        key = f"AWS4{self.secret_key}".encode()
        for part in (stamp[:8], self.region, "s3", "aws4_request"):
            key = _hmac(key, part)
        return names, _hmac(key, "\n".join((ALGORITHM, stamp, self._scope(stamp), digest))).hex()


def encoded(query: Mapping[str, str]) -> str:
    """Write a query in the order and the encoding that signatures ask for."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
