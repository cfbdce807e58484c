"""The key ring and a job's cipher: what opens what, and what never shows."""

from __future__ import annotations

import base64
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import codec
from daemon.encryption import MASK, NO_KEYS, JobCipher, KeyRing, generate_key, is_sealed, key_name, packed, shown
from daemon.errors import ConfigurationError, InvalidJob, KeyMissing, Unreadable
from daemon.records import header, record_tail

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = generate_key("2025b"), generate_key("2026a")


def cipher(keys: str = NEW, family: str = "pay", job_id: str = "{pay}:1") -> JobCipher:
    return JobCipher(KeyRing.parse(keys), family, job_id)


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    sealed = cipher(OLD).seal("payload", b"hello")
    assert key_name(sealed).startswith("2025b ")
    both = cipher(f"{NEW},{OLD}")
    assert both.open("payload", sealed) == b"hello"
    assert key_name(both.seal("payload", b"hello")).startswith("2026a ")
    assert cipher(f"\n{NEW}\n{OLD}\n").open("payload", sealed) == b"hello"


def test_a_missing_key_is_named_and_another_key_under_its_id_is_a_missing_one() -> None:
    sealed = cipher(OLD).seal("payload", b"hello")
    for keys in (NEW, generate_key("2025b")):
        with pytest.raises(KeyMissing, match=r"2025b [0-9a-f]{8}") as caught:
            cipher(keys).open("payload", sealed)
        assert caught.value.key == key_name(sealed)


@pytest.mark.parametrize(
    "other", [("mail", "{pay}:1", "payload"), ("pay", "{pay}:2", "payload"), ("pay", "{pay}:1", "result")]
)
def test_what_was_moved_does_not_open(other: tuple[str, str, str]) -> None:
    family, job_id, part = other
    with pytest.raises(Unreadable, match="belongs to another job"):
        cipher(NEW, family, job_id).open(part, cipher().seal("payload", b"hello"))


@pytest.mark.parametrize("at", [0, 1, 4, 8, 15, 30, -1])
def test_what_was_changed_does_not_open(at: int) -> None:
    sealed = bytearray(cipher().seal("payload", b"hello"))
    sealed[at] ^= 1
    with pytest.raises((Unreadable, KeyMissing)):
        cipher().open("payload", bytes(sealed))
    for cut in (b"", b"\x01", bytes(sealed[:20])):
        with pytest.raises(Unreadable):
            cipher().open("payload", cut)


def test_the_same_text_is_never_encrypted_to_the_same() -> None:
    one, two = cipher(), cipher()
    assert len({c.seal("payload", b"hello") for c in (one, one, two)}) == 3


def test_a_ring_shows_no_key() -> None:
    ring = KeyRing.parse(f"{NEW},{OLD}")
    assert repr(ring) == "<KeyRing 2026a, 2025b>"
    assert str(ring.names()[0]).startswith("2026a ")
    with pytest.raises(TypeError):
        pickle.dumps(ring)
    assert not hasattr(ring, "__dict__")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "key 1 is not"),
        ("2026a", "key 1 is not"),
        (f"{OLD},2026a:aGVsbG8=", "key 2 is not"),
        (f"a b:{NEW[6:]}", "key 1 is not"),
        (f"{NEW},{NEW}", "'2026a' stands twice"),
    ],
    # Keys are made anew for each run, and several processes must collect the same names.
    ids=["empty", "no key", "short key", "name with a blank", "twice"],
)
def test_a_wrong_ring_is_refused_without_being_quoted(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        KeyRing.parse(text)
    assert "aGVsbG8" not in str(caught.value)
    assert NEW[6:] not in str(caught.value)


def test_without_a_key_nothing_is_encrypted() -> None:
    assert not NO_KEYS
    with pytest.raises(InvalidJob, match="ARQD_ENCRYPTION_KEYS"):
        JobCipher(NO_KEYS, "pay", "{pay}:1").seal("payload", b"hello")


def test_a_dedup_key_is_hashed_with_the_first_key() -> None:
    digest = cipher().digest("order-17")
    assert digest == cipher(f"{NEW},{OLD}").digest("order-17")
    assert digest != cipher(f"{OLD},{NEW}").digest("order-17")
    assert "order" not in digest


def test_json_is_shown_masked_or_open() -> None:
    own = cipher()
    data = {"a": [packed(own.seal("field", b'"x"')), 1], "b": {"$secret": "mine"}}
    assert shown(data, "result", None) == {"a": [MASK, 1], "b": {"$secret": "mine"}}
    assert shown(data, "result", own) == {"a": ["x", 1], "b": {"$secret": "mine"}}


def test_an_encrypted_body_keeps_its_options_in_clear() -> None:
    own = cipher()
    body = codec.encode_body(b'[{"to":"ada"}]', {"n": 2, "g": ["vip"]}, own)
    assert b"ada" not in body
    assert body.endswith(b',"o":{"n":2,"g":["vip"]}')
    args, kwargs, options = codec.decode_body(body)
    assert (is_sealed(args), kwargs, options) == (True, {}, {"n": 2, "g": ["vip"]})
    assert codec.open_body(body, own) == b'[{"to":"ada"}],"o":{"n":2,"g":["vip"]}'
    with pytest.raises(Unreadable):
        codec.decode_body(body[:40])


def test_stock_arq_is_told_that_it_cannot_read_it() -> None:
    own = cipher()
    raw = header(5, 1) + record_tail("f", "", codec.encode_body(b"[1]", cipher=own))
    with pytest.raises(Unreadable, match="stock arq cannot read"):
        codec.loads(raw)
    ended = codec.Ended("{pay}:1", "f", "arq:{pay}", 1, 1, 1, 1)
    record = codec.encode_result(ended, True, own.seal_json("result", b"1"), codec.encode_body(b"[1]", cipher=own))
    assert base64.b64encode(own.seal("payload", b""))[:4] in record
    with pytest.raises(Unreadable, match="stock arq cannot read"):
        codec.loads(record)


def test_without_the_package_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "import daemon.producer\n"
        "from daemon.encryption import KeyRing\n"
        "from daemon.errors import ConfigurationError\n"
        "try: KeyRing({'a': bytes(32)})\n"
        "except ConfigurationError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "encryption needs the package cryptography: pip install 'arqd[crypto]'\n"
