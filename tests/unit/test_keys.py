"""Key names and ids: one hash tag per family, and ids as people write them."""

from __future__ import annotations

import pytest

from daemon.keys import SCRIPT_KEYS, FamilyKeys, parse_id, spoken_id


def test_every_key_of_a_family_carries_its_hash_tag() -> None:
    keys = FamilyKeys.of("email")
    assert keys.queue == "arq:{email}"
    assert keys.key("held", "abc") == "{email}:held:abc"
    named = keys.cluster_scripts
    assert len(named) == len({*named}) == len(SCRIPT_KEYS) + 2
    assert all("{email}" in key for key in named)


def test_a_job_id_is_tagged_once() -> None:
    keys = FamilyKeys.of("email")
    assert keys.job_id("abc") == "{email}:abc"
    assert keys.job_id("{email}:abc") == "{email}:abc"


def test_a_stock_queue_keeps_its_name() -> None:
    keys = FamilyKeys.of_queue("arq:queue")
    assert (keys.queue, keys.tag, keys.prefix) == ("arq:queue", "{arq:queue}", "{arq:queue}:")


def test_a_stock_producers_name_of_a_familys_queue_is_that_family() -> None:
    assert FamilyKeys.of_queue("arq:{email}") == FamilyKeys.of("email")


@pytest.mark.parametrize("name", ["abc", "with:colon", "}:odd", "é"])
def test_a_spoken_id_finds_its_way_back(name: str) -> None:
    in_redis = FamilyKeys.of("email").job_id(name)
    family, ids = parse_id(spoken_id(in_redis))
    assert family == "email"
    assert ids[0] == in_redis


def test_a_written_id_may_mean_a_bare_one() -> None:
    assert parse_id("{email}:abc") == ("email", ["{email}:abc"])
    assert parse_id("email:abc")[1][:2] == ["{email}:abc", "email:abc"]
    assert parse_id("0123abcd") == (None, ["0123abcd"])
    assert spoken_id("0123abcd") == "0123abcd"
