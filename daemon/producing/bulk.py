"""Many payloads of one class with the same options: what their jobs have in common is checked and written once.

Nothing is kept of a job but its id and its record, two texts: tuples of a thousand jobs, call after call, would have
the garbage collector look through the whole process again and again, which takes longer than to write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daemon import carried, codec, lazily
from daemon.errors import InvalidJob
from daemon.job import new_ids
from daemon.producing.batches import JobRun
from daemon.producing.handover import Asked, Lot
from daemon.producing.options import JobOptions, as_arguments, new_job

if TYPE_CHECKING:
    from daemon.producer import Producer

#: Stands for the arguments in the record of which all make theirs: neither JSON nor a name has such a byte.
_ARGS = b"\0"


def prepare_alike(producer: Producer, payloads: Sequence[Any], family: str | None, options: JobOptions) -> Lot | None:
    """Check payloads and write their records; nothing is sent. None: each needs care of its own (`prepare_each`).

    Raises:
        InvalidJob: as `Producer.enqueue`.
    """
    model: Any = type(payloads[0])
    if not _is_simple(producer, model) or set(map(type, payloads)) != {model}:
        return None
    spec = model.__job__
    keys = producer.broker(family or spec.family).keys
    options = producer._with_template(options)
    usual = new_job(keys, spec.function, _ARGS, spec.priority, options, lazily.schema_mark(model))
    head, _, end = usual.tail.partition(_ARGS)
    bodies = list(map(codec.encode_model, payloads))
    if max(map(len, bodies)) > min(producer.max_payload, codec.MAX_DEPTH):
        for body in bodies:
            codec.check_size(len(body), producer.max_payload, "payload")
            codec.check_readable(body, "payload")
    ids = [keys.prefix + name for name in new_ids(len(bodies))]
    jobs = JobRun(ids, usual[1:6], [head + as_arguments(body) + end for body in bodies])
    return Lot(keys.family, jobs, [spec.returns] * len(bodies))


def _is_simple(producer: Producer, model: Any) -> bool:
    """Whether jobs of a class differ in id and arguments alone: nothing is encrypted, named or traced for each."""
    if not issubclass(model, lazily.Payload) or producer.keyring or carried.is_traced():
        return False
    return not (model.__job__.keyed or model.__job__.encrypted or lazily.model_has_secrets(model))


def prepare_each(producer: Producer, asked: Sequence[Asked]) -> Lot:
    """Check jobs one by one, and write their records; nothing is sent.

    Raises:
        InvalidJob: as `Producer.enqueue`, and when they belong to several families.
    """
    if len(asked) == 1:
        family, job, of = producer._prepare(*asked[0])
        return Lot(family, [job], [of])
    prepared = [producer._prepare(*one) for one in asked]
    families = {family for family, _, _ in prepared}
    if len(families) > 1:
        raise InvalidJob(f"jobs of one call belong to one family, not to {', '.join(sorted(families))}")
    return Lot(prepared[0][0], [job for _, job, _ in prepared], [returns for _, _, returns in prepared])
