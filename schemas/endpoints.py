"""URLs of systems: read strictly, told safely, and whether the place behind an address is somebody's inside.

No message holds the URL or a part of it that may be a secret (user, path, query). Pure: names are looked up by whoever connects.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit

import idna

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HOST_LETTERS_MAX = 253
LABEL_LETTERS_MAX = 63
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


class Endpoint(NamedTuple):
    """Where a URL leads. `host` is a name in ASCII or an address without brackets; `port` is None where none is written."""

    scheme: str
    host: str
    port: int | None
    path: str
    query: str
    has_credentials: bool

    @property
    def address(self) -> Address | None:
        """The address that stands in place of a name."""
        return literal(self.host)

    def url(self) -> str:
        """The URL again, without credentials and fragment."""
        netloc = bracketed(self.host) if self.port is None else authority(self.host, self.port)
        return urlunsplit((self.scheme, netloc, self.path, self.query, ""))


def read(url: str, schemes: Collection[str]) -> Endpoint:
    """Read a URL that begins with one of the schemes. Raises ValueError that says what it should be, beginning with "it"."""
    if any(ord(letter) <= 0x20 or 0x7F <= ord(letter) <= 0x9F for letter in url):
        raise ValueError("it holds blanks or control characters; percent-encode them")
    if "\\" in url:
        raise ValueError("it holds a backslash, which programs read differently; percent-encode it")
    begins = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(url)
        host, has_credentials = parts.hostname or "", parts.username is not None
    except ValueError:
        raise ValueError(f"it cannot be read as a URL; it must be {begins}HOST[:PORT]") from None
    if parts.scheme not in schemes or not url[len(parts.scheme) :].startswith("://"):
        raise ValueError(f"it must begin with {begins}")
    if not host:
        raise ValueError("it names no host")
    return Endpoint(parts.scheme, _host(host), _port(parts), parts.path, parts.query, has_credentials)


def _port(parts: SplitResult) -> int | None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("its port must be a number from 1 to 65535")
    return port


def _host(host: str) -> str:
    """The host as it is looked up. Raises ValueError."""
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address("" if "%" in host else host))
        except ValueError:
            raise ValueError("its host is no IPv6 address; write it as [2001:db8::1], without a zone") from None
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            raise ValueError("its host is no name that can be looked up (IDNA 2008)") from None
    labels = host.removesuffix(".").split(".")
    if long := [one for one in labels if len(one) > LABEL_LETTERS_MAX]:
        raise ValueError(
            f"a part of its host has {len(long[0])} letters; a name's part has at most {LABEL_LETTERS_MAX}"
        )
    if len(host) > HOST_LETTERS_MAX:
        raise ValueError(f"its host has {len(host)} letters; a name has at most {HOST_LETTERS_MAX}")
    if not all(_LABEL.fullmatch(one) for one in labels):
        raise ValueError("its host is no name: letters, digits and hyphens, parted by single dots")
    # Looked up, 127.1 and 0x7f000001 are 127.0.0.1: what is written must be what is reached.
    if _NUMBER.fullmatch(labels[-1]) and literal(host) is None:
        raise ValueError("its host is an address in a form that hides where it leads; write four numbers from 0 to 255")
    return host


def literal(host: str) -> Address | None:
    """The address that a host is written as; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def bracketed(host: str) -> str:
    """The host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def authority(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"{bracketed(host)}:{port}"


def where(url: str, port: int, *, with_path: bool = False) -> str:
    """HOST:PORT of a URL for a message; never anything of a URL that cannot be read for sure, which may be a password.

    A path is a database's name or a secret, so it is shown only where that is asked for.
    """
    try:
        parts = urlsplit(url)
        host, written = parts.hostname, parts.port
    except ValueError:
        return "its address"
    # An unescaped slash in a password ends the host for every reader of URLs: then what stands before it is no host.
    if not host or "@" in url.partition("://")[2].partition(parts.netloc)[2]:
        return "its address"
    return authority(host, written or port) + (parts.path if with_path else "")


# Whose inside an address is. Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its updates),
# RFC 6052 (NAT64), RFC 3056 (6to4); the last IPv4 entry is a cloud's own service for its machines.
INSIDE_V4 = tuple(
    (ipaddress.IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "an address behind a carrier's NAT"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "an address of protocols"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "a relay's address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("168.63.129.16/32", "a cloud's own address"),
    )
)
OUTSIDE_V6 = ipaddress.IPv6Network("2000::/3")
"""Global unicast: everything else in IPv6 is somebody's inside, or nobody's."""
INSIDE_V6 = tuple(
    (ipaddress.IPv6Network(network), what)
    for network, what in (
        ("::1/128", "a loopback address"),
        ("::/128", "an unspecified address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("fc00::/7", "a private address"),
        ("ff00::/8", "a multicast address"),
        ("2001::/23", "an address of protocols"),
        ("2001:db8::/32", "an address for documentation"),
        ("3fff::/20", "an address for documentation"),
    )
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def inside(address: Address) -> str:
    """What an address is that does not lead out into the world, such as "a private address"; empty for one that does."""
    if isinstance(address, ipaddress.IPv4Address):
        return next((what for network, what in INSIDE_V4 if address in network), "")
    if address in NAT64:
        return inside(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.ipv4_mapped is not None:
        # A socket takes ::ffff:10.0.0.1 for 10.0.0.1. Nobody outside is written so.
        return inside(address.ipv4_mapped) or "an IPv4 address in IPv6's clothes"
    if address.sixtofour is not None:
        return inside(address.sixtofour)
    what = next((what for network, what in INSIDE_V6 if address in network), "")
    return what or ("" if address in OUTSIDE_V6 else "an address of no public network")


def names_this_machine(host: str) -> bool:
    """Whether a name is this machine's by definition (RFC 6761)."""
    name = host.removesuffix(".").lower()
    return name == "localhost" or name.endswith(".localhost")
