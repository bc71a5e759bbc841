"""What the program takes from its environment, read once and explicitly.

| variable | meaning | unset |
|---|---|---|
| PILOTHOUSE_KAFKA | `host:port[,host:port]`, then `?security_protocol=…&…` for TLS and SASL | embedded |
| PILOTHOUSE_DATABASE_URL | `postgresql://user:password@host:port/database` | embedded |
| PILOTHOUSE_REDIS_URL | `redis://` or `rediss://` | embedded |
| PILOTHOUSE_OTLP_ENDPOINT | `http(s)://host:4318` or `grpc(s)://host:4317` | nothing is exported |
| PILOTHOUSE_DATA | directory of the embedded servers | /var/lib/pilothouse for root, else ~/.local/share/pilothouse |
| PILOTHOUSE_CACHE | directory of what is fetched once | ~/.cache/pilothouse |
| PILOTHOUSE_TOPIC_PREFIX | precedes every topic's name, for a broker that is shared | nothing |
| PILOTHOUSE_PARTITIONS | partitions of every topic, fixed when they are made | 24 |
| PILOTHOUSE_STEPS | steps on request that workers and replay run besides the others, such as shapes | none |
| PILOTHOUSE_KAFKA_JARS | directory with the jars of Kafka, for machines without a network | fetched into the cache |
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pilothouse.errors import Misuse
from schemas import masking
from schemas.masking import masked
from schemas.topics import PARTITIONS

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

KAFKA_EXAMPLE = "kafka-1:9092,kafka-2:9092?security_protocol=SASL_SSL&sasl_mechanism=SCRAM-SHA-512&sasl_username=pilothouse&sasl_password_env=KAFKA_PASSWORD"
DATABASE_EXAMPLE = "postgresql://pilothouse:PASSWORD@db.example:5432/pilothouse"
REDIS_EXAMPLE = "redis://:PASSWORD@cache.example:6379/0"
OTLP_EXAMPLE = "grpc://collector.example:4317"

_BROKER = re.compile(r"^(\[[0-9A-Fa-f:.]++\]|[^\s:,?/@\[\]]++):(\d{1,5})")


_PLAIN = re.compile(r"[\w .,:\[\]/~+-]{0,200}")


class SettingsError(Misuse, ValueError):
    """A variable of the environment is wrong; the message names it, its value and what would be right."""


class NotConfigured(Misuse):
    """A program was asked for that the environment does not say enough for; the message names the variable."""


class Model(BaseModel):
    """Frozen, refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KafkaSettings(Model):
    """How to reach the brokers."""

    bootstrap: str = Field(description="host:port of one or more brokers, separated by commas")
    security_protocol: SecurityProtocol = Field("PLAINTEXT", description="encryption and authentication")
    sasl_mechanism: SaslMechanism = Field("SCRAM-SHA-512", description="how the password is proven")
    sasl_username: str = Field("", description="name at the brokers, with SASL")
    sasl_password: str = Field("", description="from the variable that sasl_password_env names", repr=False)
    ssl_cafile: Path | None = Field(None, description="PEM file of the authority; the system's are used without it")
    written: str = Field("", description="as PILOTHOUSE_KAFKA says it; the password is not in it")

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> KafkaSettings:
        if self.uses_sasl and not (self.sasl_username and self.sasl_password):
            raise ValueError(f"{self.security_protocol} needs sasl_username and sasl_password_env")
        return self

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    def aiokafka_options(self) -> dict[str, Any]:
        """Keyword arguments that every aiokafka client takes. Reads `ssl_cafile`."""
        options: dict[str, Any] = {"bootstrap_servers": self.bootstrap, "security_protocol": self.security_protocol}
        if self.uses_tls:
            from aiokafka.helpers import create_ssl_context

            options["ssl_context"] = create_ssl_context(cafile=str(self.ssl_cafile) if self.ssl_cafile else None)
        if self.uses_sasl:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password
        return options


class Settings(Model):
    """What is set from outside. A part that is None is embedded (`pilothouse.services.stack`)."""

    kafka: KafkaSettings | None = Field(None, description="the brokers")
    database_url: str | None = Field(None, description="PostgreSQL, with the password", repr=False)
    redis_url: str | None = Field(None, description="Redis or Valkey, with the password", repr=False)
    otlp_endpoint: str | None = Field(None, description="where OTLP is sent; None: nowhere", repr=False)
    otlp_headers: dict[str, str] = Field(default_factory=dict, description="sent with OTLP: authentication", repr=False)
    data_dir: Path = Field(description="directory of the embedded servers")
    cache_dir: Path = Field(description="directory of what is fetched once")
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]*$", description="precedes every topic's name")
    partitions: int = Field(PARTITIONS, ge=1, le=1_000, description="partitions of every topic")
    steps: tuple[str, ...] = Field((), description="steps on request that workers and replay run besides the others")
    kafka_jars_dir: Path | None = Field(None, description="directory with the jars of Kafka; None: they are fetched")


def from_env(environ: Mapping[str, str]) -> Settings:
    """Read the settings; an empty variable counts as unset. Raises SettingsError.

    What is secret in them is taken out of every text of this process, before anything is read that may be wrong.
    """
    for variable in ("PILOTHOUSE_DATABASE_URL", "PILOTHOUSE_REDIS_URL", "PILOTHOUSE_OTLP_ENDPOINT"):
        if "://" in (value := environ.get(variable, "")):
            masking.learn(value)
    home = environ.get("HOME") or str(Path.home())
    return Settings(
        kafka=_kafka(environ),
        database_url=_url(environ, "PILOTHOUSE_DATABASE_URL", ("postgresql", "postgres"), DATABASE_EXAMPLE),
        redis_url=_url(environ, "PILOTHOUSE_REDIS_URL", ("redis", "rediss"), REDIS_EXAMPLE),
        otlp_endpoint=_url(environ, "PILOTHOUSE_OTLP_ENDPOINT", ("http", "https", "grpc", "grpcs"), OTLP_EXAMPLE),
        otlp_headers=_headers(environ),
        data_dir=_directory(environ, "PILOTHOUSE_DATA") or _default_data_dir(home),
        cache_dir=_directory(environ, "PILOTHOUSE_CACHE") or Path(home, ".cache", "pilothouse"),
        topic_prefix=_prefix(environ),
        partitions=_partitions(environ),
        steps=tuple(filter(None, (name.strip() for name in environ.get("PILOTHOUSE_STEPS", "").split(",")))),
        kafka_jars_dir=_directory(environ, "PILOTHOUSE_KAFKA_JARS"),
    )


def kafka_options(settings: Settings) -> dict[str, Any]:
    """aiokafka's arguments. Raises NotConfigured without a broker."""
    if settings.kafka is None:
        raise NotConfigured(
            "PILOTHOUSE_KAFKA is not set, and no `pilothouse up` runs on this machine with the data directory "
            f"{settings.data_dir}: name the brokers, such as kafka-1:9092, or run `pilothouse up`, which brings its own"
        )
    return settings.kafka.aiokafka_options()


def _default_data_dir(home: str) -> Path:
    # PostgreSQL refuses root and runs as another user then, who cannot enter root's home.
    # Not /var/tmp: it is emptied by age.
    return Path("/var/lib/pilothouse") if os.geteuid() == 0 else Path(home, ".local", "share", "pilothouse")


def _kafka(environ: Mapping[str, str]) -> KafkaSettings | None:
    value = environ.get("PILOTHOUSE_KAFKA", "").strip()
    return kafka_of(value, environ) if value else None


def kafka_of(value: str, environ: Mapping[str, str]) -> KafkaSettings:
    """How to reach the brokers, as `PILOTHOUSE_KAFKA` says it. Raises SettingsError. Reads the file of a password."""
    bootstrap, _, query = value.partition("?")
    brokers = [_BROKER.fullmatch(one) for one in bootstrap.split(",")]
    if not all(one and 1 <= int(one[2]) <= 65535 for one in brokers):
        raise _wrong(
            "PILOTHOUSE_KAFKA",
            value,
            "the brokers must be host:port[,host:port], an IPv6 address in brackets",
            KAFKA_EXAMPLE,
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, given in options.items():
        if "password" in name and not name.endswith(("_env", "_file")):
            masking.learn(given)
    if "sasl_password" in options:
        raise _wrong(
            "PILOTHOUSE_KAFKA", value, "name the variable that holds the password in sasl_password_env", KAFKA_EXAMPLE
        )
    if password_variable := options.pop("sasl_password_env", ""):
        if password_variable not in environ:
            raise _wrong("PILOTHOUSE_KAFKA", value, f"the variable {password_variable} is not set", KAFKA_EXAMPLE)
        options["sasl_password"] = environ[password_variable]
    if password_file := options.pop("sasl_password_file", ""):
        try:
            options["sasl_password"] = Path(password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise _wrong(
                "PILOTHOUSE_KAFKA", value, f"{password_file} cannot be read: {reason}", KAFKA_EXAMPLE
            ) from None
    masking.learn(options.get("sasl_password", ""))
    try:
        return KafkaSettings.model_validate({**options, "bootstrap": bootstrap, "written": value})
    except ValidationError as error:
        raise _wrong("PILOTHOUSE_KAFKA", value, _first_problem(error), KAFKA_EXAMPLE) from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False)[0]
    return ": ".join([*(str(part) for part in problem["loc"]), problem["msg"]])


def _url(environ: Mapping[str, str], variable: str, schemes: tuple[str, ...], example: str) -> str | None:
    value = environ.get(variable, "").strip()
    if not value:
        return None
    right = f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # The parser's words quote what it took for a port, which may be a part of the password.
        problem = "Port could not be cast to a whole number; signs such as / # ? @ in a password are percent-encoded"
        raise _wrong_url(variable, value, problem, example) from None
    if parts.scheme not in schemes:
        raise _wrong_url(variable, value, right, example)
    if not host:
        raise _wrong_url(variable, value, "it names no host", example)
    return value


def _wrong_url(variable: str, value: str, problem: str, example: str) -> SettingsError:
    """Of a URL only the scheme is said: anything behind it may be a secret, whatever kind of URL it is."""
    scheme, marked, _ = value.partition("://")
    form = f"of the form {scheme}://..." if marked and scheme.isalnum() else "no URL"
    return SettingsError(f"{variable} is {form}: {problem}; for example {example}")


def _headers(environ: Mapping[str, str]) -> dict[str, str]:
    """As OTEL_EXPORTER_OTLP_HEADERS is written; values percent-encoded. The value stands in no message: it is a secret."""
    pairs = [pair.partition("=") for pair in environ.get("PILOTHOUSE_OTLP_HEADERS", "").split(",") if pair.strip()]
    if any(not name.strip() or not equals for name, equals, _ in pairs):
        raise SettingsError(
            "PILOTHOUSE_OTLP_HEADERS must be name=value[,name=value]; for example authorization=Bearer%20TOKEN"
        )
    found = {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}
    for name, value in found.items():
        if _is_secret(name, value):
            masking.learn(value)
    return found


def _is_secret(name: str, value: str) -> bool:
    """Whether a header's value is secret: by its name, or as long and mixed as a token. A tenant's name is none."""
    is_mixed = len(value) >= 16 and any(one.isdigit() for one in value) and any(one.isupper() for one in value)
    return is_mixed or masked(f"{name}: {value}") != f"{name}: {value}"


def _prefix(environ: Mapping[str, str]) -> str:
    value = environ.get("PILOTHOUSE_TOPIC_PREFIX", "").strip()
    if not re.fullmatch(r"[A-Za-z0-9._-]*", value):
        raise _wrong(
            "PILOTHOUSE_TOPIC_PREFIX", value, "it may hold letters, digits, dot, hyphen and underscore", "team-a."
        )
    return value


def _partitions(environ: Mapping[str, str]) -> int:
    value = environ.get("PILOTHOUSE_PARTITIONS", "").strip() or str(PARTITIONS)
    if not value.isdecimal() or not 1 <= int(value) <= 1_000:
        raise _wrong("PILOTHOUSE_PARTITIONS", value, "it must be a whole number from 1 to 1000", str(PARTITIONS))
    return int(value)


def _directory(environ: Mapping[str, str], variable: str) -> Path | None:
    value = environ.get(variable, "").strip()
    if not value:
        return None
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        raise _wrong(variable, value, "it is not a directory", "/srv/pilothouse")
    return path.absolute()


def _wrong(variable: str, value: str, problem: str, example: str) -> SettingsError:
    """The error of a variable. Its value is said only where it has no sign that credentials have; no options are said."""
    shown = value.partition("?")[0]
    is_plain = "@" not in value and bool(_PLAIN.fullmatch(shown)) and masked(shown) == shown
    shown += "?..." if "?" in value else ""
    said = f"is {shown!r}" if is_plain else "is wrong (it may hold a secret, so it is not shown)"
    return SettingsError(f"{variable} {said}: {problem}; for example {example}")
