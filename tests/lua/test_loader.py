"""Loading: every script is found, named by its hash, and loaded again wherever a server does not know it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import daemon.lua
from daemon.keys import SCRIPT_KEYS, FamilyKeys
from daemon.lua import ALONE, CONTINUED, FIRST, NAMES, SCRIPTS, SHARED
from daemon.lua.linked import linked, needed, nested, put_in, with_keys
from tests.lua.state import B, Engine


def test_every_script_file_is_loaded() -> None:
    files = {path.stem for path in Path(daemon.lua.__file__).parent.glob("*.lua")}
    assert files == {*NAMES, *SHARED, *ALONE, *CONTINUED.values(), *FIRST.values(), "postings"}


@pytest.mark.parametrize("name", [*NAMES, *ALONE])
def test_a_script_says_its_arguments_and_what_it_returns(name: str) -> None:
    own = (Path(daemon.lua.__file__).parent / f"{name}.lua").read_text()
    contract = "\n".join(line for line in own.splitlines() if line.startswith("--"))
    assert own.startswith("-- ")
    assert "ARGV" in contract
    assert "eturns" in contract


@pytest.mark.parametrize("name", [*NAMES, *ALONE])
async def test_the_server_names_a_script_by_the_same_hash(engine: Engine, name: str) -> None:
    assert (await engine.redis.script_load(SCRIPTS[name].text)) in (SCRIPTS[name].sha, SCRIPTS[name].sha.encode())
    assert not SCRIPTS[name].text.startswith("#!"), "a full server refuses a script with a shebang before it starts"


def source(name: str) -> str:
    return (Path(daemon.lua.__file__).parent / f"{name}.lua").read_text()


def test_the_prelude_names_the_keys_in_the_order_they_are_sent() -> None:
    lines = re.findall(r"^local ([\w, ]+) = (KEYS.*)$", source("prelude"), re.MULTILINE)
    names = [name for line, _ in lines for name in line.split(", ")]
    assert ", ".join(keys for _, keys in lines) == ", ".join(f"KEYS[{n}]" for n in range(1, len(names) + 1))
    assert names == [*SCRIPT_KEYS, "abort_set"]
    keys = FamilyKeys.of("email").cluster_scripts
    assert keys[0] == "arq:{email}"
    assert keys[1:] == tuple(f"{{email}}:{name}" for name in (*SCRIPT_KEYS[1:], "abort", "never"))


def test_a_script_makes_the_keys_it_uses_unless_it_is_given_all() -> None:
    made = with_keys("return { KEYS[1], KEYS[3], KEYS[28] }")
    names = ["KEYS[1]", "0", "ARGV[1] .. 'suspects'", *["0"] * 24, "'arq:abort'"]
    assert made == f"local KEYS = KEYS[2] and KEYS or {{ {', '.join(names)} }}\nreturn {{ KEYS[1], KEYS[3], KEYS[28] }}"
    assert with_keys("return KEYS[1]") == "return KEYS[1]"


def test_names_of_keys_and_numbers_are_put_in() -> None:
    text = """\
local queue, mark = KEYS[1], KEYS[2]
local READY, HELD_TEXT, first = -12, '7', 1
local LOW, HIGH = -12, '7'
-- what queue is
local last = 0
redis.call('DEL', mark, "queue", x.queue)
return { queue = queue, [LOW] = HIGH == mark }
"""
    expected = """
local READY, HELD_TEXT, first = -12, '7', 1

-- what queue is
local last = 0
redis.call('DEL', KEYS[2], "queue", x.queue)
return { queue = KEYS[1], [(-12)] = '7' == KEYS[2] }
"""
    assert put_in(text) == expected


def test_a_script_gets_the_functions_it_needs() -> None:
    shared = """\
local state = 0
local function short(x) return x end
-- why
local function middle(x)
  return short(x)
end
local told

do
  local kept = 1
  function told()
    return kept
  end
end
local function other() -- middle
  return told('middle')
end
"""
    without = needed(shared, "return middle(1)")
    assert "function short" in without
    assert "function middle" in without
    assert "told()" not in without
    assert "other" not in without
    assert "middle" not in needed(shared, "return other()").replace("-- middle", "").replace("'middle'", "")
    assert "function told()" in needed(shared, "return other()")
    assert needed(shared, "return other(), middle()") == shared


def test_what_stands_behind_the_prelude_is_a_function_of_its_own() -> None:
    text = "local now = 1\n-- End of the prelude.\nlocal function later() return now + 1 end\nreturn later()"
    expected = "local now = 1\nreturn (function()\nlocal function later() return now + 1 end\nreturn later()\nend)()\n"
    assert nested(text) == expected
    assert SCRIPTS["tick"].text.count("return (function()\n") == 1


@pytest.mark.parametrize("name", [*NAMES, *SHARED, *CONTINUED.values(), *FIRST.values(), "postings"])
def test_no_script_gives_a_name_that_is_put_in_another_meaning(name: str) -> None:
    fixed = {*SCRIPT_KEYS, "abort_set", *re.findall(r"^local ([A-Z_]+) = ", source("lanes"), re.MULTILINE)}
    made = re.findall(r"(?:local|for|function [\w.]*\() *([\w, ]+)", source(name))
    assert fixed.isdisjoint({part for names in made for part in names.split(", ")}) or name == "prelude"


async def test_scripts_lost_by_the_server_are_loaded_again(engine: Engine) -> None:
    assert await engine.enqueue("a") == [True]
    await engine.redis.script_flush()
    assert await engine.enqueue("b") == [True]
    await engine.redis.script_flush()
    assert [mine.name for mine in await engine.claim(wanted=2)] == ["a", "b"]
    await engine.redis.script_flush()
    assert await engine.sync(B) == []
    assert await engine.renew(B)
    await engine.redis.script_flush()
    assert await engine.abort("a") == "asked"
    assert await engine.remove("x") == ["not_found"]
    assert await engine.redrive("x") == ["not_found"]


async def test_many_jobs_are_enqueued_on_a_server_that_knows_no_script(engine: Engine) -> None:
    await engine.redis.script_flush()
    assert all(await engine.enqueue(*(f"j{i}" for i in range(1500))))
    assert await engine.redis.zcard(engine.keys.queue) == 1500


async def test_families_do_not_meet(engine: Engine) -> None:
    other = Engine(engine.redis, family="sms")
    await other.sync()
    await engine.enqueue("a")
    assert await other.claim() == []
    assert not await other.marked()
    assert [mine.name for mine in await engine.claim()] == ["a"]


def test_what_a_script_seldom_uses_is_made_when_it_says_so() -> None:
    shared = """\
local seldom, deep
local function often() return 1 end
local function alone() return often() end
do
  function seldom() return alone() + deep end
end
-- End of the prelude.
"""
    script = """\
-- Made by made(): seldom
if ARGV[1] then
  made()
  return seldom()
end
return often()
"""
    text = linked(shared, script)
    usual, _, rest = text.partition("local function made()\n")
    assert "function often" in usual
    assert "function alone" not in usual
    assert "function seldom" not in usual
    assert rest.startswith("local function alone() return often() end\ndo\n  function seldom()")
    assert rest.index("-- Made by made()") > rest.index("end\nend\n")
    assert linked(shared, script.replace("-- Made by made(): seldom\n", "")).count("function seldom") == 1
