"""arqd: a background-job daemon on arq and Redis.

Reading order, which is the way a job goes:

1. ``payload``   what a job carries, and the function it is for
2. ``producer``  a service hands a job over and gets a handle; ``bulk``: many jobs; ``lazily``: what it imports late
3. ``broker``    the only module that changes a job's state, one method per script
4. ``lua/``      the scripts themselves: enqueue, tick (settle and claim), sync, renew, ...
5. ``worker``    one family's loop: settle what ended, claim what is due, start executors
6. ``executor``  one job: decode, validate, run
7. ``decisions`` what becomes of it: completed, another try, the dead letters; ``retry`` has the backoff

Beside the way: ``supervisor`` (process: signals, drain), ``leases`` (renewal), ``wakeups`` (idle waiting), ``permits``
(limits that families share), ``heartbeat`` (the file the probe reads), ``progress`` (does it take what waits?),
``watchdog`` (who blocks the loop?). Keys and their rotation: ``encryption``,
``secret`` (marked fields), ``reencryption``. Schedules: ``cron_jobs`` (in settings) and ``publish``, ``schedules`` (at
run time), ``crontab`` (when), ``schedule`` (what), ``ticks`` and ``scheduler`` (who makes them). Jobs that wait for
others: ``flows/``. Jobs from a database's transaction: ``outbox/``. Nouns: ``job``, ``records``, ``codec``, ``run``,
``context``, ``keys``, ``errors``, ``settings``, ``family``, ``functions``, ``dotted`` and ``registry`` (names to
families), ``logs``. Looking in: ``inspector``, ``pages``, ``situation`` and ``explain``
(why a job does not run), ``consistency`` (keys that belong to no job), ``observer`` (what a worker tells of a try),
``events``, ``statistics``, ``metrics``, ``search/``, ``cli/``, ``probe/``, ``console/``, ``alerts/``. Operating:
``control``. Dead letters: ``causes``, ``dead_letters`` (their groups), ``redrive`` (sending them back with care),
``archive/`` (in the database). For tests of those who use it: ``testing/``.

This package imports nothing heavy by itself; import the module that is needed.
"""

__version__ = "0.1.0"
