"""`pilothouse check`: every fault of an estate at once, each with its file and line, and no secret in any message."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ingest.collectors.registry import COLLECTORS
from pilothouse import yaml_text
from pilothouse.cli import app
from pilothouse.estate_files import EstateError, load, read
from schemas.estate import secret_in

CELL = "cells: [{name: eu1, tenants: [{name: acme}], resources: [%s]}]\n"
PLAIN = CELL % ""


def check(folder: Path, *arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, ["check", "-c", str(folder), *arguments], env=environ)


def found(folder: Path, **environ: str) -> list[tuple[int | None, str]]:
    """Lines and texts of the faults."""
    answer = json.loads(check(folder, "-o", "json", **environ).stdout)
    assert answer["ok"] == (not answer["faults"])
    return [(one["line"], one["text"]) for one in answer["findings"] if one["level"] == "fault"]


def estate(folder: Path, text: str, name: str = "estate.yaml") -> Path:
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("cells:\n- {name: eu1, tenants: [{name: acme}]}\ncells:\n- {name: eu2, tenants: [{name: acme}]}\n", 3, "twice"),
        (f"{PLAIN}calendars:\n- name: w\n  name: v\n", 4, "the key name stands twice in one mapping, first on line 3"),
        (f"{PLAIN}calendars:\n- name: w\n  time_zone: Europe\n", 4, "'Europe' is no time zone"),
        (f"{PLAIN}calendars:\n- name: w\n  time_zone: ../../etc/passwd\n", 4, "is no time zone"),
        (f"{PLAIN}calendars:\n- name: w\n  shifts: [{{opens: '06:00', closes: 10:00}}]\n", 4, 'in quotes: "10:00"'),
        (f"{PLAIN}calendars:\n- name: w\n  cut_offs: [{{at: 16:00:30}}]\n", 4, 'in quotes: "16:00:30"'),
        (f"{PLAIN}calendars:\n- name: w\n  month_end_days: 010\n", 4, "010 is octal"),
        ("cells:\n- name: eu1\n  tenants:\n  - name: no\n", 4, 'is read as a truth value; write it in quotes: "no"'),
        ("cells:\n- name: eu1\n  tenants:\n  - name: ON\n", 4, 'write it in quotes: "ON"'),
        ("cells:\n- name: eu1\n  tenants:\n  - name: 1e3\n", 4, 'is read as a number; write it in quotes: "1e3"'),
        ("cells:\n- name: eu1\n  tenants:\n  - name: 0x10\n", 4, 'write it in quotes: "0x10"'),
        ("cells:\n- name: eu1\n  tenants:\n  - name:\n", 4, "is empty"),
        ("cells:\n- name: eu1\n  tenants:\n\t- name: a\n", 4, "a tab indents the line"),
        (CELL % "\n  {name: o, system: odoo, url: {env: URL}}", 2, "tenant is missing"),
        (CELL % "\n  {name: r, system: rediss, url: {env: URL}}", 2, "system 'rediss' is unknown; known are host, odoo"),
        (CELL % "\n  {name: r, system: redis, url: {env: URL},\n   options: {queus: []}}", 3, "'queus' is unknown; known are queues"),
        (CELL % "\n  {name: r, system: redis, url: {env: URL},\n   options: {queues: 7}}", 3, "must be a list"),
        (CELL % "\n  {name: h, system: odoo_health, url: {env: URL}}", 2, "begins with redis://; system odoo_health takes https://"),
        (CELL % "\n  {name: r, system: redis, url: 'redis://h:99999'}", 2, "cannot be read"),
        (CELL % "\n  {name: r, system: redis, url: {env: NOWHERE}}", 2, "variable NOWHERE is not set"),
        (CELL % "\n  {name: r, system: redis, url: {file: /nowhere/url}}", 2, "/nowhere/url cannot be read"),
        (CELL % "\n  {name: r, system: redis}", 2, "url is missing"),
        (CELL % "\n  {name: r, system: host, url: 'http://x'}", 2, "takes no url"),
        (f"{PLAIN}receivers:\n- {{name: gitlab, keys: [{{env: URL}}]}}\n", 3, "receiver 'gitlab' is unknown; known are"),
        (f"{PLAIN}receivers:\n- {{name: github, keys: [{{env: NOWHERE}}]}}\n", 3, "variable NOWHERE is not set"),
        (f"{PLAIN}routes:\n- {{name: r, url: 'ftp://x/y'}}\n", 3, "url must be https://host/path"),
        (f"{PLAIN}routes:\n- {{name: r, url: 'https://x/y', secret: {{env: NOWHERE}}}}\n", 3, "NOWHERE is not set"),
        (f"{PLAIN}routes:\n- {{name: r, url: 'https://x/y', cells: [eu9]}}\n", 3, "cell 'eu9' is not declared"),
        (CELL % "\n  {name: a, system: host, depends_on: [b]},\n  {name: b, system: host, depends_on: [a]}", 2, "a -> b -> a"),
        (CELL % "\n  {name: a, system: host,\n   depends_on: [z]}", 3, "depends_on 'z' is no other resource"),
        (f"{PLAIN}# x\n---\ncells:\n- {{name: eu1, tenants: [{{name: b}}]}}\n", 5, "cell 'eu1' is declared 2 times"),
        ("cells: &a\n- {name: eu1, tenants: [*a]}\n", 2, "stands inside its own anchor"),
        ("cells: !!python/object:os.system ls\n", 1, "is not read here"),
        (f"{PLAIN}apiVersion: openslo/v1\n", 2, "holds apiVersion"),
        (f"{PLAIN}---\napiVersion: openslo/v1\nkind: Servic\n", 3, "kind 'Servic' is unknown; known are SLO"),
        (f"{PLAIN}---\napiVersion: openslo/v1\n", 3, "names no kind; known are SLO"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    faults = found(estate(tmp_path, text), URL="redis://h:6379")
    assert any(at == line and says in said for at, said in faults), faults


def test_all_mistakes_are_said_at_once_over_all_files(tmp_path: Path) -> None:
    estate(
        tmp_path, CELL % "{name: r, system: rediss, url: {env: A}}, {name: o, system: odoo, url: {env: B}}", "a.yaml"
    )
    estate(tmp_path, "calendars:\n- {name: w, time_zone: Europe}\n- {name: v, month_end_days: 99}\n", "b.yaml")
    estate(tmp_path, "receivers: [{name: gitlab, keys: [{env: A}]}]\n", "c.yaml")
    estate(tmp_path, "routes: [\n", "d.yaml")
    (tmp_path / "e.yaml").write_bytes(b"routes: []\n# \xff\n")
    said = "\n".join(check(tmp_path).stderr.splitlines())
    for file, text in (
        ("a.yaml:1", "'rediss' is unknown"),
        ("a.yaml:1", "tenant is missing"),
        ("b.yaml:2", "is no time zone"),
        ("b.yaml:3", "less than or equal to 10"),
        ("c.yaml:1", "'gitlab' is unknown"),
        ("c.yaml:1", "A is not set"),
        ("d.yaml:2", "cannot be read as YAML"),
        ("e.yaml:2", "is no UTF-8"),
    ):
        assert any(file in line and text in line for line in said.splitlines()), (file, text, said)


def test_what_only_seems_to_be_missing_is_not_said(tmp_path: Path) -> None:
    """A calendar or a tenant that is declared and wrong is declared; what a broken file declares is not known."""
    estate(
        tmp_path, "cells: [{name: eu1, tenants: [{name: acme, calendar: w}]}]\ncalendars: [{name: w, time_zone: X}]\n"
    )
    assert [text for _, text in found(tmp_path) if "not declared" in text] == []
    estate(tmp_path, "cells: [{name: eu1, tenants: [{name: acme, calendar: w}]}]\n")
    estate(tmp_path, "calendars: [{name: w\n", "other.yaml")
    assert len(found(tmp_path)) == 1


def test_a_bomb_of_aliases_is_refused_and_shared_parts_are_not(tmp_path: Path) -> None:
    names = "abcdefghijklmnop"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in pairwise(names)
    )
    assert any("aliases stand for more than" in text for _, text in found(estate(tmp_path, bomb)))
    shared = (
        "cells:\n- name: eu1\n  tenants: [{name: acme}]\n  resources:\n  - &base {name: a, system: host, interval_s: 30}\n"
        "  - {<<: *base, name: b}\n"
    )
    made = load(estate(tmp_path, shared))
    assert [(one.name, one.interval_s) for one in made.cells[0].resources] == [("a", 30.0), ("b", 30.0)]


def test_deep_nesting_and_long_numbers_are_no_crash(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "{a: " * 3_000, f"a: {'9' * 10_000}", "- " * 5_000, "a: 1e999999"):
        assert check(estate(tmp_path, text)).exit_code == 1


def test_odd_files_are_said_and_links_are_followed_once(tmp_path: Path) -> None:
    folder = tmp_path / "estate"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    estate(folder / ".hidden", "not: an estate\n")
    estate(folder, PLAIN)
    (folder / "sub" / "up").symlink_to("..")
    (folder / "again.yaml").symlink_to("estate.yaml")
    assert [one.name for one in load(folder).cells] == ["eu1"]
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    with (folder / "large.yaml").open("wb") as file:
        file.truncate(5 * 2**20)
    said = check(folder).stderr
    for name in ("loop.yaml", "pipe.yaml", "large.yaml"):
        assert f"{name}: " in said
    with pytest.raises(EstateError, match=r"pipe\.yaml"):
        load(folder)


def test_a_kubernetes_mount_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    estate(tmp_path / "..2026", PLAIN)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "estate.yaml").symlink_to("..data/estate.yaml")
    assert len(load(tmp_path).cells) == 1


def test_an_empty_optional_key_is_left_out(tmp_path: Path) -> None:
    text = (
        "cells:\n- name: eu1\n  environment:\n  tenants: [{name: acme, tier: , database: , calendar: }]\n  resources:\n"
        "  - {name: h, system: host, url: , depends_on: , options: , interval_s: }\ncalendars:\nroutes:\nreceivers:\n"
    )
    made = load(estate(tmp_path, text))
    assert (made.cells[0].environment, made.cells[0].tenants[0].calendar) == ("production", "always")


def test_dates_and_quoted_times_are_what_they_say(tmp_path: Path) -> None:
    text = PLAIN + (
        "calendars:\n- name: w\n  holidays: [2026-12-25, '2026-12-26']\n  shifts: [{opens: 06:00, closes: \"10:00\"}]\n"
        "  maintenance: [{name: 2026-12-01, starts: 2026-12-01T10:00:00Z, ends: 2026-12-01T11:00:00+00:00}]\n"
    )
    made = load(estate(tmp_path, text)).calendars[0]
    assert [day.isoformat() for day in made.holidays] == ["2026-12-25", "2026-12-26"]
    assert (made.shifts[0].opens.hour, made.shifts[0].closes.hour, made.maintenance[0].name) == (6, 10, "2026-12-01")


SECRETS = ["hunter2canary", "whsec_Y2FuYXJ5Y2FuYXJ5", "canary/with#odd?signs@all"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "place",
    [
        "routes: [{name: r, url: 'https://x/y', secret: '%s'}]",
        "routes: [{name: r, url: 'https://x/y?token=%s'}]",
        "routes: [{name: r, url: 'https://x/y?password=%s'}]",
        "routes: [{name: r, url: 'https://%s@x/y'}]",
        "routes: [{name: r, url: ['%s']}]",
        "routes: [{name: r, sercet: '%s', url: 'https://x/y'}]",
        "routes: [{name: r, url: {value: '%s'}}]",
        "routes: [{name: r, url: {env: '%s', file: '%s'}}]",
        "receivers: [{name: github, keys: ['%s']}]",
        "receivers: [{name: github, keys: '%s'}]",
        "receivers: [{name: github, key: '%s', keys: [{env: URL}]}]",
        "cells: [{name: eu2, tenants: [{name: b}], resources: [{name: p, system: postgresql, url: 'postgresql://u:%s@h/d'}]}]",
        "cells: [{name: eu2, tenants: [{name: b}], resources: [{name: p, system: redis, url: 'redis://h?password=%s'}]}]",
        "cells: [{name: eu2, tenants: [{name: b}], resources: [{name: p, system: host, options: {password: '%s'}}]}]",
        "cells: [{name: eu2, tenants: [{name: b}], resources: [{name: p, system: tls, url: 'mysql://u:%s@h'}]}]",
        "secret: '%s'",
        "- '%s'",
        "routes: '%s'",
        "routes: [{secret: '%s'",
        "routes:\n  secret: '%s'\n bad",
    ],
)
def test_no_message_repeats_what_may_be_a_secret(tmp_path: Path, place: str, secret: str) -> None:
    estate(tmp_path, PLAIN)
    estate(tmp_path, place.replace("%s", secret), "more.yaml")
    for form in ((), ("-o", "json")):
        result = check(tmp_path, *form, URL="x" * 20)
        assert result.exit_code == 1 or "https://%s@" in place
        for part in (secret, *secret.replace("/", "@").replace("#", "@").replace("?", "@").split("@")):
            if len(part) > 4:
                assert part not in result.output.lower(), result.output


def test_a_secret_behind_a_reference_is_not_repeated_either(tmp_path: Path) -> None:
    estate(tmp_path, CELL % "{name: a, system: postgresql, url: {env: URL}}, {name: b, system: tls, url: {env: URL}}")
    for url in ("postgresql://u:can/ary#x?@h:port/d", "mysql://u:canary@h/d", "canary", "canary://"):
        result = check(tmp_path, URL=url)
        assert result.exit_code == 1
        assert "can/ary" not in result.output
        assert "canary" not in result.output.replace("begins with canary://", "")


@pytest.mark.parametrize(
    ("url", "holds"),
    [
        ("postgresql://u:p@h/d", True),
        ("postgresql://u:p/a#b?c@h/d", True),
        ("redis://:p@h", True),
        ("https://token@h/x", True),
        ("https://h/x?access_token=x", True),
        ("postgresql://h/d?user=u&password=p", True),
        ("https://h/x#token=x", True),
        ("postgresql://u@h:5432/d", False),
        ("https://h:8443/a@b", False),
        ("rediss://h:6379/0?ssl_cert_reqs=none", False),
        ("https://h/x?page=1&tokens=", False),
        ("unix:///run/redis.sock", False),
    ],
)
def test_a_secret_in_a_url_is_seen(url: str, holds: bool) -> None:
    assert bool(secret_in(url)) == holds


def test_references_need_not_be_there_where_nothing_runs(tmp_path: Path) -> None:
    estate(tmp_path, CELL % "{name: r, system: redis, url: {env: NOWHERE}}")
    assert check(tmp_path).exit_code == 1
    assert check(tmp_path, "--no-references").exit_code == 0


def test_what_is_odd_and_allowed_is_a_warning(tmp_path: Path) -> None:
    text = (
        "cells:\n- name: eu1\n  tenants: [{name: acme}]\n  resources: [{name: h, system: host, interval_s: 2, timeout_s: 9}]\n"
        "- name: eu2\n  tenants: [{name: b}]\n  resources: [{name: h, system: host}]\n- {name: eu3, tenants: [{name: c}]}\n"
        "calendars: [{name: unused}]\n"
    )
    result = check(estate(tmp_path, text))
    assert result.exit_code == 0, result.output
    for says in ("estate.yaml:4: ", "in 2 cells", "has no resources", "no tenant has calendar"):
        assert says in result.stderr
    assert "faults" not in result.stdout


@pytest.mark.parametrize("system", sorted(COLLECTORS))
def test_every_system_refuses_a_url_that_is_none(tmp_path: Path, system: str) -> None:
    resource = f"{{name: x, system: {system}, tenant: acme, url: 'gopher://h/x'}}"
    assert any("url" in text for _, text in found(estate(tmp_path, CELL % resource)))


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.sampled_from(
    ["name", "tenants", "resources", "url", "env", "keys", "system", "options", "kind", "apiVersion"]
)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@given(
    st.dictionaries(
        st.sampled_from(["cells", "calendars", "routes", "receivers", "openslo", "x"]), anything, max_size=4
    )
)
def test_any_shape_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    folder = tmp_path_factory.mktemp("estate")
    result = check(estate(folder, json.dumps(content)), "-o", "json")
    assert result.exit_code in (0, 1), result.exception
    assert json.loads(result.stdout)["ok"] == (result.exit_code == 0)


@given(
    st.text(alphabet=st.characters(max_codepoint=0x2FFF), max_size=60)
    | st.text(alphabet="a:-[]{}&*!|>'\"#%@`,? \n\t0.~<", max_size=60)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    made = yaml_text.read(text)
    assert all(one.line >= 1 for one in made.mistakes)
    assert made.is_whole or made.mistakes


def test_an_estate_of_a_host_is_read_with_its_lines(tmp_path: Path) -> None:
    cells = "".join(
        f"- name: c{number}\n  tenants: [{{name: t{number}}}]\n  resources: [{{name: h, system: host}}]\n"
        for number in range(300)
    )
    made, source = read(estate(tmp_path, f"cells:\n{cells}"))
    assert made is not None
    assert len(made.cells) == 300
    assert source.where(("cells", 299, "name"))[1] == 2 + 299 * 3
