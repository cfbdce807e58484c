"""arqd: a background-job daemon on arq and Redis.

Reading order, which is the way a job goes:

1. ``payload``    what a job carries, and the function it is for
2. ``producer``   a service hands a job over and gets a handle; ``producing/``: with which options, and how
3. ``broker``     the only module that changes a job's state, one method per script
4. ``lua/``       the scripts themselves: enqueue, tick (settle and claim), sync, renew, ...
5. ``worker``     one family's loop: settle what ended, claim what is due, start executors; ``claiming/``: sessions,
   leases, jobs claimed ahead, idle waiting
6. ``executor``   one job: decode, validate, run; ``running/``: what is around it, ``context``: what its handler gets
7. ``decisions``  what becomes of it: completed, another try, the dead letters; ``retry`` has the backoff

Beside the way: ``supervisor`` (a process with its workers) and ``process/`` (signals, heartbeat, watchdog, systemd),
``limits/``, ``scheduling/`` and ``schedules`` (at run time), ``flows/`` (jobs that wait for others), ``outbox/``
(jobs from a database's transaction), ``connecting/`` and ``servers`` (to Redis, and to which). Keys and their
rotation: ``encryption``, ``secret`` (marked fields), ``reencryption``.

Nouns: ``job``, ``records`` and ``codec`` (its bytes in Redis), ``keys``, ``layout``, ``carried``, ``errors``,
``family`` and ``functions``, ``dotted``, ``registry`` and ``catalog`` (names to families), ``settings`` and
``environment`` (``settings_docs``: what is said of them), ``noted`` (which families have some), ``typed`` (how the
command is). ``arq_worker``: what is stock arq's; ``lazily``: imported late.

Looking in: ``inspector`` and ``inspecting/`` (``explain``: why a job does not run), ``pages`` (lists of any size),
``search/``, ``events``, ``statistics``, ``metrics``, ``logs``, ``telemetry`` (``tracing``, ``error_reports``;
``instruments``: how they watch), ``cli/``, ``probe/``, ``console/``, ``alerts/``. Operating: ``control``, its
``outcomes`` in words. Dead letters: ``causes``, ``dead_letters`` (their groups), ``redrive`` (sending them back with
care), ``archive/`` (in the database). On one machine: ``up`` with an ``embedded`` Valkey and a ``demo``. For tests of
those who use it: ``testing/``.

This package imports nothing heavy by itself; import the module that is needed.
"""

__version__ = "0.1.0"
