"""Settings: what the environment means, and what is said when it is wrong."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from pilothouse.programs import plan
from pilothouse.settings import SettingsError, from_env, masked

HOME = {"HOME": "/home/ann"}
SASL = "b1:9093,b2:9093?security_protocol=SASL_SSL&sasl_mechanism=PLAIN&sasl_username=ann&sasl_password_env=SECRET"


def test_an_empty_environment_means_everything_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    settings = from_env({**HOME, "PILOTHOUSE_KAFKA": " "})
    assert settings.kafka is None
    assert settings.database_url is settings.redis_url is settings.otlp_endpoint is None
    assert settings.data_dir == Path("/home/ann/.local/share/pilothouse")
    assert settings.cache_dir == Path("/home/ann/.cache/pilothouse")


def test_the_data_directory_of_root_is_not_in_its_closed_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert from_env(HOME).data_dir == Path("/var/lib/pilothouse")


def test_plain_brokers_become_aiokafka_options() -> None:
    kafka = from_env({**HOME, "PILOTHOUSE_KAFKA": "b1:9092,b2:9092"}).kafka
    assert kafka
    assert kafka.aiokafka_options() == {"bootstrap_servers": "b1:9092,b2:9092", "security_protocol": "PLAINTEXT"}


def test_sasl_over_tls_becomes_aiokafka_options() -> None:
    kafka = from_env({**HOME, "PILOTHOUSE_KAFKA": SASL, "SECRET": "s3cret"}).kafka
    assert kafka
    options = kafka.aiokafka_options()
    assert isinstance(options.pop("ssl_context"), ssl.SSLContext)
    assert options == {
        "bootstrap_servers": "b1:9093,b2:9093",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "ann",
        "sasl_plain_password": "s3cret",
    }


@pytest.mark.parametrize("url", ["http://c:4318", "https://c", "grpc://c:4317", "grpcs://c:4317"])
def test_otlp_goes_over_http_or_grpc(url: str) -> None:
    assert from_env({**HOME, "PILOTHOUSE_OTLP_ENDPOINT": url}).otlp_endpoint == url


def test_headers_of_otlp_are_written_as_opentelemetry_writes_them() -> None:
    told = from_env({**HOME, "PILOTHOUSE_OTLP_HEADERS": "Authorization=Bearer%20abc, x-scope=eu"})
    assert told.otlp_headers == {"authorization": "Bearer abc", "x-scope": "eu"}
    assert "abc" not in repr(told)


def test_headers_without_a_name_are_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match="PILOTHOUSE_OTLP_HEADERS must be name=value") as refused:
        from_env({**HOME, "PILOTHOUSE_OTLP_HEADERS": "Bearer s3cret"})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("PILOTHOUSE_KAFKA", "kafka://b1:9092", "must be host:port"),
        ("PILOTHOUSE_KAFKA", "b1", "must be host:port"),
        ("PILOTHOUSE_KAFKA", "::1:9092", "an IPv6 address in brackets"),
        ("PILOTHOUSE_KAFKA", "[::1]", "must be host:port"),
        ("PILOTHOUSE_KAFKA", "b1:99999", "must be host:port"),
        ("PILOTHOUSE_KAFKA", "b1:9092,", "must be host:port"),
        ("PILOTHOUSE_KAFKA", "b1:9092?security_protocol=TLS", "security_protocol: .*'SASL_SSL'"),
        ("PILOTHOUSE_KAFKA", "b1:9092?security_protocl=SSL", "security_protocl: Extra inputs"),
        ("PILOTHOUSE_KAFKA", SASL, "the variable SECRET is not set"),
        ("PILOTHOUSE_KAFKA", "b1:9092?security_protocol=SASL_SSL", "needs sasl_username and sasl_password_env"),
        ("PILOTHOUSE_KAFKA", "b1:9092?sasl_password=x", "in sasl_password_env"),
        ("PILOTHOUSE_DATABASE_URL", "mysql://h/db", "must begin with postgresql://"),
        ("PILOTHOUSE_DATABASE_URL", "postgresql://h:port/db", "Port could not be cast"),
        ("PILOTHOUSE_REDIS_URL", "redis:///0", "names no host"),
        ("PILOTHOUSE_OTLP_ENDPOINT", "collector:4317", "must begin with http://"),
        ("PILOTHOUSE_DATA", __file__, "is not a directory"),
    ],
)
def test_a_wrong_value_is_named_with_the_mend(variable: str, value: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=rf"{variable} is .*{problem}.*; for example "):
        from_env({**HOME, variable: value})


def test_secrets_stay_out_of_messages_and_representations() -> None:
    with pytest.raises(SettingsError) as caught:
        from_env({**HOME, "PILOTHOUSE_DATABASE_URL": "mysql://ann:s3c@ret@h/db"})
    assert "s3c" not in str(caught.value)
    assert "ret@" not in str(caught.value)
    environ = {**HOME, "PILOTHOUSE_KAFKA": SASL, "SECRET": "s3cret", "PILOTHOUSE_REDIS_URL": "redis://:s3cret@h"}
    assert "s3cret" not in repr(from_env(environ))


def test_masking_hides_passwords_only() -> None:
    assert masked("redis://:pw@h:6379/0") == "redis://:***@h:6379/0"
    assert masked("b:1?sasl_password=pw&x=1") == "b:1?sasl_password=***&x=1"
    assert masked("postgresql://h/db") == "postgresql://h/db"


def test_a_worker_runs_the_steps_on_request_that_are_named() -> None:
    named = from_env({"PILOTHOUSE_STEPS": "shapes, "}).steps
    assert set(plan(None, named).by_name) - set(plan(None).by_name) == {"shapes"}
    with pytest.raises(SettingsError, match="'shape'; steps on request are shapes"):
        plan(None, ("shape",))


def test_brokers_may_be_ipv6_addresses() -> None:
    kafka = from_env({**HOME, "PILOTHOUSE_KAFKA": "[::1]:9092,[2001:db8::2]:9093,b3:9092"}).kafka
    assert kafka
    assert kafka.bootstrap == "[::1]:9092,[2001:db8::2]:9093,b3:9092"
