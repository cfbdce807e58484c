"""Many jobs of one payload class with the same options: what they have in common is checked and written once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from daemon import carried, codec, lazily
from daemon.broker import NewJob
from daemon.errors import InvalidJob
from daemon.job import new_ids
from daemon.options import as_arguments, new_job

if TYPE_CHECKING:
    from daemon.handover import Asked, Prepared
    from daemon.payload import Payload
    from daemon.producer import Producer

#: Stands for the arguments in the record of which a run's jobs make theirs: neither JSON nor a name has such a byte.
_ARGS = b"\0"


def prepare_all(producer: Producer, asked: Sequence[Asked]) -> list[Prepared]:
    """Check the jobs of one call and write their records; nothing is sent.

    Raises:
        InvalidJob: as `Producer.enqueue`, and when they belong to several families.
    """
    if len(asked) == 1:
        return [producer._prepare(*asked[0])]
    prepared: list[Prepared] = []
    families: set[str] = set()
    for _, group in groupby(asked, _kind):
        run = list(group)
        prepared += _alike(producer, run) if _are_alike(producer, *run[0]) else [producer._prepare(*one) for one in run]
        families.add(prepared[-1][0])
    if len(families) > 1:
        raise InvalidJob(f"jobs of one call belong to one family, not to {', '.join(sorted(families))}")
    return prepared


def _kind(one: Asked) -> tuple[Any, ...]:
    """Tell runs apart by class, whether there are fields beside it, family, and the mapping of options they share."""
    return one[0].__class__, one[1] is None, one[2], id(one[3])


def _are_alike(producer: Producer, job: Any, fields: Any, family: str | None, options: Any) -> bool:
    """Whether such jobs differ in id and arguments alone: nothing is named, encrypted or traced for each."""
    if isinstance(job, str) or not isinstance(job, lazily.Payload):
        return False
    if fields is not None or options.get("job_id") or carried.is_traced():
        return False
    spec = job.__job__
    return not (spec.keyed or spec.encrypted or producer.keyring or lazily.model_has_secrets(type(job)))


def _alike(producer: Producer, run: Sequence[Asked]) -> list[Prepared]:
    payloads = cast("list[Payload]", [one[0] for one in run])
    _, _, family, options = run[0]
    model = type(payloads[0])
    spec = model.__job__
    keys = producer.broker(family or spec.family).keys
    options = producer._with_template(options)
    _, *common, tail = new_job(keys, spec.function, _ARGS, spec.priority, options, lazily.schema_mark(model))
    head, _, end = tail.partition(_ARGS)
    bodies = list(map(codec.encode_model, payloads))
    if max(map(len, bodies)) > min(producer.max_payload, codec.MAX_DEPTH):
        for body in bodies:
            codec.check_size(len(body), producer.max_payload, "payload")
            codec.check_depth(body, "payload")
    prefix, new = keys.prefix, tuple.__new__
    return [
        (keys.family, new(NewJob, (prefix + name, *common, head + as_arguments(body) + end)), spec.returns)
        for name, body in zip(new_ids(len(run)), bodies, strict=True)
    ]
