"""The store: TimescaleDB where it is installed, PostgreSQL 15 or newer where it is not."""

from sinks.timescale.sink import TOPICS, Config, Timescale

__all__ = ["TOPICS", "Config", "Timescale"]
