"""How services hand jobs over: `Producer` and `SyncProducer`. Cheap to import."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast, overload

from daemon import codec, lazily
from daemon.broker import Broker
from daemon.connecting.channel import Channel
from daemon.connecting.connections import LOST, connect, translate, translated
from daemon.connecting.routed import Routed
from daemon.encryption import NO_KEYS, JobCipher, KeyRing
from daemon.errors import InvalidJob, JobNotFound, RedisRefused, ResultTimeout
from daemon.keys import FAMILY_NAME, JOB, RESULT, FamilyKeys, parse_id
from daemon.producing.bulk import prepare_alike, prepare_each
from daemon.producing.handle import JobHandle, SyncJobHandle
from daemon.producing.handover import Asked, Fallback, Lot, Prepared, deliver, deliver_one
from daemon.producing.options import JobOptions, as_arguments, checked_template, job_name, new_job, with_own_keys
from daemon.producing.replies import ReplyReader
from daemon.producing.sync_producer import SyncProducer
from daemon.servers import RedisUrl

if TYPE_CHECKING:
    from daemon.events import Event, Since
    from daemon.flows import Batch, BatchHandle, Node
    from daemon.payload import Payload

__all__ = ["JobHandle", "JobOptions", "Producer", "SyncJobHandle", "SyncProducer"]

MAX_PAYLOAD = 1_000_000
KEEP_ABORTED_MS = 3_600_000


class Producer:
    """Hands jobs over. Use it as an asynchronous context manager, one for the life of the service.

        async with Producer.connect("redis://localhost") as producer:
            job = await producer.enqueue(SendEmail(...), priority="high")
            print(await job.result(timeout=10))

    Args:
        redis: an asynchronous redis-py client without response decoding.
        max_payload: largest payload accepted, in bytes of JSON.
        open_blocking: opens a client of its own for results, given its time limit in seconds; None shares ``redis``.
        templates: options by template name, as `template` adds them.
        keyring: keys for encrypted families and marked fields (docs/encryption.md).
        fallback: keeps jobs while Redis is away (docs/outbox.md); flows are not kept.

    Raises:
        InvalidJob: for a wrong template.
    """

    def __init__(
        self,
        redis: Any,
        *,
        max_payload: int = MAX_PAYLOAD,
        open_blocking: Callable[[float], Any] | None = None,
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        keyring: KeyRing | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        self.redis = redis
        self._fallback = fallback
        self.keyring = keyring or NO_KEYS
        self.max_payload = max_payload
        self.channel = None if isinstance(redis, Routed) else Channel(redis)
        self.replies = ReplyReader(redis, open_blocking, self.channel)
        self.open_blocking = open_blocking
        self._brokers: dict[str, Broker] = {}
        self._encrypted: set[str] = set()
        self._templates = {name: checked_template(name, options) for name, options in (templates or {}).items()}

    @classmethod
    def connect(
        cls,
        url: RedisUrl = "redis://localhost:6379",
        *,
        max_payload: int = MAX_PAYLOAD,
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        keyring: KeyRing | None = None,
        fallback: Fallback | None = None,
        **options: Any,
    ) -> Self:
        """Give a producer for a Redis URL (`daemon.connecting.connections.connect`); connects with the first command.

        Raises:
            ConfigurationError: for a URL it does not understand.
            InvalidJob: for a wrong template.
        """

        def open_blocking(timeout: float) -> Any:
            return connect(url, **{**options, "timeout": timeout})

        client = connect(url, **options)
        settings: dict[str, Any] = {"max_payload": max_payload, "templates": templates, "keyring": keyring}
        return cls(client, open_blocking=open_blocking, fallback=fallback, **settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self.replies.close()
        if self.channel is not None:
            self.channel.close()
        await self.redis.aclose()

    async def health(self) -> bool:
        """Tell whether Redis answers.

        Raises:
            RedisRefused: when it answers, but refuses this user.
        """
        try:
            await self.redis.ping()
        except LOST as error:
            refused = translate(error)
            if isinstance(refused, RedisRefused):
                raise refused from None
            return False
        except Exception:
            with translated():
                raise
        return True

    def broker(self, family: str) -> Broker:
        """The scripts of a family on this producer's connection."""
        found = self._brokers.get(family)
        if found is None:
            if not FAMILY_NAME.match(family):
                raise InvalidJob(f"family {family!r} must match [a-z0-9_-]+")
            found = self._brokers[family] = Broker(self.redis, FamilyKeys.of(family), channel=self.channel)
        return found

    def template(self, name: str, **options: Unpack[JobOptions]) -> JobOptions:
        """Name a preset of options, which ``template=name`` then stands for; without options give one that is there.

            producer.template("report", priority="low", max_tries=2)
            await producer.enqueue(MakeReport(...), template="report", delay="5m")

        Raises:
            InvalidJob: for an unknown or wrong option, or for a template that is not known.
        """
        if options:
            self._templates[name] = checked_template(name, options)
        elif name not in self._templates:
            raise InvalidJob(f"there is no template {name!r}; known are {', '.join(sorted(self._templates)) or 'none'}")
        return self._templates[name].copy()

    def _with_template(self, options: JobOptions) -> JobOptions:
        """Give options with those of the template they name.

        Raises:
            InvalidJob: when there is no such template.
        """
        if not options or not options.get("template"):
            return options
        options = {**self.template(str(options["template"])), **options}
        del options["template"]
        return options

    async def enqueue(
        self,
        job: Payload | str,
        payload: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        family: str | None = None,
        **options: Unpack[JobOptions],
    ) -> JobHandle:
        """Hand one job over, in one round trip.

        Args:
            job: a payload, or a function's name when its payload class is elsewhere (then it is validated by the
                worker only).
            payload: with a name: the payload's fields, or a list of positional arguments.
            family: with a name: its family.
            options: see `JobOptions`.

        Raises:
            InvalidJob: for a wrong option or payload; nothing was written. `TooLarge` when it is over the limit,
                `InClear` when it must be encrypted and there is no key.
            QueueFull: the family's budget of bytes is used up; it says when to try again.
            RedisUnavailable, RedisRefused, RedisFull: nothing was written, or (lost connection) it is unknown: enqueue
                again with the same ``job_id``.
        """
        if options.get("depends_on"):
            from daemon.flows import Node
            from daemon.flows.plan import enqueue_flow

            return cast(JobHandle, await enqueue_flow(self, Node(job, payload, family, (), "fail", options)))
        return await self._send_one((job, payload, family, options))

    @overload
    async def enqueue_flow(self, flow: Node) -> JobHandle: ...
    @overload
    async def enqueue_flow(self, flow: Batch) -> BatchHandle: ...
    async def enqueue_flow(self, flow: Node | Batch) -> JobHandle | BatchHandle:
        """Hand over jobs that wait for others, of any families: all of them or none.

        Args:
            flow: what `daemon.flows.node`, `chain` or `batch` made.

        Returns:
            The handle of the root, which ends last; of a batch its own. One that was there already is not ``created``,
            and nothing else was made.

        Raises: as `enqueue`, and ArqdError when handing over took more than an hour.
        """
        from daemon.flows.plan import enqueue_flow

        self.replies.forget_early()
        return await enqueue_flow(self, flow)

    async def enqueue_many(
        self,
        jobs: Iterable[Payload] | str,
        payloads: Iterable[Mapping[str, Any]] | None = None,
        *,
        family: str | None = None,
        **options: Unpack[JobOptions],
    ) -> list[JobHandle]:
        """Hand many jobs of one family over: a thousand in one round trip, all or nothing for each thousand.

        Args:
            jobs: payloads, or a function's name with the ``payloads`` of its jobs.
            payloads: with a name: one mapping of fields per job.
            options: for all of them; ``job_id`` is not allowed here, give `Payload`\\ s through `enqueue_each`.

        Raises: as `enqueue`.
        """
        if "job_id" in options:
            raise InvalidJob("job_id names one job: use enqueue_each for many jobs with ids of their own")
        if isinstance(jobs, str):
            return await self._send([(jobs, fields, family, options) for fields in payloads or ()])
        return await self._send_alike(list(jobs), family, options)

    async def enqueue_each(
        self,
        jobs: Iterable[tuple[tuple[Payload | str, Mapping[str, Any] | None], JobOptions]],
        *,
        family: str | None = None,
    ) -> list[JobHandle]:
        """Hand many jobs of one family over, each with options of its own: ``((payload, None), {"job_id": ...})``.

        Raises: as `enqueue`.
        """
        return await self._send([(job, fields, family, options) for (job, fields), options in jobs])

    def _prepare(
        self, job: Payload | str, payload: Any, family: str | None, options: JobOptions, job_id: str | None = None
    ) -> Prepared:
        """Check one job and write its record; nothing is sent. ``job_id``: what it is to have in any case."""
        level, returns, keyed, schema = 0, None, None, ""
        cipher: JobCipher | None = None
        if isinstance(job, str):
            function = job
            if family is None:
                raise InvalidJob(f"which family runs {job!r}? Enqueue a payload, or give family=")
            if self.keyring:
                cipher = self._cipher(family, options, job_id)
            body = b"[]" if payload is None else codec.encode(payload, "payload", cipher)
        elif isinstance(job, lazily.Payload):
            spec = job.__job__
            if payload is not None:
                raise InvalidJob("give a payload or a function's name with its fields, not both")
            family, function, level, returns = family or spec.family, spec.function, spec.priority, spec.returns
            schema = lazily.schema_mark(type(job))
            if spec.encrypted or self.keyring or lazily.model_has_secrets(type(job)):
                cipher = self._cipher(family, options, job_id, spec.encrypted)
                body = codec.encode_model(job, cipher)
            else:
                body = codec.encode_model(job)
            if spec.keyed:
                keyed = job
        else:
            raise InvalidJob(
                f"{type(job).__name__} is no payload: enqueue a Payload, or a function's name with family="
            )
        codec.check_size(len(body), self.max_payload, "payload")
        codec.check_readable(body, "payload")
        options = self._with_template(options)
        if keyed is not None:
            options = with_own_keys(keyed, options)
        args = as_arguments(body)
        return family, new_job(self.broker(family).keys, function, args, level, options, schema, cipher), returns

    def _encrypts(self, families: Iterable[str]) -> None:
        """From now on it encrypts whatever it hands over to these families."""
        self._encrypted.update(families)

    def _cipher(self, family: str, options: JobOptions, job_id: str | None, encrypted: bool = False) -> JobCipher:
        keys = self.broker(family).keys
        whole = encrypted or family in self._encrypted
        return JobCipher(self.keyring, keys.family, keys.job_id(job_id or job_name(options)), whole)

    async def _send_one(self, asked: Asked) -> JobHandle:
        prepared = family, job, returns = self._prepare(*asked)
        if self._fallback is None and job.when == "now":
            return await deliver_one(self, asked, prepared)
        return (await deliver(self, self._fallback, (asked,), Lot(family, [job], [returns])))[0]

    async def _send(self, asked: Sequence[Asked]) -> list[JobHandle]:
        return await deliver(self, self._fallback, asked, prepare_each(self, asked)) if asked else []

    async def _send_alike(
        self, payloads: Sequence[Payload], family: str | None, options: JobOptions
    ) -> list[JobHandle]:
        lot = prepare_alike(self, payloads, family, options) if payloads else None
        if lot is None:
            return await self._send([(payload, None, family, options) for payload in payloads])
        # None of them is encrypted, so none will be asked for anew.
        return await deliver(self, self._fallback, (), lot)

    def job(self, job_id: str, family: str | None = None, returns: Any = None) -> JobHandle:
        """Give the handle of a job by its id, ``email:<id>``; nothing is asked of Redis.

        Raises:
            InvalidJob: when the id names no family and none is given.
        """
        named, ids = parse_id(job_id)
        family = family or named
        if family is None:
            raise InvalidJob(f"job id {job_id!r} names no family: write it as family:id")
        return JobHandle(self, family, ids[0] if named else self.broker(family).keys.job_id(job_id), False, returns)

    def events(self, families: str | Sequence[str], since: Since = "now") -> AsyncGenerator[Event, None]:
        """Give what happens to the jobs of one family or several, without end.

            async for event in producer.events("email"):
                print(event.at, event.kind, event.id)

        It reads on a connection of its own, which is opened again when it is lost; nothing is told twice. What a family
        keeps is bounded (``max_events``), so that who is slow misses the oldest.

        Args:
            since: ``now`` (when it is first asked), ``start`` (of what is kept), a time, or the position of an event to
                go on behind; of several families a mapping of family to position.

        Raises:
            InvalidJob: for a name that is no family's, or a wrong place to begin.
            RedisRefused: while reading, when Redis refuses this user.
        """
        from daemon.events import EventReader

        names = [families] if isinstance(families, str) else list(families)
        for name in names:
            self.broker(name)
        return EventReader(self.redis, self.open_blocking, names, since).follow()

    async def abort(self, job: JobHandle, timeout: float) -> bool:
        """See `JobHandle.abort`."""
        broker, word = self.broker(job.family), ""

        async def ask() -> bool:
            nonlocal word
            with translated():
                (raw,) = await self.redis.mget(JOB + job.job_id)
                result = codec.encode_aborted(job.job_id, broker.keys.queue, raw)
                word = await broker.abort(job.job_id, result, KEEP_ABORTED_MS, self.replies.session)
            return word == "asked"

        try:
            ended = await self.replies.wait_after(ask, job.family, job.job_id, timeout)
        except ResultTimeout:
            raise ResultTimeout(f"{job.id} was told to stop but still runs after {timeout:g} s") from None
        if word == "not_found":
            raise JobNotFound(f"there is no job {job.id}: nothing was aborted")
        if word == "ended":
            with translated():
                ended = await self.redis.get(RESULT + job.job_id)
        return word == "aborted" or (ended is not None and codec.was_aborted(ended))
