"""Settings: one model, filled from ``ARQD_`` variables; nested names are joined by ``__``.

    ARQD_REDIS_URL=rediss://user:secret@redis.example:6379/0
    ARQD_FAMILY__EMAIL__MAX_JOBS=20
    ARQD_SMTP__HOST=smtp.example

Only the command line loads them; everything else is handed what it needs. ``python -m daemon.settings --write``
rewrites the tables in the documentation and ``deploy/systemd/arqd.env.example``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, create_model, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.alerts.settings import AlertSettings
from daemon.console.settings import ConsoleSettings
from daemon.dotted import resolve, shipped_families
from daemon.encryption import NO_KEYS, KeyRing
from daemon.environment import PREFIX, Variables, apply_fallbacks, collect, refuse_unknown
from daemon.errors import ConfigurationError, InvalidJob
from daemon.family import FamilyEntry, FamilyValues, Seconds
from daemon.probe.settings import ProbeSettings
from daemon.producing.options import checked_template
from daemon.servers import RedisUrl, Servers
from daemon.telemetry import SentrySettings, TracesSettings

DEFAULT_REDIS_URL = "redis://localhost:6379/0"


class OutboxSettings(BaseModel):
    """The relay of the outbox."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    poll: Seconds = Field(0.5, gt=0, le=3600, description="how often the relay looks for new jobs, seconds")
    lease: Seconds = Field(30, ge=1, le=300, description="another relay takes up what one has had for so long, seconds")


class ArchiveSettings(BaseModel):
    """The dead-letter archive in the database."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Seconds | None = Field(
        None, ge=1, le=86400, description="how often dead letters are archived, `5m`; none: by `arqd dead archive` only"
    )
    keep: Seconds = Field(365 * 86400, ge=0, description="how long the archive keeps one, `365d`; 0: for ever")
    objects: bool = Field(False, description="write what is archived to the object store, too, as NDJSON")


class Settings(BaseSettings):
    """Everything arqd can be told from outside. `load_settings` adds the sections of the families (``email`` …).

    Attributes:
        unset: sections of which nothing is set, to their models.
    """

    unset: ClassVar[Mapping[str, str]] = {}

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    redis_url: SecretStr | None = Field(
        None,
        description="`redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://` (docs/topologies.md); "
        f"default the server of an `arqd up` in the same folder, else `{DEFAULT_REDIS_URL}`",
    )
    families: dict[str, str] = Field(
        default_factory=dict, description='families of your own: `{"name": "package.module:Class"}`'
    )
    family: dict[str, FamilyEntry] = Field(default_factory=dict, description="values of a family")
    templates: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description='presets of job options: `{"report": {"priority": "low", "max_tries": 2}}`'
    )
    heartbeat_file: Path | None = Field(
        None, description="file the worker writes each second and the probe reads; default in the runtime directory"
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="`debug`, `info`, `warning`, `error` or `critical`"
    )
    log_format: Literal["json", "text"] | None = Field(
        None, description="`json` or `text`; default `json`, for `arqd up` `text`"
    )
    probe: ProbeSettings = Field(ProbeSettings(), description="the health sidecar")
    console: ConsoleSettings = Field(ConsoleSettings(), description="the management API and the dashboard")
    traces: TracesSettings = Field(TracesSettings(), description="traces")
    sentry: SentrySettings = Field(SentrySettings(), description="reports of errors")
    alerts: AlertSettings = Field(AlertSettings(), description="alerts")
    var_dir: Path = Field(Path("var"), description="folder of what `arqd up` keeps")
    database_url: SecretStr | None = Field(
        None,
        description="`postgresql://user:password@host/name` or `sqlite:///path`; default `arqd.db` in the var folder",
    )
    object_store_url: str | None = Field(
        None,
        description="where files are kept: `s3://bucket/prefix?endpoint=https://…&region=…` or `file:///folder`; "
        "default the folder `objects` in the var folder",
    )
    rpc: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="URLs of chains' nodes, several behind blanks: `ARQD_RPC__MAINNET`, `ARQD_RPC__137` …",
    )
    outbox: OutboxSettings = Field(OutboxSettings(), description="the relay of the outbox")
    archive: ArchiveSettings = Field(ArchiveSettings(), description="the dead-letter archive")
    encryption_keys: SecretStr | None = Field(
        None,
        description="keys of encrypted families and secret fields, `2026a:<base64>,2025b:<base64>`: the first one "
        "encrypts, all decrypt (docs/encryption.md)",
    )
    env_file: str | None = Field(
        None,
        description="files of `NAME=value` lines for variables that are not set, `:` between them, `-` before one that "
        "may be missing; read again on SIGHUP",
    )
    secrets_dir: Path | None = Field(
        None, description="folder of files named like variables, for secrets; systemd credentials are read as well"
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # load_settings decides where values come from; a Settings(...) of one's own takes its arguments only.
        return (init_settings,)

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("families")
    @classmethod
    def _dotted(cls, families: dict[str, str]) -> dict[str, str]:
        for name, target in families.items():
            module, colon, attribute = target.partition(":")
            if not (module and colon and attribute):
                raise ValueError(f"{name!r} must name a class as 'package.module:Class', not {target!r}")
        return families

    @field_validator("templates")
    @classmethod
    def _known_options(cls, templates: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: _template(name, options) for name, options in templates.items()}

    @property
    def has_database(self) -> bool:
        """Whether a database is named, or the default one was made."""
        return self.database_url is not None or (self.var_dir / "arqd.db").exists()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Importing and building the models of all families takes a command longer than most of what it does.
            if name not in self.unset:
                return super().__getattr__(name)
            model = resolve(self.unset[name])
            try:
                return self.__dict__.setdefault(name, model())
            except ValidationError as error:
                # It has a setting without default.
                raise _refused(error, {known for known, _ in walk(model, f"{PREFIX}{name.upper()}__")}, name) from None

    def section(self, name: str) -> Any:
        """Give the section a family's package brought, e.g. ``smtp``; handlers know its type."""
        return getattr(self, name)

    def keyring(self) -> KeyRing:
        """Give the keys; without any, a ring that encrypts nothing.

        Raises:
            ConfigurationError: for a wrong key, never quoting it, or where the package cryptography is missing.
        """
        if self.encryption_keys is None:
            return NO_KEYS
        try:
            return KeyRing.parse(self.encryption_keys.get_secret_value())
        except ConfigurationError as error:
            raise ConfigurationError(f"{PREFIX}ENCRYPTION_KEYS: {error}") from None

    def servers(self, default: str) -> RedisUrl:
        """Give where each family is; ``default`` is the URL of those that have none of their own."""
        own = {name: entry.redis_url.get_secret_value() for name, entry in self.family.items() if entry.redis_url}
        return Servers(default, own) if own else default

    def overrides(self) -> dict[str, dict[str, Any]]:
        """Give the values that were set for each family; they win over its class."""
        return {
            name: {
                value: getattr(values, value) for value in values.model_fields_set & FamilyValues.model_fields.keys()
            }
            for name, values in self.family.items()
        }


def _template(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Check a template, whose backoff may be text here as a family's may."""
    try:
        if isinstance(backoff := options.get("backoff"), str):
            options = {**options, "backoff": FamilyValues.model_validate({"backoff": backoff}).backoff}
        return {**checked_template(name, options)}
    except ValidationError as error:
        raise ValueError(f"template {name!r}: backoff: {error.errors()[0]['msg']}") from None
    except InvalidJob as error:
        raise ValueError(str(error)) from None


class _Source(EnvSettingsSource):
    """Reads one mapping of names to text in place of the process's environment."""

    def __init__(self, model: type[BaseSettings], values: Mapping[str, str]) -> None:
        self._values = values
        super().__init__(model)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        # An empty value counts as unset everywhere; a family's value can be set to nothing by "none".
        return {
            name.lower(): None if name.startswith(f"{PREFIX}FAMILY__") and value.lower() == "none" else value
            for name, value in self._values.items()
            if value
        }

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Leave text that is not JSON to validation, whose error names the variable."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def load_settings(environ: Mapping[str, str], adopted: Mapping[str, str] | None = None) -> Settings:
    """Build the settings from an environment.

    Args:
        environ: names and values, e.g. ``os.environ``.
        adopted: families that no table names, given on the command line: name to ``module:Class``.

    Returns:
        The settings; ``families`` holds all families, ``family`` what was set for each of them, and every
        section that a family's package brings is an attribute (``settings.smtp``).

    Raises:
        ConfigurationError: one line naming the variable and what it should be; it never quotes a secret.
    """
    variables, others = collect(environ)
    families = {**shipped_families(), **(adopted or {}), **_own_families(variables)}
    spelt = {re.sub(r"\W", "_", name).upper(): name for name in families}
    try:
        _refuse_unknown(variables, settings_model(families, variables.values), spelt)
    except ConfigurationError:
        # What it may have meant is told from all there is.
        _refuse_unknown(variables, settings_model(families), spelt)
    apply_fallbacks(variables, others, spelt)
    settings = _validated(settings_model(families, variables.values), variables)
    family: dict[str, FamilyEntry] = {}
    for written, values in settings.family.items():
        name = written if written in families else spelt.get(written.upper())
        if name is None:
            raise ConfigurationError(f"ARQD_FAMILY: no family {written!r}; known are {', '.join(sorted(families))}")
        family[name] = values
    return settings.model_copy(update={"families": families, "family": family})


def settings_model(families: Mapping[str, str], variables: Iterable[str] | None = None) -> type[Settings]:
    """Give `Settings` with the sections of the families.

    A section is a pydantic model that the top-level package of a family's class names in a table ``SETTINGS``:
    ``{"smtp": "package.module:Model"}``.

    Args:
        variables: those that are set; a section of which none is (`Settings.unset`) is loaded when it is asked for.

    Raises:
        ConfigurationError: when a package cannot be imported or two of them claim a section.
    """
    sections = package_tables("SETTINGS", families)
    for name in sections.keys() & Settings.model_fields.keys():
        raise ConfigurationError(f"{sections[name]}: arqd has a settings section {name!r} of its own")
    chosen = None if variables is None else {name.removeprefix(PREFIX).partition("__")[0].lower() for name in variables}
    models = {name: resolve(target) for name, target in sections.items() if chosen is None or name.lower() in chosen}
    fields: dict[str, Any] = {
        name: (section, Field(default_factory=section, description=(section.__doc__ or "").partition("\n")[0]))
        for name, section in models.items()
    }
    model = create_model("Settings", __base__=Settings, **fields)
    model.unset = {name: target for name, target in sections.items() if name not in models}
    return model


def package_tables(attribute: str, families: Mapping[str, str]) -> dict[str, str]:
    """Merge the tables that the top-level packages of families have under a name, ``SETTINGS`` or ``CHECKS``.

    Raises:
        ConfigurationError: when a package cannot be imported or two of them claim an entry.
    """
    merged: dict[str, str] = {}
    targets = [*shipped_families().values(), *families.values()]
    for package in dict.fromkeys(target.partition(":")[0].partition(".")[0] for target in targets):
        try:
            table: dict[str, str] = resolve(f"{package}:__dict__").get(attribute, {})
        except ConfigurationError as error:
            raise ConfigurationError(
                f"ARQD_FAMILIES: package {package!r} cannot be imported: {error.__cause__}"
            ) from None
        for name, target in table.items():
            if merged.setdefault(name, target) != target:
                raise ConfigurationError(f"{package}.{attribute}: there is {name!r} already, {merged[name]}")
    return merged


def _own_families(variables: Variables) -> dict[str, str]:
    """Read ARQD_FAMILIES first: what else can be set depends on it."""
    name = f"{PREFIX}FAMILIES"
    chosen = {key: value for key, value in variables.values.items() if key == name or key.startswith(f"{name}__")}
    return _validated(Settings, Variables(chosen, variables.origin)).families


def _validated(model: type[Settings], variables: Variables) -> Settings:
    try:
        return model(**_Source(model, variables.values)())
    except ValidationError as error:
        raise _refused(error, {known for known, _ in walk(model)}, told=variables.told) from None


def _refused(
    error: ValidationError, known: set[str], *section: str, told: Callable[[str], str] = str
) -> ConfigurationError:
    """Give the one line for what pydantic says of a model, or of a section."""
    first, *more = error.errors(include_url=False, include_input=False)
    name = told(_variable((*section, *first["loc"]), known))
    also = f" (and {len(more)} more)" if more else ""
    return ConfigurationError(f"{name}: {first['msg'].removeprefix('Value error, ')}{also}")


def _variable(where: tuple[int | str, ...], known: set[str]) -> str:
    """Give the variable of a place in the settings; what lies deeper than variables go is left out."""
    depth = {"family": 3, "families": 2}.get(str(where[0]), 1)
    while len(where) > depth and PREFIX + "__".join(map(str, where[: depth + 1])).upper() in known:
        depth += 1
    return PREFIX + "__".join(str(part) for part in where[:depth] if part != "[key]").upper()


def walk(model: type[BaseModel], prefix: str = PREFIX) -> Iterator[tuple[str, FieldInfo]]:
    """Give each variable of a model and what it sets, sections before what is in them."""
    for name, field in model.model_fields.items():
        yield prefix + name.upper(), field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from walk(field.annotation, f"{prefix}{name.upper()}__")


def _refuse_unknown(variables: Variables, model: type[Settings], families: Iterable[str]) -> None:
    values = [f"{PREFIX}FAMILY__{family}__{value.upper()}" for family in families for value in FamilyEntry.model_fields]
    refuse_unknown(variables, [name for name, _ in walk(model)] + values, _open_names(model))


def _open_names(model: type[Settings]) -> list[str]:
    """Give the variables that hold a dictionary: anything may follow behind ``__``."""
    return [name for name, field in walk(model) if get_origin(field.annotation) is dict and name != f"{PREFIX}FAMILY"]


def main(arguments: list[str]) -> int:
    """Print the table, or with ``--write`` renew what documentation and examples say in the current folder."""
    from daemon.settings_docs import settings_table, write

    if arguments == ["--write"]:
        write()
    else:
        print(settings_table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
