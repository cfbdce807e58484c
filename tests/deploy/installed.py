"""arqd as a host or an image has it: a wheel in a virtual environment of the system's Python at /opt/arqd."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = "/opt/arqd"
LIBRARIES = "/opt/libraries"
SYSTEM_PYTHON = "/usr/bin/python3"


def missing() -> str:
    """Say what is needed for it and not there."""
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    ask = "import sys; print(f'{sys.version_info.major}.{sys.version_info.minor}')"
    try:
        found = subprocess.run([SYSTEM_PYTHON, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    except OSError:
        found = "none"
    return "" if found == wanted else f"{SYSTEM_PYTHON} of the same version as .venv ({found} is not {wanted})"


def libraries() -> Path:
    """Give the folder of the libraries that requirements.lock names, which are installed already."""
    return Path(next(path for path in sys.path if path.endswith("site-packages")))


def install(home: Path) -> Path:
    """Build the wheel, and make what belongs at `HOME` in a folder; `libraries` belong at `LIBRARIES`.

    Returns:
        The folder of its packages.
    """
    dist = home.with_name("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(dist)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(home)], check=True)
    packages = next(home.glob("lib/python3*/site-packages"))
    [wheel] = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "libraries.pth").write_text(f"{LIBRARIES}\n")
    _add_what_only_it_needs(home)
    command = home / "bin/arqd"
    command.write_text(f"#!{HOME}/bin/python\nimport sys\nfrom daemon.cli.command import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return packages


def _add_what_only_it_needs(home: Path) -> None:
    """Install what the lock has for some releases of Python only, and may have left out of .venv."""
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", "")
    chosen = [line for line in lock.splitlines() if "python_full_version" in line]
    wanted = home.with_name("requirements.txt")
    wanted.write_text("\n".join(chosen))
    interpreter, what = f"{home}/bin/python", ["--no-deps", "--require-hashes", "-r", str(wanted)]
    if (uv := shutil.which("uv")) is not None:
        command = [uv, "pip", "install", "--quiet", "--python", interpreter, *what]
    else:
        command = [sys.executable, "-m", "pip", "--python", interpreter, "install", "-qq", *what]
    subprocess.run(command, check=True, capture_output=True)


def libraries_of_the_image(home: Path) -> None:
    """Make what the first stage of the Containerfile makes, of the libraries that are installed already.

    Their files are the very same ones where that can be: it is for reading.
    """
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(home)], check=True)
    packages = next(home.glob("lib/python3*/site-packages"))
    lock = (ROOT / "deploy/requirements.lock").read_text()
    wanted = {line.split("==")[0].lower().replace("_", "-") for line in lock.splitlines() if "==" in line}
    for distribution in distributions(path=[str(libraries())]):
        if distribution.metadata["Name"].lower().replace("_", "-") in wanted:
            for file in distribution.files or ():
                source = Path(str(file.locate()))
                # Commands are not needed, and files outside of the folder are theirs.
                if ".." not in file.parts and source.exists() and source.suffix != ".pyc":
                    target = packages / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # Some packages bring files of the same name.
                    target.unlink(missing_ok=True)
                    try:
                        target.hardlink_to(source)
                    except OSError:
                        shutil.copyfile(source, target)
    _add_what_only_it_needs(home)
