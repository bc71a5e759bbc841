"""URLs are read strictly and told safely, and no address hides that it leads inside."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.endpoints import authority, inside, literal, names_this_machine, read, where

HTTP = ("https", "http")


@pytest.mark.parametrize(
    ("url", "host", "port", "again"),
    [
        ("https://hooks.example/x?y=1#z", "hooks.example", None, "https://hooks.example/x?y=1"),
        ("http://[::1]:8080/x", "::1", 8080, "http://[::1]:8080/x"),
        ("http://[2001:DB8:0::1]", "2001:db8::1", None, "http://[2001:db8::1]"),
        ("HTTPS://Hooks.Example:443/X", "hooks.example", 443, "https://hooks.example:443/X"),
        ("https://straße.example/x", "xn--strae-oqa.example", None, "https://xn--strae-oqa.example/x"),
        ("https://my_service:8443/", "my_service", 8443, "https://my_service:8443/"),
        ("https://hooks.example./x", "hooks.example.", None, "https://hooks.example./x"),
        (f"https://{'a' * 63}.example/", f"{'a' * 63}.example", None, f"https://{'a' * 63}.example/"),
        ("http://１２７.0.0.1/", "127.0.0.1", None, "http://127.0.0.1/"),
    ],
)
def test_a_url_is_read_as_what_is_reached(url: str, host: str, port: int | None, again: str) -> None:
    found = read(url, HTTP)
    assert (found.host, found.port, found.url()) == (host, port, again)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://x", "begin with https:// or http://"),
        ("https:x.example", "begin with https:// or http://"),
        ("x.example/s3cret", "begin with https:// or http://"),
        ("", "begin with"),
        ("https://", "names no host"),
        ("https:///s3cret", "names no host"),
        ("https://:443/s3cret", "names no host"),
        ("https://s3cret.example:0/", "port"),
        ("https://s3cret.example:65536/", "port"),
        ("https://s3cret.example:-1/", "port"),
        ("https://s3cret.example:x/", "port"),
        ("https://user:pass/s3cret@x.example/", "port"),
        (f"https://{'a' * 64}.example/s3cret", "has 64 letters; a name's part has at most 63"),
        (f"https://{'ü' * 64}.example/s3cret", "no name that can be looked up"),
        (f"https://{'a.' * 127}example/s3cret", "has 261 letters; a name has at most 253"),
        ("https://a..example/s3cret", "no name"),
        ("https://-a.example/s3cret", "no name"),
        ("https://a%31.example/s3cret", "no name"),
        ("https://xn--a\u0000.example/s3cret", "control characters"),
        ("https://x.example/s3cret\r\nHost: y", "control characters"),
        (" https://x.example/s3cret", "blanks"),
        ("https://x.example\\@y.example/s3cret", "backslash"),
        ("https://[::1/s3cret", "cannot be read"),
        ("https://[::zz]/s3cret", "no IPv6 address|cannot be read"),
        ("https://[fe80::1%25eth0]/s3cret", "no IPv6 address|cannot be read"),
        ("https://☃/s3cret", "no name that can be looked up"),
        ("https://127.1/s3cret", "hides where it leads"),
        ("https://2130706433/s3cret", "hides where it leads"),
        ("https://0x7f000001/s3cret", "hides where it leads"),
        ("https://0177.0.0.1/s3cret", "hides where it leads"),
        ("https://127.0.0.0x1/s3cret", "hides where it leads"),
        ("https://1.2.3.4.5/s3cret", "hides where it leads"),
    ],
)
def test_a_url_that_is_none_is_refused_without_being_shown(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        read(url, HTTP)
    assert "s3cret" not in str(refused.value)
    assert str(refused.value).startswith(("it", "a part of its"))


@given(st.text(max_size=80) | st.from_regex(r"https?://[^/]{0,80}(/.{0,20})?", fullmatch=True))
def test_whatever_is_written_is_read_or_refused(url: str) -> None:
    try:
        found = read(url, HTTP)
    except ValueError:
        return
    assert read(found.url(), HTTP)[:3] == found[:3]


def test_credentials_are_seen_and_not_carried_on() -> None:
    for url in (
        "https://user:pw@x.example/",
        "https://user@x.example/",
        "https://@x.example/",
        "https://:pw@x.example/",
    ):
        found = read(url, HTTP)
        assert found.has_credentials
        assert found.url() == "https://x.example/"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://user:pw@db.example/store", "db.example:5432"),
        ("postgresql://user:pw@[::1]:6000/store", "[::1]:6000"),
        ("postgresql://db1:1,db2:2/store", "its address"),
        ("postgresql://user:12/34@db.example/store", "its address"),
        ("postgresql://user:p/w@db.example/store", "its address"),
        ("postgresql://user:p#w@db.example/store", "its address"),
        ("postgresql://user:1?w@db.example/store", "its address"),
        ("postgresql://[/x", "its address"),
        ("", "its address"),
    ],
)
def test_a_message_names_a_place_and_never_a_piece_of_a_password(url: str, place: str) -> None:
    assert where(url, 5432) == place
    assert "w@" not in where(url, 5432, with_path=True)


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "loopback"), ("127.255.255.254", "loopback"), ("0.0.0.0", "unspecified"), ("0.1.2.3", "unspecified"),
        ("10.1.2.3", "private"), ("172.16.0.1", "private"), ("172.31.255.255", "private"), ("192.168.1.1", "private"),
        ("169.254.169.254", "link-local"), ("100.64.0.1", "carrier"), ("100.100.100.200", "carrier"), ("192.0.0.192", "protocols"),
        ("224.0.0.1", "multicast"), ("239.255.255.250", "multicast"), ("255.255.255.255", "reserved"), ("240.0.0.1", "reserved"),
        ("198.18.0.1", "benchmarks"), ("203.0.113.9", "documentation"), ("168.63.129.16", "cloud"),
        ("::1", "loopback"), ("::", "unspecified"), ("::ffff:127.0.0.1", "loopback"), ("::ffff:169.254.169.254", "link-local"),
        ("::ffff:93.184.216.34", "clothes"), ("::127.0.0.1", "no public"), ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::169.254.169.254", "link-local"), ("64:ff9b:1::1", "no public"), ("2002:7f00:1::", "loopback"),
        ("2002:a00:1::1", "private"), ("fe80::1", "link-local"), ("fd00:ec2::254", "private"), ("fc00::1", "private"),
        ("fec0::1", "private"), ("ff02::1", "multicast"), ("2001::1", "protocols"), ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"), ("::ffff:0:127.0.0.1", "no public"), ("100::1", "no public"), ("5f00::1", "no public"),
        ("4000::1", "no public"),
    ],
)  # fmt: skip
def test_an_address_that_leads_inside_is_known_in_every_disguise(address: str, what: str) -> None:
    assert what in inside(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "172.15.0.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:2800:220:1::1", "2a00::1", "64:ff9b::8.8.8.8", "2002:808:808::1"]
)  # fmt: skip
def test_an_address_of_the_world_is_no_inside(address: str) -> None:
    assert inside(ipaddress.ip_address(address)) == ""


@given(st.ip_addresses(v=4))
def test_nothing_that_python_calls_private_is_called_public(address: ipaddress.IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert inside(address)


@given(st.ip_addresses(v=6))
def test_nothing_of_ipv6_that_python_calls_private_is_called_public(address: ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_link_local or address.is_multicast or address.is_reserved:
        assert inside(address) or address.sixtofour or int(address) >> 32 == 0x64FF9B << 64


def test_names_of_this_machine_are_known() -> None:
    assert [names_this_machine(one) for one in ("localhost", "LOCALHOST.", "a.localhost", "localhost.example")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert authority("::1", 4317) == "[::1]:4317"
    assert literal("x.example") is None
