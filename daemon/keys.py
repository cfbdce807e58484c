"""Every Redis key, from one place. All keys of a family carry its hash tag, so they share a cluster slot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

FAMILY_NAME = re.compile(r"[a-z0-9_-]+\Z")

# arq's own names; a stock client looks here.
JOB = "arq:job:"
RESULT = "arq:result:"
RETRY = "arq:retry:"
IN_PROGRESS = "arq:in-progress:"
ABORT = "arq:abort"

# The console's own, of no family (docs/access.md): a family's name has no colon, and the workers' `arqd:*` no match.
CONSOLE = "{arqd:console}:"
CONSOLE_TOKENS = CONSOLE + "tokens"
CONSOLE_SESSION = CONSOLE + "session:"
CONSOLE_LOGIN = CONSOLE + "login:"
# In one slot: an entry and the end of its chain are written together.
AUDIT_LOG, AUDIT_HEAD = "{arqd:audit}:log", "{arqd:audit}:head"

# Alerts that fire, the counts they compare with, and silences (docs/alerts.md): the workers' own, in one slot.
_ALERTS = "arqd:{arqd:alerts}:"
ALERT_STATES, ALERT_COUNTS, ALERT_SILENCES = _ALERTS + "states", _ALERTS + "counts", _ALERTS + "silences"

# What scripts use, in the order in which lua/prelude.lua names them.
SCRIPT_KEYS = (
    "queue",
    "mark",
    "suspects",
    "workers",
    "clock",
    "conf",
    "completed",
    "dead",
    "aborted",
    "expired",
    "crashes",
    "progress",
    "history",
    "waiters",
    "totals",
    "tags",
    "limits",
    "active",
    "windows",
    "lanes",
    "dedup",
    "parked",
    "receipts",
    "logs",
    "flows",
    "parents",
    "outbox",
)


@dataclass(frozen=True, slots=True)
class FamilyKeys:
    """The keys of one family.

    Attributes:
        family: its name.
        tag: the hash tag its ids and keys carry, ``{email}``.
        queue: its sorted set, ``arq:{email}``; a job's score says its state.
    """

    family: str
    tag: str
    queue: str

    @property
    def cluster_scripts(self) -> tuple[str, ...]:
        """What a call of a script names in a cluster, where its keys have to be in one slot: all that scripts may use.

        Elsewhere it names the queue alone, and scripts make the other names (`daemon.lua.linked.with_keys`). Here the
        abort set is one of the family's own. The last key never exists: while a slot moves, its keys are in two places,
        and a script would miss those that it builds from ids; but no node runs one without every key of the call.
        """
        return (self.queue, *map(self.key, (*SCRIPT_KEYS[1:], "abort", "never")))

    @staticmethod
    @lru_cache(1024)
    def of(family: str) -> FamilyKeys:
        """Keys of a family by its name."""
        return FamilyKeys(family, f"{{{family}}}", f"arq:{{{family}}}")

    @classmethod
    def of_queue(cls, queue: str) -> FamilyKeys:
        """Keys beside a queue of a stock arq deployment, whose name is kept (``arq:queue``)."""
        if queue.startswith("arq:{") and queue.endswith("}"):
            return cls.of(queue[5:-1])
        return cls(queue, f"{{{queue}}}", queue)

    def key(self, *parts: str) -> str:
        """A key of this family: ``{email}:dead``."""
        return ":".join((self.tag, *parts))

    @property
    def prefix(self) -> str:
        """What `key` puts first; scripts build the per-session keys from it."""
        return self.tag + ":"

    def job_id(self, name: str) -> str:
        """The id in Redis of a job people call ``name``: ``{email}:<name>``."""
        return name if name.startswith(self.prefix) else self.prefix + name


@dataclass(frozen=True, slots=True)
class LimitKeys:
    """The keys of a limit that several families share: a slot of its own.

    Attributes:
        name: of the limit.
    """

    name: str

    @property
    def prefix(self) -> str:
        """What its keys begin with, ``{limit:openai}:``."""
        return f"{{limit:{self.name}}}:"

    @property
    def scripts(self) -> tuple[str, str]:
        """The keys in the order of KEYS in lua/permits.lua."""
        return self.key("conf"), self.key("holders")

    def key(self, *parts: str) -> str:
        """A key of this limit: ``{limit:openai}:conf``."""
        return self.prefix + ":".join(parts)


def family_of(job_id: str) -> str:
    """Give the family of an id in Redis that carries its hash tag, ``{email}:<id>``."""
    return job_id[1 : job_id.index("}:")]


def spoken_id(job_id: str) -> str:
    """How people, the API and the command line write an id: ``email:<id>``; a bare stock id stays as it is."""
    if job_id.startswith("{") and "}:" in job_id:
        return job_id[1:].replace("}:", ":", 1)
    return job_id


def raw_id(job_id: str) -> bytes:
    """Give an id as it stands in Redis, where a stock producer may have written any bytes."""
    return job_id.encode("utf-8", "surrogateescape")


def parse_id(text: str) -> tuple[str | None, list[str]]:
    """Give the family a written id names (None when it names none) and the ids in Redis it may mean, in order.

    ``email:abc`` and ``{email}:abc`` mean ``{email}:abc``; the former else a stock id, ``email:abc`` or ``abc``.
    """
    if text.startswith("{") and "}:" in text:
        return text[1 : text.index("}:")], [text]
    family, colon, rest = text.partition(":")
    if colon and rest:
        return family, [f"{{{family}}}:{rest}", text, rest]
    return None, [text]
