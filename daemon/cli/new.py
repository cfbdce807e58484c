"""``arqd new``: the files of a family of one's own, to begin with."""

from __future__ import annotations

import keyword
import sys
from pathlib import Path
from string import Template
from typing import Annotated

import typer

#: Of each family the same three files (CONTRIBUTING.md, "A family more"), and a test.
FILES = {
    "__init__.py": '''\
"""The $family family of jobs."""
''',
    "payloads.py": '''\
"""What jobs of the $family family carry, and what they give. It is all that a producer imports: nothing heavy here."""

from daemon.payload import Payload, PayloadModel


class ${name}Done(PayloadModel):
    """What `handle_$module` gives."""

    text: str


class Handle$name(Payload, family="$family", returns=${name}Done):
    """A job of `handle_$module`."""

    name: str
''',
    "tasks.py": '''\
"""The functions of the $family family."""

from daemon.context import JobContext

from $package.payloads import $models


async def handle_$module(ctx: JobContext, job: Handle$name) -> ${name}Done:
    """Greet somebody. A job may run twice: greeting again does no harm.

    Raise `daemon.errors.PermanentError` where another try cannot help; any other error is tried again.
    """
    await ctx.progress(50, "thinking of something nice")
    return ${name}Done(text=f"Hello, {job.name}!")
''',
    "worker.py": '''\
"""The $family family: its functions, limits and retry policy."""

from daemon.family import Exponential, FamilySettings

from $package.tasks import handle_$module


class WorkerSettings(FamilySettings):
    """`ARQD_FAMILY__${variable}__MAX_JOBS` and the like set these from the environment."""

    family = "$family"
    functions = (handle_$module,)
    max_jobs = 10
    max_tries = 5
    job_timeout = 30
    backoff = Exponential(base=2, maximum=3600)
''',
}
TEST = '''\
"""The functions of the $family family, each alone: no Redis is needed."""

import asyncio

from daemon.testing.handlers import run_handler

from $package.payloads import Handle$name
from $package.tasks import handle_$module
from $package.worker import WorkerSettings


def test_somebody_is_greeted() -> None:
    run = asyncio.run(run_handler(handle_$module, Handle$name(name="Ada"), settings=WorkerSettings))
    assert run.ending == "completed"
    assert run.value().text == "Hello, Ada!"
'''
NEXT_STEPS = """\
Now, in this folder:
  arqd run $package.worker:WorkerSettings
  arqd enqueue handle_$module --family $family --json '{"name": "Ada"}' --wait
  python -m pytest $test
and for arqd run --all, the console and arqd queues, which are to know it:
  export ARQD_FAMILIES='{"$family": "$package.worker:WorkerSettings"}'"""

new = typer.Typer(help="Files to begin with.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(new, name="new")


@new.callback()
def _new() -> None:
    """Keep `family` a command of its own, though it is the only one."""


@new.command()
def family(
    name: Annotated[str, typer.Argument(help="Its name: letters a-z, digits, - and _.")],
    package: Annotated[
        str, typer.Option(help="Package it becomes a part of: app.jobs gives app/jobs/NAME.", metavar="PACKAGE")
    ] = "",
) -> None:
    """Write a family of your own: payloads, functions, settings, a test.

    The folder is made where you are. Nothing that is there is overwritten.
    """
    from daemon.errors import ArqdError

    module = name.replace("-", "_")
    _refuse(name, module, package)
    dotted = f"{package}.{module}" if package else module
    folder, test = Path(*dotted.split(".")), Path("tests", f"test_{module}.py")
    if taken := next((path for path in (folder, test) if path.exists()), None):
        raise ArqdError(f"{taken} is there already: nothing was written")
    camel = "".join(word.capitalize() for word in module.split("_"))
    words = {
        "family": name, "module": module, "package": dotted, "test": str(test), "variable": module.upper(),
        "name": camel, "models": ", ".join(sorted((f"Handle{camel}", f"{camel}Done"))),
    }  # fmt: skip
    written = {folder / file: text for file, text in FILES.items()} | {test: TEST}
    try:
        for path, text in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(words), "utf-8")
    except OSError as error:
        raise ArqdError(f"{error.filename} cannot be written ({error.strerror})") from None
    print("\n".join(map(str, written)))
    print(Template(NEXT_STEPS).substitute(words))


def _refuse(name: str, module: str, package: str) -> None:
    """Refuse names that no family, or no package of Python, can have."""
    from daemon.dotted import shipped_families
    from daemon.errors import ArqdError
    from daemon.keys import FAMILY_NAME

    if not FAMILY_NAME.match(name):
        raise ArqdError(f"family {name!r} must match [a-z0-9_-]+")
    if name in shipped_families():
        raise ArqdError(f"there is a family {name!r} already, which ships with arqd: take another name")
    parts = [*package.split("."), module] if package else [module]
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise ArqdError(f"{'.'.join(parts)!r} cannot be the name of a Python package")
    if parts[0] in sys.stdlib_module_names | {"arq", "daemon"} or parts == ["handlers"]:
        raise ArqdError(f"a package {parts[0]!r} would hide another one: take another name, or give --package")
