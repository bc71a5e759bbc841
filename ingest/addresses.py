"""Where a target is, read from its url before anybody connects to it. Pure.

Libraries read urls each in its own way, and say what they did not understand with the piece they did not understand, which
may be the password. So a url is read here first, strictly, and an error names the rule that it breaks and never the url.
A password with `/`, `#`, `?` or `@` in it must be percent-encoded: written plainly, each part of the rest means something else.
Source: RFC 3986; RFC 1123 and RFC 5890 (host names).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import SplitResult, unquote, urlsplit

import idna

ENCODE = "In user and password write / as %2F, # as %23, ? as %3F, @ as %40, : as %3A, [ as %5B and % as %25"
MAX_URL = 4_096


@dataclass(frozen=True, slots=True)
class Address:
    """A url that was read. `place` is what may be shown: host and port, without user and password."""

    scheme: str
    host: str
    port: int | None
    user: str
    password: str
    path: str
    query: str

    @property
    def place(self) -> str:
        """Host and port for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def address(url: str, whose: str, form: str, schemes: Collection[str], *, needs_host: bool = True) -> Address:
    """The url's parts. Raises ValueError with `whose`, the broken rule and the `form` that would be right."""
    try:
        return _address(url, schemes, needs_host)
    except ValueError as error:
        raise ValueError(f"{whose}: the url cannot be read: {error}; it must read {form}") from None


def ascii_name(host: str, whose: str) -> str:
    """The host as DNS and TLS carry it: A-labels, lower case, without a trailing dot; an address as it is.

    Raises ValueError naming the host and the rule that it breaks.
    """
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return idna.encode(host.rstrip("."), uts46=True).decode().lower()
    except idna.IDNAError as error:
        if host.isascii() and all(0 < len(label) <= 63 for label in host.rstrip(".").split(".")):
            return host.rstrip(".").lower()  # DNS takes more than IDNA does: an underscore, for one
        raise ValueError(f"{whose} {host[:100]!r} is no host name: {error}; labels have 1 to 63 letters") from None


def _address(url: str, schemes: Collection[str], needs_host: bool) -> Address:
    if not url:
        raise ValueError("it is empty")
    if len(url) > MAX_URL:
        raise ValueError(f"it has {len(url)} characters, at most {MAX_URL} are read")
    if any(character.isspace() or ord(character) < 32 for character in url):
        raise ValueError("a blank or a line break stands in it")
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in schemes:
        raise ValueError(f"its scheme must be one of {', '.join(sorted(schemes))}")
    parts = _split(url)
    host, port = _host_and_port(parts)
    if needs_host and not host:
        raise ValueError("the host is missing")
    return Address(
        scheme=scheme,
        host=host,
        port=port,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        path=unquote(parts.path),
        query=parts.query,
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"brackets stand where none may. {ENCODE}") from None
    # An @ behind the host is the end of a password that was cut by one of its own characters.
    if "@" in parts.path or "@" in parts.query or parts.netloc.count("@") > 1:
        raise ValueError(f"an @ stands behind the host. {ENCODE}")
    if parts.fragment or "#" in url:
        raise ValueError(f"a # stands in it. {ENCODE}")
    return parts


def _host_and_port(parts: SplitResult) -> tuple[str, int | None]:
    return _place(parts.netloc.rpartition("@")[2])


def _place(place: str) -> tuple[str, int | None]:
    if "," in place:  # several servers, as PostgreSQL's clients take them
        for one in place.split(","):
            _place(one)
        return place, None
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else rest
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address must stand in brackets, as [::1]:6379")
        try:
            host = str(IPv6Address(host))
        except ValueError:
            raise ValueError("what stands in brackets is no IPv6 address") from None
    else:
        host, _, port = place.partition(":")
        if ":" in port:
            raise ValueError("more than one : stands after the host; write an IPv6 address in brackets, as [::1]:6379")
        host = _name(unquote(host)) if host else ""
    return host, _port(port) if port else None


def _name(host: str) -> str:
    try:
        return ascii_name(host, "")
    except ValueError:
        # What stands there is not shown: it may be a part of a broken password.
        raise ValueError(f"its host is no host name, whose labels have 1 to 63 letters. {ENCODE}") from None


def _port(port: str) -> int:
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(f"its port is no number from 1 to 65535. {ENCODE}")
    return int(port)
