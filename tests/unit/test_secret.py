"""Marked fields: the value in the handler, asterisks for everybody else, ciphertext on the way."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, RootModel, SecretBytes, SecretStr, ValidationError
from pydantic import Secret as PydanticSecret
from pydantic_core import to_json

from daemon import codec
from daemon.encryption import CONTEXT, MASK, JobCipher, KeyRing, generate_key
from daemon.errors import InvalidJob, KeyMissing
from daemon.payload import Payload, PayloadModel, schema_mark
from daemon.running.binding import Binder
from daemon.secret import Secret, SecretValue, model_has_secrets


class Address(PayloadModel):
    street: Secret[str]
    town: str = "Ulm"


class Charge(Payload, family="pay"):
    card: Secret[str] = Field(max_length=19)
    amount: int
    photo: Secret[bytes] | None = None
    pins: list[Secret[int]] = Field(default_factory=list)
    home: Address | None = None
    whole: Secret[Address] | None = None


CHARGE = Charge(card="4111-canary", amount=5, photo=b"\x00\xff", pins=[1, 2], home=Address(street="canary"))
RING = KeyRing.parse(generate_key("k"))
CIPHER = JobCipher(RING, "pay", "{pay}:1")


async def charge(ctx: Any, job: Charge) -> None: ...


def test_a_model_shows_asterisks() -> None:
    for text in (repr(CHARGE), str(CHARGE), f"{CHARGE!r}", CHARGE.model_dump_json(), to_json(CHARGE).decode()):
        assert "canary" not in text
    assert "amount=5" in repr(CHARGE)
    assert json.loads(CHARGE.model_dump_json())["card"] == MASK
    assert CHARGE.card == "4111-canary"
    assert CHARGE.model_dump()["photo"] == b"\x00\xff"


def test_it_travels_encrypted_and_comes_back_as_it_was() -> None:
    charged = CHARGE.model_copy(update={"whole": Address(street="canary", town="Bonn")})
    written = codec.encode_model(charged, CIPHER)
    assert b"canary" not in written
    assert b'"amount":5' in written
    assert b"Ulm" in written  # not marked
    assert b"Bonn" not in written
    (args, _, _) = Binder(charge).bind(codec.encode_body(b"[" + written + b"]"), cipher=CIPHER)
    assert args[0] == charged
    by_name = Binder(charge).bind(b'[],"k":' + written, cipher=CIPHER)
    assert by_name[0][0] == charged


def test_constraints_hold_for_the_decrypted_value_and_errors_quote_nothing() -> None:
    with pytest.raises(ValidationError) as caught:
        Charge(card="canary" * 5, amount=1)
    assert "canary" not in str(caught.value)
    sealed = codec.encode({"card": SecretValue("canary" * 5), "amount": 1}, cipher=CIPHER)
    with pytest.raises(ValidationError, match="at most 19") as caught:
        Binder(charge).bind(codec.encode_body(b"[" + sealed + b"]"), cipher=CIPHER)
    assert "canary" not in str(caught.value)


def test_without_the_key_the_worker_is_told_which_one() -> None:
    body = codec.encode_body(b"[" + codec.encode_model(CHARGE, CIPHER) + b"]")
    for other in (None, JobCipher(KeyRing.parse(generate_key("other")), "pay", "{pay}:1")):
        with pytest.raises(KeyMissing, match="the key k "):
            Binder(charge).bind(body, cipher=other)


def test_without_a_key_it_does_not_travel() -> None:
    with pytest.raises(InvalidJob, match="no key is set"):
        codec.encode_model(CHARGE, JobCipher(KeyRing({}), "pay", "{pay}:1"))
    for value in (CHARGE, [CHARGE], {"card": SecretValue("canary")}):
        with pytest.raises(InvalidJob, match="ARQD_ENCRYPTION_KEYS") as caught:
            codec.encode(value)
        assert "canary" not in str(caught.value)


def test_what_could_not_be_read_again_is_refused() -> None:
    with pytest.raises(InvalidJob, match=r"the secret has an integer of more than 4,300 digits, .* give it as text"):
        codec.encode_model(CHARGE.model_copy(update={"pins": [10**4300]}), CIPHER)
    with pytest.raises(InvalidJob, match="the secret is nested more than 190 levels deep"):
        codec.encode(SecretValue(json.loads("[" * 200 + "]" * 200)), "payload", CIPHER)


def test_a_mask_is_not_taken_for_the_value() -> None:
    with pytest.raises(ValidationError, match="the mask of a secret"):
        Charge.model_validate_json(CHARGE.model_dump_json())
    with pytest.raises(ValidationError, match="only a worker reads it"):
        Charge.model_validate_json(codec.encode_model(CHARGE, CIPHER))


def test_a_name_with_secret_values_is_encrypted_as_the_class_would() -> None:
    written = codec.encode({"card": SecretValue("4111"), "amount": 1}, cipher=CIPHER)
    assert b"4111" not in written
    assert Binder(charge).bind(codec.encode_body(b"[" + written + b"]"), cipher=CIPHER)[0][0] == Charge(
        card="4111", amount=1
    )
    assert "4111" not in repr(SecretValue("4111")) + str(SecretValue("4111"))


def test_the_schema_says_what_is_secret() -> None:
    card = Charge.model_json_schema()["properties"]["card"]
    assert (card["writeOnly"], card["format"], card["type"]) == (True, "password", "string")

    class Plain(Payload, family="pay", function="charge"):
        card: str

    class Marked(Payload, family="pay", function="charge"):
        card: Secret[str]

    assert schema_mark(Plain) != schema_mark(Marked)
    assert (model_has_secrets(Plain), model_has_secrets(Marked), model_has_secrets(Charge)) == (False, True, True)


def test_a_plain_model_with_a_secret_inside_is_not_shown_either() -> None:
    class Foreign(BaseModel):
        token: Secret[str]

    class Holder(PayloadModel):
        foreign: Foreign | None

    assert "canary" not in repr(Holder(foreign=Foreign(token="canary")))


@pytest.mark.parametrize("masked", [SecretStr, SecretBytes, PydanticSecret[int], list[SecretStr], SecretStr | None])
def test_pydantics_secret_types_are_refused_since_asterisks_would_travel(masked: Any) -> None:
    with pytest.raises(TypeError, match=r"write Secret\[str\]"):
        type("Bad", (PayloadModel,), {"__annotations__": {"token": masked}, "__module__": __name__})
    inner = RootModel[Annotated[masked, Field()]]
    with pytest.raises(TypeError, match=r"write Secret\[str\]"):
        type("Bad", (PayloadModel,), {"__annotations__": {"inner": inner}, "__module__": __name__})


def test_a_result_type_is_checked_as_well() -> None:
    with pytest.raises(TypeError, match="returns: of SecretStr"):

        class Bad(Payload, family="pay", returns=SecretStr):
            pass


def test_a_context_of_other_serialisers_is_left_alone() -> None:
    assert to_json(CHARGE, context={"other": 1}).count(MASK.encode()) == 5
    assert b'"$secret"' in to_json(CHARGE, context={CONTEXT: CIPHER})
