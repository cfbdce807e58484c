"""Encryption at rest: a ring of keys, and the cipher of one job made from it.

Everything is AES-256-GCM. Each job has a key of its own, made of the ring's key, the family and the job's id, so that
random nonces cannot meet however many jobs a key sees; family, id and the part of the job (``payload``, ``result`` …)
are also its associated data, so nothing can be moved to another place. What is stored is

    0x01 | length of the key's id | id | check value of the key (4 bytes) | nonce (12) | ciphertext | tag (16)

as bytes in a job's record (`daemon.codec`), and in JSON as ``{"$secret": "arqd1:<base64>"}``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from typing import Any, Self

from daemon import lazily
from daemon.errors import ConfigurationError, InvalidJob, KeyMissing, Unreadable

#: What stands for a value that is not shown.
MASK = "**********"
#: Under this name JSON holds what is encrypted.
SECRET, FORM = "$secret", "arqd1:"
#: What a text of JSON holds where something in it is encrypted.
SEALED_JSON = b'{"$secret":"arqd1:'
#: Where serialisers and validators find the job's cipher (`daemon.secret`).
CONTEXT = "arqd_cipher"

_VERSION, _NONCE, _CHECK = 1, 12, 4
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,32}\Z")


def _aes(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise ConfigurationError("encryption needs the package cryptography: pip install 'arqd[crypto]'") from None
    return AESGCM(key)


class KeyRing:
    """Keys by id: the first one encrypts, all of them decrypt.

    Args:
        keys: 32 bytes by id, in their order; an id is letters, digits and ``._-``.

    Raises:
        ConfigurationError: for a wrong id or key, or where the package cryptography is missing.
    """

    __slots__ = ("_first", "_keys", "ids")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self.ids = tuple(keys)
        #: By id and check value: another key under the same id is a key one does not have.
        self._keys: dict[bytes, bytes] = {}
        for key_id, key in keys.items():
            if not _KEY_ID.match(key_id) or len(key) != 32:
                raise ConfigurationError("a key is 32 bytes and has an id of 1 to 32 letters, digits, '.', '_' or '-'")
            check = hashlib.blake2b(key=key, digest_size=_CHECK, person=b"arqd check").digest()
            self._keys[key_id.encode() + check] = key
        self._first = next(iter(self._keys), b"")
        if keys:
            _aes(bytes(32))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``2026a:<base64>,2025b:<base64>``; in a file each may stand in a line of its own.

        Raises:
            ConfigurationError: telling which key is wrong, never what it holds.
        """
        keys: dict[str, bytes] = {}
        for number, entry in enumerate(re.split(r"[,\s]+", text.strip()), 1):
            key_id, colon, encoded = entry.partition(":")
            try:
                key = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
            except (binascii.Error, ValueError):
                key = b""
            if not colon or not _KEY_ID.match(key_id) or len(key) != 32:
                raise ConfigurationError(
                    f"key {number} is not id:base64 of 32 bytes: `arqd keys generate` makes one; keys are joined by ','"
                )
            if key_id in keys:
                raise ConfigurationError(f"the key id {key_id!r} stands twice")
            keys[key_id] = key
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing {', '.join(self.ids) or 'without keys'}>"

    def __reduce__(self) -> Any:
        raise TypeError("a key ring is not pickled: it would carry its keys")

    @property
    def first(self) -> str:
        """Name of the key that encrypts, as `key_name` gives it."""
        return _name(self._first)

    def names(self) -> list[str]:
        """Give the name of each key, id and check value, in their order."""
        return [_name(tag) for tag in self._keys]

    def digest(self, family: str, text: str) -> str:
        """Give the HMAC-SHA-256 of a text under the first key, 128 bits of it in hexadecimal digits.

        Raises:
            InvalidJob: when the ring has no key.
        """
        return hmac.digest(self._key(self.first_tag()), f"hmac\n{family}\n{text}".encode(), "sha256").hex()[:32]

    def first_tag(self) -> bytes:
        """Id and check value of the key that encrypts.

        Raises:
            InvalidJob: when the ring has no key.
        """
        if not self._first:
            raise InvalidJob("this must be encrypted and no key is set: give ARQD_ENCRYPTION_KEYS, or keyring=")
        return self._first

    def _key(self, tag: bytes) -> bytes:
        try:
            return self._keys[tag]
        except KeyError:
            raise KeyMissing(_name(tag)) from None

    def job_key(self, tag: bytes, who: bytes) -> Any:
        """Give the AES-GCM object of a job.

        Raises:
            KeyMissing: when the ring does not have that key.
        """
        return _aes(hashlib.blake2b(who, key=self._key(tag), digest_size=32, person=b"arqd job").digest())


#: The ring of a process without keys: encrypts nothing, and lacks every key.
NO_KEYS = KeyRing({})


def _name(tag: bytes) -> str:
    return f"{tag[:-_CHECK].decode('ascii', 'replace')} {tag[-_CHECK:].hex()}" if tag else ""


def generate_key(key_id: str) -> str:
    """Give a new random key as `KeyRing.parse` reads it.

    Raises:
        ConfigurationError: for an id that is none.
    """
    key = os.urandom(32)
    KeyRing({key_id: key})
    return f"{key_id}:{base64.b64encode(key).decode()}"


class JobCipher:
    """Encrypts and decrypts what belongs to one job.

    Args:
        ring: the keys.
        family: name of its family.
        job_id: its id in Redis.
        whole: whether its family is encrypted; else only marked fields are.
    """

    __slots__ = ("_aes", "_ring", "_who", "family", "job_id", "whole")

    def __init__(self, ring: KeyRing, family: str, job_id: str, whole: bool = False) -> None:
        self._ring = ring
        self.family = family
        self.job_id = job_id
        self.whole = whole
        self._who = b""
        self._aes: dict[bytes, Any] = {}

    def _of(self, tag: bytes) -> Any:
        found = self._aes.get(tag)
        if found is None:
            if not self._who:
                self._who = f"{self.family}\n{self.job_id}\n".encode("utf-8", "surrogateescape")
            found = self._aes[tag] = self._ring.job_key(tag, self._who)
        return found

    def check(self) -> None:
        """Make sure that there is a key to encrypt with.

        Raises:
            InvalidJob: when the ring has none.
        """
        self._ring.first_tag()

    def seal(self, part: str, data: bytes) -> bytes:
        """Encrypt a part of the job.

        Raises:
            InvalidJob: when the ring has no key.
        """
        tag = self._ring.first_tag()
        aes, nonce = self._of(tag), os.urandom(_NONCE)
        head = bytes((_VERSION, len(tag) - _CHECK))
        return b"".join((head, tag, nonce, aes.encrypt(nonce, data, self._who + part.encode())))

    def open(self, part: str, sealed: bytes) -> bytes:
        """Decrypt a part of the job.

        Raises:
            KeyMissing: when the ring does not have its key.
            Unreadable: when it was changed, or belongs to another job or part.
        """
        tag, rest = _taken_apart(sealed)
        try:
            data: bytes = self._of(tag).decrypt(rest[:_NONCE], rest[_NONCE:], self._who + part.encode())
        except (KeyMissing, ConfigurationError):
            raise
        except Exception:
            raise Unreadable("this cannot be decrypted: it was changed, or belongs to another job") from None
        return data

    def seal_json(self, part: str, data: bytes) -> bytes:
        """Give JSON encrypted, as JSON."""
        return SEALED_JSON + base64.b64encode(self.seal(part, data)) + b'"}'

    def open_json(self, part: str, data: bytes) -> bytes:
        """Give the JSON that `seal_json` was given; what is in clear stays as it is."""
        if not data.startswith(SEALED_JSON):
            return data
        return self.open(part, unpacked(lazily.from_json(data)))

    def digest(self, text: str) -> str:
        """Give what stands for a dedup key."""
        return "hmac:" + self._ring.digest(self.family, text)


def _taken_apart(sealed: bytes) -> tuple[bytes, bytes]:
    """Give the key's id and check value, and nonce and ciphertext."""
    end = 2 + (sealed[1] if len(sealed) > 1 else 0) + _CHECK
    if sealed[:1] != bytes((_VERSION,)) or len(sealed) < end + _NONCE + 16:
        raise Unreadable("this was not encrypted by arqd, or by a newer release")
    return sealed[2:end], sealed[end:]


def key_name(sealed: bytes) -> str:
    """Give the key something is encrypted with: its id, a blank, its check value.

    Raises:
        Unreadable: for anything else.
    """
    return _name(_taken_apart(sealed)[0])


def packed(sealed: bytes) -> dict[str, str]:
    """Give what is encrypted as JSON data."""
    return {SECRET: FORM + base64.b64encode(sealed).decode()}


def is_sealed(value: Any) -> bool:
    """Tell whether JSON data is something encrypted."""
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get(SECRET), str)
        and value[SECRET].startswith(FORM)
    )


def unpacked(value: dict[str, str]) -> bytes:
    """Give the bytes of what `is_sealed`.

    Raises:
        Unreadable: when they are damaged.
    """
    try:
        return base64.b64decode(value[SECRET][len(FORM) :], validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable("this cannot be decrypted: it was changed") from None


def shown(value: Any, part: str, cipher: JobCipher | None) -> Any:
    """Give JSON data to look at: what is encrypted in it as `MASK`, or decrypted where there is a cipher.

    Args:
        part: what the whole is; anything encrypted further inside is a marked field.

    Raises:
        KeyMissing, Unreadable: see `JobCipher.open`.
    """
    if is_sealed(value):
        return MASK if cipher is None else shown(lazily.from_json(cipher.open(part, unpacked(value))), "field", cipher)
    if isinstance(value, dict):
        return {name: shown(inner, "field", cipher) for name, inner in value.items()}
    return [shown(inner, "field", cipher) for inner in value] if isinstance(value, list) else value


def sealed_error(described: dict[str, Any], cipher: JobCipher) -> dict[str, Any]:
    """Encrypt message and traceback of an error; type and reason stay, since lists and states need them."""
    text = lazily.to_json([described["message"], described["traceback"]])
    return {**described, "message": packed(cipher.seal("error", text)), "traceback": ""}


def shown_error(described: Any, cipher: JobCipher | None) -> Any:
    """Give an error's description to look at; see `shown`."""
    if not isinstance(described, dict) or not is_sealed(described.get("message")):
        return described
    if cipher is None:
        return {**described, "message": MASK}
    message, trace = lazily.from_json(cipher.open("error", unpacked(described["message"])))
    return {**described, "message": message, "traceback": trace}
