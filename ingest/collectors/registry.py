"""The collectors there are. A new one is one file beside this and one line here."""

from __future__ import annotations

from ingest.collector import CollectorKind, by_system

KINDS: tuple[CollectorKind, ...] = ()

COLLECTORS = by_system(KINDS)
