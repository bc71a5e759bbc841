"""`pilothouse check`: an estate against everything that will use it, without a network.

The registries of collectors and receivers say which systems, options and receivers there are; references are looked
up; what the programs would refuse at their start is found here, all at once. Warnings are about what is allowed and odd.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from ingest.app import IngestSettings, ReceiverSettings, configured
from ingest.collector import CollectorKind, Target
from ingest.collectors.registry import COLLECTORS
from ingest.receivers.registry import RECEIVERS
from ingest.references import ConfigurationError, resolve
from pilothouse.estate_files import Finding, Place, Source, read, refused, sentence
from schemas import masking
from schemas.estate import Cell, Estate, Receiver, Reference, Resource, Route
from sinks.alerts_route import checked_key, checked_url

SECRET_MIN = 3
"""Shorter values are not learned: masking them would tear other words apart."""

Found = tuple[Place, str]
"""Where in the estate, and a sentence."""


@dataclass(frozen=True)
class Checked:
    """What a check gave: the estate where nothing is wrong, faults, warnings."""

    estate: Estate | None
    faults: list[Finding]
    warnings: list[Finding]


def check(directory: Path, environ: Mapping[str, str], *, references: bool = True) -> Checked:
    """Look at everything. Without `references`, neither variables nor files need to be there, as on a CI machine.

    Raises EstateError when there is nothing to read.
    """
    estate, source = read(directory)
    findings = list(source.findings)
    if estate is not None:
        look = _Look(estate, source, environ, references)
        findings += [source.find(source.moved(place), text) for place, text in look.faults()]
        findings += [source.find(source.moved(place), text, "warning") for place, text in _warnings(estate)]
    findings = list(dict.fromkeys(findings))
    faults = [one for one in findings if one.level == "fault"]
    warnings = [one for one in findings if one.level == "warning"]
    return Checked(None if faults else estate, _in_order(faults), _in_order(warnings))


def checked(directory: Path, environ: Mapping[str, str]) -> Estate:
    """An estate with which every program starts. Raises EstateError with every fault."""
    found = check(directory, environ)
    if found.estate is None:
        raise refused(found.faults)
    return found.estate


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda one: (one.file, one.line or 0))


@dataclass(frozen=True)
class _Look:
    """One look at an estate, of which some keys may be left out because they are wrong and told already."""

    estate: Estate
    source: Source
    environ: Mapping[str, str]
    references: bool

    def faults(self) -> Iterator[Found]:
        for number, cell in enumerate(self.estate.cells):
            for at, resource in enumerate(cell.resources):
                yield from self._resource(cell, resource, ("cells", number, "resources", at))
        for number, _ in enumerate(self.estate.receivers):
            yield from self._receiver(number)
        for number, _ in enumerate(self.estate.routes):
            yield from self._route(number)

    def _resource(self, cell: Cell, resource: Resource, place: Place) -> Iterator[Found]:
        kind = COLLECTORS.get(resource.system)
        if kind is None:
            yield (*place, "system"), _unknown("system", resource.system, COLLECTORS)
            return
        options = list(self._options(kind, resource, place))
        yield from options
        if kind.needs_tenant and resource.tenant is None and self._is_right(place, "tenant"):
            yield place, f"tenant is missing; a resource of system {kind.system} names the tenant whose it is"
            return
        if not self._is_right(place, "url"):
            return
        told, url = self._value(resource.url, (*place, "url"))
        yield from told
        if url is None:
            return
        where: Place = (*place, "url") if resource.url else place
        wrong = _wrong_url(kind, resource, url)
        if wrong:
            yield where, wrong
        elif not options and self._is_right(place, "options") and self._is_right(place, "tenant"):
            _learn(url)
            try:
                kind.make(Target(cell, resource, url))
            except (ValueError, OSError, ConfigurationError) as error:
                yield where, masking.masked(str(error))

    def _options(self, kind: CollectorKind, resource: Resource, place: Place) -> Iterator[Found]:
        if not self._is_right(place, "options"):
            return
        try:
            kind.options.model_validate(resource.options)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                where = (*place, "options", *item["loc"])
                if item["type"] == "extra_forbidden":
                    name = str(item["loc"][-1])
                    known = kind.options.model_fields if len(item["loc"]) == 1 else {}
                    yield where, _unknown(f"option of system {kind.system}", name, known)
                else:
                    yield where, sentence(self.source, self.source.moved(where), item)

    def _receiver(self, number: int) -> Iterator[Found]:
        receiver, place = self.estate.receivers[number], ("receivers", number)
        kind = RECEIVERS.get(receiver.name)
        if kind is None:
            yield (*place, "name"), _unknown("receiver", receiver.name, RECEIVERS)
        keys = []
        for at, key in enumerate(receiver.keys):
            told, value = self._value(key, (*place, "keys", at))
            yield from told
            keys += [] if value is None else [value]
        if kind and len(keys) == len(receiver.keys):
            _learn(*keys)
            try:
                configured(self._bare(), _ingesting(receiver), self.environ)
            except (ValueError, ConfigurationError) as error:
                yield (*place, "keys"), masking.masked(str(error))

    def _bare(self) -> Estate:
        """The estate without its resources."""
        cells = tuple(cell.model_copy(update={"resources": ()}) for cell in self.estate.cells)
        return self.estate.model_copy(update={"cells": cells})

    def _route(self, number: int) -> Iterator[Found]:
        route, place = self.estate.routes[number], ("routes", number)
        looks: tuple[tuple[str, Callable[[Route, str], object]], ...] = (("url", checked_url), ("secret", checked_key))
        for name, look in looks:
            told, value = self._value(getattr(route, name), (*place, name))
            yield from told
            if value is None or not self._is_right(place, name):
                continue
            _learn(value)
            try:
                look(route, value)
            except ValueError as error:
                yield (*place, name), masking.masked(str(error))

    def _value(self, reference: str | Reference | None, place: Place) -> tuple[list[Found], str | None]:
        """What stands behind a reference, or why it is not known."""
        if isinstance(reference, Reference) and not self.references:
            return [], None
        try:
            return [], resolve(reference, "", self.environ)
        except ConfigurationError as error:
            return [(place, str(error).removeprefix(": "))], None

    def _is_right(self, place: Place, key: str) -> bool:
        """Whether a key is as it stands in the files, or was left out because it is wrong."""
        moved = self.source.moved(place)
        return (*moved, key) not in self.source.left_out


def _ingesting(receiver: Receiver) -> IngestSettings:
    """Ingest with one receiver, which is made and not started."""
    settings = {receiver.name: ReceiverSettings(keys=receiver.keys)}
    return IngestSettings(spool=Path("unused"), kafka={}, receivers=settings)


def _learn(*values: str) -> None:
    """From now on these values, and the passwords in them, are masked in every text."""
    for value in values:
        if len(value) > SECRET_MIN:
            masking.learn(value)
        with suppress(ValueError):
            password = urlsplit(value).password or ""
            masking.learn(password)
            masking.learn(unquote(password))


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"; is it {near[0]}?" if near else ""
    return f"{what} {name!r} is unknown" + (f"; known are {', '.join(names)}" if names else "") + hint


def _wrong_url(kind: CollectorKind, resource: Resource, url: str) -> str:
    """What is wrong with a url, without the url: a secret may stand in it."""
    right = " or ".join(f"{one}://" for one in kind.schemes)
    if not kind.schemes:
        return f"system {kind.system} looks at the machine it runs on and takes no url; leave it out" if url else ""
    if not url:
        has_path = "file" in kind.schemes and resource.options.get("path")
        return "" if has_path else f"url is missing; system {kind.system} takes one that begins with {right}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "the url cannot be read; its host or port is none, or signs in its password are not percent-encoded"
    if "file" in kind.schemes and not parts.scheme and url.startswith("/"):
        return ""
    if parts.scheme not in kind.schemes:
        scheme = f"begins with {parts.scheme}://" if parts.scheme and "://" in url else "has no scheme"
        return f"the url {scheme}; system {kind.system} takes {right}"
    if not host and not {"file", "unix", "postgresql", "postgres"} & {parts.scheme}:
        return "the url names no host"
    return ""


def _warnings(estate: Estate) -> Iterator[Found]:
    used = {tenant.calendar for cell in estate.cells for tenant in cell.tenants}
    for number, calendar in enumerate(estate.calendars):
        if calendar.name not in used:
            yield ("calendars", number), f"no tenant has calendar {calendar.name!r}"
    names = Counter(resource.name for cell in estate.cells for resource in cell.resources)
    for number, cell in enumerate(estate.cells):
        if not cell.resources:
            yield ("cells", number), f"cell {cell.name} has no resources: nothing of it is looked at"
        for at, resource in enumerate(cell.resources):
            yield from _resource_warnings(resource, ("cells", number, "resources", at), names)
    for number, route in enumerate(estate.routes):
        place = ("routes", number)
        if isinstance(route.url, str) and _long_part(route.url):
            yield (
                (*place, "url"),
                f"route {route.name}: the url looks as if it held a secret in its path; write url: {{env: NAME}}",
            )
        if route.secret is None:
            yield place, f"route {route.name} has no secret, so who takes its alerts cannot tell that they are ours"


def _resource_warnings(resource: Resource, place: Place, names: Mapping[str, int]) -> Iterator[Found]:
    if names[resource.name] > 1:
        yield (
            (*place, "name"),
            f"resource {resource.name!r} is in {names[resource.name]} cells; causes name it without its cell",
        )
    if resource.timeout_s > resource.interval_s:
        yield (
            (*place, "timeout_s"),
            f"resource {resource.name}: a look may take {resource.timeout_s:g} s and is due each {resource.interval_s:g} s",
        )
    if len(set(resource.depends_on)) < len(resource.depends_on):
        yield (*place, "depends_on"), f"resource {resource.name}: depends_on names a resource twice"
    for name, value in resource.options.items():
        if name.endswith("_file") and isinstance(value, str) and not Path(value).is_file():
            yield (*place, "options", name), f"resource {resource.name}: there is no file {value} on this machine"


def _long_part(url: str) -> bool:
    parts = urlsplit(url).path.split("/")
    return any(len(one) >= 20 and any(sign.isdigit() for sign in one) and one.isalnum() for one in parts)
