"""The functions of a family, and what each overrides of its family's values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arq.cron import CronJob
from arq.worker import Function as ArqFunction

from daemon.errors import ConfigurationError
from daemon.job import seconds
from daemon.retry import Backoff

if TYPE_CHECKING:
    from daemon.family import RateLimit


@dataclass(slots=True)
class JobFunction:
    """A registered function and what it overrides of its family (None: the family's value; seconds).

    ``at_most_once`` functions are not run again after a crash. ``rate_limit`` and ``global_limit`` are the function's
    own, beside the family's.
    """

    name: str
    call: Callable[..., Any]
    timeout: float | None = None
    max_tries: int | None = None
    backoff: Backoff | None = None
    keep_result: float | None = None
    keep_result_forever: bool | None = None
    permanent: tuple[type[BaseException], ...] = ()
    at_most_once: bool = False
    rate_limit: RateLimit | None = None
    global_limit: int | None = None


def func(
    call: Callable[..., Any] | ArqFunction | CronJob | JobFunction,
    *,
    name: str | None = None,
    timeout: float | str | None = None,
    max_tries: int | None = None,
    backoff: Backoff | None = None,
    keep_result: float | str | None = None,
    keep_result_forever: bool | None = None,
    permanent: tuple[type[BaseException], ...] = (),
    at_most_once: bool = False,
    rate_limit: RateLimit | None = None,
    global_limit: int | None = None,
) -> JobFunction:
    """Register a function with values of its own.

    Args:
        call: an ``async`` function, a plain one (which runs in a thread), or what arq's ``func`` or ``cron`` gave.
        name: the name jobs call it by; default its ``__qualname__``.
        timeout, keep_result: seconds or text such as ``"10m"``.
        permanent: exception types after which it is not tried again.
        at_most_once: never run it again after its worker died.
        rate_limit: starts per period of this function over all processes.
        global_limit: jobs of this function that run at the same time over all processes.

    Raises:
        ConfigurationError: when ``call`` cannot be called.
    """
    if isinstance(call, JobFunction):
        return call
    if isinstance(call, ArqFunction | CronJob):
        return JobFunction(
            call.name,
            call.coroutine,
            call.timeout_s,
            call.max_tries,
            None,
            call.keep_result_s,
            call.keep_result_forever,
        )
    if not callable(call):
        raise ConfigurationError(f"{call!r} is not a function")
    return JobFunction(
        name or call.__qualname__,
        call,
        None if timeout is None else seconds(timeout),
        max_tries,
        backoff,
        None if keep_result is None else seconds(keep_result),
        keep_result_forever,
        permanent,
        at_most_once,
        rate_limit,
        global_limit,
    )


def checked_functions(name: str, functions: Sequence[Any]) -> dict[str, JobFunction]:
    """Give a family's functions by name.

    Raises:
        ConfigurationError: for no function, a repeated name, or a name with a control character.
    """
    registered: dict[str, JobFunction] = {}
    for item in functions:
        function = func(item)
        if function.name in registered:
            raise ConfigurationError(f"family {name!r}: function {function.name!r} is registered twice")
        if not function.name.isprintable():
            raise ConfigurationError(f"family {name!r}: function name {function.name!r} is not plain text")
        registered[function.name] = function
    if not registered:
        raise ConfigurationError(f"family {name!r} registers no function")
    return registered
