"""Puts a script and what it uses of the shared files into one text.

Lua 5.1 makes every function anew in every call of a script, and for each local that one uses it looks through all
locals that any does: with all functions, and with names for keys and numbers, that costs a short call more than what it
does. So a script gets the functions it needs, those it hardly ever needs when it says so, and keys and numbers stand
where their names are used.
"""

from __future__ import annotations

import re
from operator import itemgetter

from daemon.keys import ABORT, SCRIPT_KEYS

_DEFINED = re.compile(r"^local (?P<names>\w+(?:, \w+)*) = (?P<values>[^\n]*)\n", re.MULTILINE)
_KEY_USED = re.compile(r"\bKEYS\[(\d+)\]")
_KEY, _NUMBER = re.compile(r"KEYS\[\d+\]"), re.compile(r"-?\d+|'\d+'")
_QUIET = r"--[^\n]*|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
#: Strings and comments, in which nothing is replaced, and names; not those of fields.
_TOKEN = re.compile(_QUIET + r"|(?<![\w.])[A-Za-z_]\w*\b(?! =[^=])")
_COMMENT_OR_STRING, _NAME = re.compile(_QUIET), re.compile(r"(?<![\w.])[A-Za-z_]\w*")
#: A function, on one line or up to an "end" at a line's beginning; or a block of some that were declared before it.
_UNIT = re.compile(
    r"^local function (?P<short>\w+)[^\n]* end\n|^(?:local function (?P<long>\w+)|do$).*?^end\n",
    re.MULTILINE | re.DOTALL,
)
_EXPORTED = re.compile(r"^  function (\w+)", re.MULTILINE)
_DECLARED = re.compile(r"^local \w+(?:, \w+)*$", re.MULTILINE)
#: What a script hardly ever uses: a function of that name makes it, and whatever else it needs.
_SELDOM = re.compile(r"^-- Made by (?P<function>\w+)\(\): (?P<names>\w+(?:, \w+)*)$", re.MULTILINE)
#: Behind what runs first.
_END_OF_FIRST = "-- End of the first.\n"
#: The prelude ends with it.
_END_OF_PRELUDE = "-- End of the prelude.\n"


def linked(shared: str, script: str, first: str = "") -> str:
    """Give the text of a script with what it needs of the text of all shared files before it.

    Args:
        first: what is to run before any of these functions is made.
    """
    seldom = _SELDOM.search(script)
    usual = needed(shared, script, frozenset(seldom["names"].split(", ") if seldom else ()))
    if seldom:
        others = set(map(itemgetter(0), _UNIT.finditer(usual)))
        more = [unit[0] for unit in _UNIT.finditer(needed(shared, script)) if unit[0] not in others]
        usual += f"local function {seldom['function']}()\n{''.join(more)}end\n"
    quick, _, rest = put_in(f"{first}{_END_OF_FIRST}{usual}{script}").rpartition(_END_OF_FIRST)
    return (with_keys(quick, "QUICK_KEYS") if first else "") + with_keys(nested(rest))


def with_names(shared: str, script: str) -> str:
    """Give the text of a script that has nothing of the shared files but keys and numbers in the place of names."""
    return with_keys(put_in(f"{shared}{_END_OF_PRELUDE}{script}").rpartition(_END_OF_PRELUDE)[2])


def with_keys(text: str, table: str = "KEYS") -> str:
    """Make the keys a script uses from the prefix it is given, unless it is given all, as in a cluster it has to be.

    Sent with each call, they are packed, read, and made strings of Lua, most of them in vain: a fifteenth of what the
    server does for a short one.

    Args:
        table: name for the table of keys; where two parts of a script make theirs, the first has another.
    """
    used = {int(number) for number in _KEY_USED.findall(text)}
    if used <= {1}:
        return text
    names = ["KEYS[1]", *(f"ARGV[1] .. '{name}'" for name in SCRIPT_KEYS[1:]), f"'{ABORT}'"]
    made = ", ".join(name if number in used else "0" for number, name in enumerate(names[: max(used)], 1))
    text = _KEY_USED.sub(lambda used: f"{table}[{used[1]}]", text)
    return f"local {table} = KEYS[2] and KEYS or {{ {made} }}\n{text}"


def nested(text: str) -> str:
    """Make all that stands behind the prelude a function of its own.

    For what a function uses of the function around it Lua looks through all that was used of that one before; what
    comes from further out it has at hand. And nearly everything uses the prelude.
    """
    prelude, _, rest = text.partition(_END_OF_PRELUDE)
    return f"{prelude}return (function()\n{rest}\nend)()\n"


def needed(shared: str, script: str, seldom: frozenset[str] = frozenset()) -> str:
    """Give the shared files without the functions that neither the script nor what is left of them uses.

    Args:
        seldom: functions that the script makes itself when it comes to use them.
    """
    units = list(_UNIT.finditer(shared))
    found = _names(_DECLARED.sub("", _UNIT.sub("", shared))) | _names(script) - seldom
    left = units
    while True:
        wanted = [unit for unit in left if not found.isdisjoint(_defines(unit))]
        if not wanted:
            break
        left = [unit for unit in left if unit not in wanted]
        for unit in wanted:
            found |= _names(unit[0])
    dropped = {unit.start() for unit in left}
    return _UNIT.sub(lambda unit: "" if unit.start() in dropped else unit[0], shared)


def _defines(unit: re.Match[str]) -> list[str]:
    name = unit["short"] or unit["long"]
    return [name] if name else _EXPORTED.findall(unit[0])


def _names(text: str) -> set[str]:
    return set(_NAME.findall(_COMMENT_OR_STRING.sub("", text)))


def put_in(text: str) -> str:
    """Put keys and numbers of the shared files where their names are used."""
    found: dict[str, str] = {}

    def defined(match: re.Match[str]) -> str:
        names, values = match["names"].split(", "), match["values"].split(", ")
        pairs = list(zip(names, values, strict=False))
        if len(names) != len(values) or not all(
            _KEY.fullmatch(value) or (name.isupper() and _NUMBER.fullmatch(value)) for name, value in pairs
        ):
            return match[0]
        found.update((name, f"({value})" if value.startswith("-") else value) for name, value in pairs)
        return "\n"

    text = _DEFINED.sub(defined, text)
    return _TOKEN.sub(lambda token: found.get(token[0], token[0]), text)
