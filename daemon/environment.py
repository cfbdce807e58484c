"""What the settings are read from: ``ARQD_`` variables, files of secrets, and names other queue systems use.

All of it becomes one mapping of ``ARQD_`` names to text, which `daemon.settings` checks and converts. Nothing here
reads the process's environment: it is handed in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from daemon.errors import ConfigurationError

PREFIX = "ARQD_"
EVERY_FAMILY = "*"
ENV_FILE = f"{PREFIX}ENV_FILE"

# Kubernetes puts these into every pod for each Service of the namespace; a Service may well be called arqd-something.
_KUBERNETES = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_KUBERNETES_PORT = re.compile(r"\w+_PORT=(tcp|udp|sctp)://.*", re.IGNORECASE)


def set_by_kubernetes(name: str, value: str) -> bool:
    """Tell whether a variable is one that Kubernetes injects for a Service.

    A bare ``*_PORT`` counts only with the kind of value Kubernetes gives it (``tcp://10.0.0.1:6379``), so that
    ``ARQD_PROBE_PORT=9000``, written for ``ARQD_PROBE__PORT``, is still told.
    """
    return bool(_KUBERNETES.fullmatch(name) or _KUBERNETES_PORT.fullmatch(f"{name}={value}"))


@dataclass(slots=True)
class Variables:
    """Settings as text, by ``ARQD_`` name, and where each came from when it was not a variable of that name."""

    values: dict[str, str] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    def given(self, name: str) -> bool:
        """Tell whether a setting is given by itself or in the JSON of its section."""
        parts = name.split("__")
        return any(self.values.get("__".join(parts[:depth])) for depth in range(1, len(parts) + 1))

    def told(self, name: str) -> str:
        """How to name a setting in a message: by its variable, and by what really set it."""
        return f"{name} (from {self.origin[name]})" if name in self.origin else name


def collect(environ: Mapping[str, str]) -> tuple[Variables, dict[str, str]]:
    """Gather ``ARQD_`` variables, and files of variables and of secrets for those that are not set.

    Args:
        environ: the process's environment. ``ARQD_ENV_FILE`` names files of variables. Directories of secrets are named
            by ``ARQD_SECRETS_DIR`` and by systemd's ``CREDENTIALS_DIRECTORY``; a file's name is the variable's, in any
            case.

    Returns:
        The variables, and every other name that `FALLBACKS` knows, from both places. Empty values count as unset.

    Raises:
        ConfigurationError: when a file or a directory of secrets cannot be read.
    """
    filed = _env_files(environ.get(ENV_FILE, ""))
    environ = {**filed, **{name: value for name, value in environ.items() if value or name not in filed}}
    known = {name for row in FALLBACKS for name in row.names}
    found = Variables()
    others: dict[str, str] = {}
    for name, value in environ.items():
        if name.startswith(PREFIX):
            found.values[name] = value
        elif name in known and value:
            others[name] = value
    for variable in (f"{PREFIX}SECRETS_DIR", "CREDENTIALS_DIRECTORY"):
        if folder := environ.get(variable):
            for name, path in _secret_files(variable, Path(folder), known):
                if name.startswith(PREFIX):
                    if not found.values.get(name):
                        found.values[name] = _read_secret(path)
                        found.origin[name] = f"the file {path}"
                else:
                    others.setdefault(name, _read_secret(path))
    return found, others


def _env_files(paths: str) -> dict[str, str]:
    """Read files of ``NAME=value`` lines, ``:`` between them; the last wins; ``-`` before one: it may be missing."""
    found: dict[str, str] = {}
    for path in filter(None, paths.split(":")):
        try:
            lines = Path(path.removeprefix("-")).read_text("utf-8").splitlines()
        except FileNotFoundError:
            if path.startswith("-"):
                continue
            raise ConfigurationError(f"{ENV_FILE}: there is no file {path}") from None
        except OSError as error:
            raise ConfigurationError(f"{ENV_FILE}: {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{ENV_FILE}: {path} is not UTF-8 text") from None
        for number, line in enumerate(lines, 1):
            if (text := line.strip()) and text[0] not in "#;":
                name, equals, value = text.partition("=")
                if not equals or len(name.split()) != 1:
                    raise ConfigurationError(f"{ENV_FILE}: line {number} of {path} is not NAME=value")
                value = value.strip()
                quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
                found[name.strip()] = value[1:-1] if quoted else value
    return found


def _secret_files(variable: str, folder: Path, known: Iterable[str]) -> list[tuple[str, Path]]:
    try:
        # Kubernetes keeps the real files in hidden directories beside the links to them.
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise ConfigurationError(f"{variable}: {folder} cannot be read: {error.strerror}") from None
    named = [(path.name.upper(), path) for path in paths]
    return [(name, path) for name, path in named if name.startswith(PREFIX) or name in known]


def _read_secret(path: Path) -> str:
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(f"secret file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"secret file {path} is not UTF-8 text") from None


def refuse_unknown(variables: Variables, names: Iterable[str], open_names: Iterable[str]) -> None:
    """Refuse a misspelt variable, and drop those of Kubernetes.

    Args:
        names: every name there is.
        open_names: names that take anything behind a ``__``.

    Raises:
        ConfigurationError: naming the variable and the closest known one.
    """
    known = set(names)
    prefixes = tuple(f"{name}__" for name in open_names)
    for name in sorted(variables.values):
        if name in known or name.startswith(prefixes):
            continue
        if set_by_kubernetes(name, variables.values[name]):
            del variables.values[name]
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        hint = f"did you mean {close[0]}?" if close else "docs/settings.md lists what there is"
        raise ConfigurationError(f"{variables.told(name)} is not a setting: {hint}")


@dataclass(frozen=True, slots=True)
class Fallback:
    """Names of other systems that stand in for settings which are not given.

    Attributes:
        names: the variables it reads.
        sets: the settings it gives, ``*`` for each family; it is not used when one of them is set already.
        meaning: one line for the documentation.
        convert: gives the settings from those of ``names`` that are set.
    """

    names: tuple[str, ...]
    sets: tuple[str, ...]
    meaning: str
    convert: Callable[[Mapping[str, str]], dict[str, str]]


def _number(given: Mapping[str, str], name: str) -> str:
    value = given[name].strip()
    if not value.isdecimal():
        raise ConfigurationError(f"{name} must be a whole number")
    return value


def _redis_url(given: Mapping[str, str]) -> dict[str, str]:
    values = {name: value for name, value in given.items() if not set_by_kubernetes(name, value)}
    password = quote(values.get("REDIS_PASSWORD", ""), safe="")
    if url := values.get("REDIS_URL"):
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ConfigurationError(f"REDIS_URL is no URL: {error}") from None
        if password and parts.password is None and parts.scheme in ("redis", "rediss"):
            url = parts._replace(netloc=f"{parts.username or ''}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()
        return {"ARQD_REDIS_URL": url}
    if not values:
        return {}
    host = values.get("REDIS_HOST", "localhost")
    host = f"[{host}]" if ":" in host else host
    port = _number(values, "REDIS_PORT") if "REDIS_PORT" in values else "6379"
    database = _number(values, "REDIS_DB") if "REDIS_DB" in values else "0"
    return {"ARQD_REDIS_URL": f"redis://{f':{password}@' if password else ''}{host}:{port}/{database}"}


# The submission servers of the services nodemailer knows by name; each takes STARTTLS on port 587.
_MAIL_SERVICES = {
    "gmail": "smtp.gmail.com",
    "mailgun": "smtp.mailgun.org",
    "office365": "smtp.office365.com",
    "outlook365": "smtp.office365.com",
    "postmark": "smtp.postmarkapp.com",
    "sendgrid": "smtp.sendgrid.net",
    "yahoo": "smtp.mail.yahoo.com",
    "zoho": "smtp.zoho.com",
}


def _smtp(given: Mapping[str, str]) -> dict[str, str]:
    service = given.get("EMAIL_SERVICE", "sendgrid" if "SENDGRID_API_KEY" in given else "").strip().lower()
    if not service:
        return {}
    host = _MAIL_SERVICES.get(service, service if "." in service else None)
    if host is None:
        raise ConfigurationError(f"EMAIL_SERVICE is none of {', '.join(_MAIL_SERVICES)}: set ARQD_SMTP__HOST instead")
    found = {"ARQD_SMTP__HOST": host, "ARQD_SMTP__PORT": "587", "ARQD_SMTP__TLS": "starttls"}
    user, password = given.get("EMAIL_USER"), given.get("EMAIL_PASSWORD")
    if service == "sendgrid":
        user, password = user or "apikey", given.get("SENDGRID_API_KEY", password)
    if user and password:
        found |= {"ARQD_SMTP__USERNAME": user, "ARQD_SMTP__PASSWORD": password}
    return found


_NODES = {"ETH_MAINNET_RPC": "MAINNET", "ETH_SEPOLIA_RPC": "SEPOLIA", "POLYGON_RPC": "POLYGON"}

FALLBACKS = (
    Fallback(
        ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "REDIS_DB"),
        ("ARQD_REDIS_URL",),
        "the URL, or else its parts; the password also goes into a `REDIS_URL` that has none",
        _redis_url,
    ),
    Fallback(
        ("EMAIL_SERVICE", "EMAIL_USER", "EMAIL_PASSWORD", "SENDGRID_API_KEY"),
        ("ARQD_SMTP__HOST", "ARQD_SMTP__PORT", "ARQD_SMTP__TLS", "ARQD_SMTP__USERNAME", "ARQD_SMTP__PASSWORD"),
        "a service by name (`gmail`, `sendgrid` …) or its host, with STARTTLS on port 587; "
        "an API key alone means SendGrid",
        _smtp,
    ),
    Fallback(
        ("EMAIL_FROM",),
        ("ARQD_EMAIL__SENDER",),
        "the sender",
        lambda given: {"ARQD_EMAIL__SENDER": given["EMAIL_FROM"]},
    ),
    *(
        Fallback(
            (name,),
            (f"ARQD_RPC__{network}",),
            f"URL of a node of {network.lower()}",
            lambda given, name=name, network=network: {f"ARQD_RPC__{network}": given[name]},  # type: ignore[misc]
        )
        for name, network in _NODES.items()
    ),
    Fallback(
        ("BULLMQ_CONCURRENCY_EMAIL",),
        ("ARQD_FAMILY__EMAIL__MAX_JOBS",),
        "jobs at the same time in one process",
        lambda given: {"ARQD_FAMILY__EMAIL__MAX_JOBS": given["BULLMQ_CONCURRENCY_EMAIL"]},
    ),
    Fallback(
        ("BULLMQ_CONCURRENCY_IMAGE",),
        ("ARQD_FAMILY__MEDIA__MAX_JOBS",),
        "jobs at the same time in one process",
        lambda given: {"ARQD_FAMILY__MEDIA__MAX_JOBS": given["BULLMQ_CONCURRENCY_IMAGE"]},
    ),
    Fallback(
        ("MAX_FILE_SIZE",),
        ("ARQD_FILES__MAX_SIZE",),
        "the largest upload, bytes",
        lambda given: {"ARQD_FILES__MAX_SIZE": given["MAX_FILE_SIZE"]},
    ),
    Fallback(
        ("ALLOWED_FILE_TYPES",),
        ("ARQD_FILES__TYPES",),
        "the types of uploads that are taken",
        lambda given: {"ARQD_FILES__TYPES": given["ALLOWED_FILE_TYPES"]},
    ),
    Fallback(
        ("QUEUE_CONCURRENCY",),
        ("ARQD_FAMILY__*__MAX_JOBS",),
        "jobs at the same time in one process, for each family",
        lambda given: {"ARQD_FAMILY__*__MAX_JOBS": given["QUEUE_CONCURRENCY"]},
    ),
    Fallback(
        ("BULLMQ_MAX_ATTEMPTS",),
        ("ARQD_FAMILY__*__MAX_TRIES",),
        "total tries, for each family",
        lambda given: {"ARQD_FAMILY__*__MAX_TRIES": given["BULLMQ_MAX_ATTEMPTS"]},
    ),
    Fallback(
        ("BULLMQ_BACKOFF_DELAY",),
        ("ARQD_FAMILY__*__BACKOFF",),
        "milliseconds before the first retry, doubled for each further one up to an hour, for each family",
        lambda given: {"ARQD_FAMILY__*__BACKOFF": f"exponential {_number(given, 'BULLMQ_BACKOFF_DELAY')}ms max 1h"},
    ),
    Fallback(
        ("QUEUE_REMOVE_ON_COMPLETE",),
        ("ARQD_FAMILY__*__KEEP_COMPLETED",),
        "how many completed jobs are kept, for each family",
        lambda given: {"ARQD_FAMILY__*__KEEP_COMPLETED": given["QUEUE_REMOVE_ON_COMPLETE"]},
    ),
    Fallback(
        ("QUEUE_REMOVE_ON_FAIL",),
        ("ARQD_FAMILY__*__KEEP_FAILED_COUNT",),
        "how many dead letters are kept, for each family",
        lambda given: {"ARQD_FAMILY__*__KEEP_FAILED_COUNT": given["QUEUE_REMOVE_ON_FAIL"]},
    ),
    Fallback(
        ("BULL_BOARD_ENABLED",),
        ("ARQD_CONSOLE__ENABLED",),
        "whether there is a console",
        lambda given: {"ARQD_CONSOLE__ENABLED": given["BULL_BOARD_ENABLED"]},
    ),
    Fallback(
        ("BULL_BOARD_PATH",),
        ("ARQD_CONSOLE__BASE_PATH",),
        "the path it is served under",
        lambda given: {"ARQD_CONSOLE__BASE_PATH": given["BULL_BOARD_PATH"]},
    ),
)


def apply_fallbacks(variables: Variables, others: Mapping[str, str], families: Iterable[str]) -> None:
    """Fill in settings that are not given from the names of other systems.

    Args:
        others: what `collect` found of those names.
        families: names of all families, as they stand in variables (upper case).

    Raises:
        ConfigurationError: naming the variable that cannot be understood.
    """
    for row in FALLBACKS:
        given = {name: others[name] for name in row.names if name in others}
        if not given or any(variables.given(name) for name in row.sets):
            continue
        for name, value in row.convert(given).items():
            targets = [name.replace(EVERY_FAMILY, family) for family in families] if EVERY_FAMILY in name else [name]
            for target in targets:
                if not variables.given(target):
                    variables.values[target] = value
                    variables.origin[target] = " and ".join(given)
