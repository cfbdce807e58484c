"""``arqd install-systemd``: the units of ``deploy/systemd`` for this installation."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

PATTERN = "/opt/arqd/bin/arqd"
#: What ProtectHome= and PrivateTmp= hide from a unit.
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108
NEXT_STEPS = """\
Now:
  put settings into {env}, and secrets into {credentials},
    each in a file named like its variable without ARQD_: redis_url, smtp__password
  systemctl daemon-reload
  systemctl start arqd-db-upgrade    # tables of families that keep data; again after an upgrade
  systemctl enable --now arqd.target arqd@all arqd-probe arqd-console    # or a family: arqd@email"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("install-systemd")(install_systemd)


def install_systemd(
    write: Annotated[bool, typer.Option("--write", help="Write the units and what they need.")] = False,
    root: Annotated[Path, typer.Option(help="Write below this folder.", metavar="DIR")] = Path("/"),
) -> None:
    """Print systemd units for this installation, or write them.

    Written are units into etc/systemd/system, an example of settings and a folder for secrets into etc/arqd. Files of
    settings that are there stay as they are.
    """
    from daemon.errors import ArqdError
    from daemon.settings_docs import environment_example

    program = str(Path(sys.prefix, "bin/arqd"))
    units = {name: text.replace(PATTERN, program) for name, text in _units().items()}
    if not write:
        for name, text in units.items():
            print(f"# --- {name}\n{text}")
        return
    if hidden := next((folder for folder in HIDDEN if Path(program).is_relative_to(folder)), None):
        raise ArqdError(f"units cannot see {hidden}, where {program} is: install arqd into /opt/arqd or /usr/local")
    folder, own = root / "etc/systemd/system", root / "etc/arqd"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (own / "credentials").mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in units.items():
            (folder / name).write_text(text, "utf-8")
        if not (settings := own / "arqd.env").exists():
            settings.write_text(environment_example(), "utf-8")
    except OSError as error:
        raise ArqdError(
            f"{error.filename} cannot be written ({error.strerror}): run it as root, or give --root"
        ) from None
    print("\n".join(str(folder / name) for name in units))
    print(NEXT_STEPS.format(env=settings, credentials=own / "credentials"))


def _units() -> dict[str, str]:
    """Give the units by name: they are in the package, and in a clone in deploy/."""
    packaged, here = files("daemon") / "systemd", Path(__file__).parents[2] / "deploy/systemd"
    folder = packaged if packaged.is_dir() else here
    names = sorted(each.name for each in folder.iterdir() if each.name.startswith("arqd") and "env" not in each.name)
    return {name: (folder / name).read_text("utf-8") for name in names}
