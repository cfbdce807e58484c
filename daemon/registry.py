"""From names to families: built from their ``WorkerSettings`` classes, or from plain arq settings classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from daemon.dotted import resolve, shipped_families
from daemon.errors import ConfigurationError
from daemon.family import (
    HOOKS,
    Family,
    FamilySettings,
    JobFunction,
    checked_values,
    func,
    load_family,
)
from daemon.functions import checked_functions
from daemon.keys import FamilyKeys

logger = logging.getLogger("arqd")


def installed_families(table: Mapping[str, str]) -> list[str]:
    """Give the names of all families but those `left_out`, of which the log tells."""
    missing = left_out(table)
    if missing:
        logger.info("%s", told_left_out(missing))
    return [name for name in table if name not in missing]


def left_out(table: Mapping[str, str]) -> dict[str, str]:
    """Give the families of ours that need packages which are not installed: name to the first one missing."""
    return {name: missing for name, dotted in table.items() if (missing := _missing(name, dotted)) is not None}


def told_left_out(missing: Mapping[str, str]) -> str:
    """Say what is left out, and what to do."""
    install = f"pip install 'arqd[{next(iter(missing))}]', or 'arqd[all]'"
    return f"left out, since packages are not installed: {', '.join(missing)} ({install})"


def _missing(name: str, dotted: str) -> str | None:
    if shipped_families().get(name) != dotted:
        return None
    try:
        resolve(dotted)
    except ConfigurationError as error:
        return error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
    return None


def load_families(
    table: Mapping[str, str],
    names: Sequence[str],
    overrides: Mapping[str, dict[str, Any]] | None = None,
    *,
    accept_pickle: bool = False,
) -> list[Family]:
    """Build families by name or by ``module:Class``.

    Args:
        table: name to ``module:Class`` of the registered families.
        names: names of the table, or dotted classes (`FamilySettings`, or a plain arq settings class).
        overrides: values from the environment by family name.
        accept_pickle: allow arq's default serialiser of a plain arq settings class.

    Raises:
        ConfigurationError: for an unknown name or a class that cannot be used.
    """
    families = []
    for name in names:
        dotted = table.get(name) or (name if ":" in name else None)
        if dotted is None:
            raise ConfigurationError(f"there is no family {name!r}: known are {', '.join(sorted(table))}")
        if missing := _missing(name, dotted):
            raise ConfigurationError(f"the family {name} needs {missing}: pip install 'arqd[{name}]'")
        settings = resolve(dotted)
        if not isinstance(settings, type):
            raise ConfigurationError(f"{dotted!r} is not a class")
        if issubclass(settings, FamilySettings):
            family = load_family(settings, (overrides or {}).get(getattr(settings, "family", ""), {}))
            if ":" not in name and family.name != name:
                raise ConfigurationError(f"{dotted} calls itself {family.name!r}, the table calls it {name!r}")
        else:
            family = adopt(settings, accept_pickle=accept_pickle)
        families.append(family)
    return families


# What a plain arq settings class may set and what becomes of it here.
_VALUES = {"max_jobs", "job_timeout", "max_tries", "keep_result", "keep_failed"}
_STOCK = {"poll_delay", "job_serializer", "job_deserializer", "cron_jobs", "timezone"}
_INSTEAD = {
    "redis_settings": "the server is the one of ARQD_REDIS_URL",
    "redis_pool": "the server is the one of ARQD_REDIS_URL",
    "retry_jobs": "a job that raises Retry is tried again",
    "burst": "say --burst",
    "max_burst_jobs": "--burst ends when no job is left",
}
PICKLE = (
    "PICKLE IS ACCEPTED: whoever can write to this Redis can run any code in this process. Move producers to a "
    "job_serializer of daemon.codec and drop --accept-pickle (docs/from-arq.md)"
)
#: How long a cron job's id stays taken after it ran: a worker whose clock is late would hand it in once more.
CRON_KEEP = 60.0


def adopt(settings: type, *, accept_pickle: bool = False) -> Family:
    """Build a family from a plain arq ``WorkerSettings`` class: its queue, serialisers and retry rule are kept.

    Args:
        accept_pickle: run it although it uses arq's default serialiser, which executes what the queue holds.

    Raises:
        ConfigurationError: when it needs pickle and that was not accepted, or a value is wrong.
    """
    found = {name: value for name, value in vars(settings).items() if not name.startswith("_")}
    queue = found.get("queue_name") or "arq:queue"
    keys = FamilyKeys.of_queue(queue)
    stock = {name: found[name] for name in _STOCK & found.keys() if found[name] is not None}
    told = [f"{name} is not used: {why}" for name, why in _INSTEAD.items() if name in found]
    missing = {"job_serializer", "job_deserializer"} - stock.keys()
    if missing:
        if not accept_pickle:
            raise ConfigurationError(
                f"{settings.__name__} reads its queue with pickle, which lets whoever writes to Redis run code here: "
                "set job_serializer and job_deserializer (daemon.codec has dumps and loads), or pass --accept-pickle"
            )
        stock.update(_pickle(missing))
        told.insert(0, PICKLE)
    if "poll_delay" in stock:
        stock["poll_delay"] = _seconds(stock["poll_delay"])
    wait = found.get("job_completion_wait") or 0
    values = {name: found[name] for name in _VALUES & found.keys()}
    functions = [*found.get("functions", ()), *map(_cron, found.get("cron_jobs") or ())]
    return Family(
        name=keys.family,
        keys=keys,
        functions=checked_functions(keys.family, functions),
        values=checked_values(keys.family, {**_keeps(found), "drain_timeout": wait, **values}),
        hooks={hook: found[hook] for hook in HOOKS if found.get(hook) is not None},
        ctx=dict(found.get("ctx") or {}),
        keep_result_forever=bool(found.get("keep_result_forever", False)),
        health_check_interval=_seconds(found.get("health_check_interval", 3600)),
        health_check_key=found.get("health_check_key"),
        stock=stock,
        warnings=tuple(told),
    )


def _keeps(found: dict[str, Any]) -> dict[str, Any]:
    """Give arq's retention: by age only, and a failed job's id can be used again as soon as a completed one's."""
    if found.get("keep_result_forever"):
        return {"keep_completed": None}
    return {"keep_completed": None, "keep_failed": found.get("keep_result", 3600)}


def _seconds(value: Any) -> float:
    return float(value.total_seconds() if hasattr(value, "total_seconds") else value)


def _pickle(missing: set[str]) -> dict[str, Any]:
    import pickle

    defaults = {"job_serializer": pickle.dumps, "job_deserializer": pickle.loads}
    return {name: defaults[name] for name in missing}


def _cron(job: Any) -> JobFunction:
    function = func(job)
    return replace(function, keep_result=max(CRON_KEEP, function.keep_result or 0))
