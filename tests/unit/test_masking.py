"""No secret is read in a text that has passed `masked`, and what is no secret stays readable."""

from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import masking
from schemas.masking import MASK, learn, masked

CANARY = "k4Nary-Pa5s"


SHAPES = [
    f"postgresql://odoo:{CANARY}@db.example.com:5432/acme refused",
    f"postgresql://odoo:a/b#c?{CANARY}@db/acme",
    f"postgresql://odoo:a@{CANARY}@db/acme",
    f"postgresql://odoo:my {CANARY}@db/acme",
    f"postgresql://odoo:\"{CANARY}'@db/acme",
    f"redis://:{CANARY}@cache:6379/0",
    f"rediss://default:{CANARY}@[::1]:6379",
    f"amqp://u:{CANARY}@mq/v and redis://h/0",
    f"https://user:{CANARY}@example.com/path?x=1",
    f"https://u:a/{CANARY}@example.com",
    "https://k4NaryPa5sIsATokenByItself@github.com/x.git",
    f"b:1?sasl_password={CANARY}&x=1",
    f"host=db password={CANARY} user=odoo",
    f"host=db password='it''s {CANARY}' user=odoo",
    f"host=db password='it\\'s {CANARY}' user=odoo",
    f"password: {CANARY}",
    f"PASSWORD = {CANARY}",
    f"password={CANARY[:5]};x,{CANARY[5:]}",
    f"{{'password': '{CANARY}'}}",
    f"{{'password': b'{CANARY}'}}",
    f'{{"password": "a\\"{CANARY}"}}',
    json.dumps({"body": json.dumps({"password": CANARY})}),
    json.dumps(json.dumps({"body": json.dumps({"password": CANARY})})),
    f"('password', '{CANARY}')",
    f"options['password'] = {CANARY}",
    f"<password>{CANARY}</password>",
    f"<name>password</name><value><string>{CANARY}</string></value>",
    f"ALTER ROLE odoo PASSWORD '{CANARY}'",
    f"CREATE USER x WITH ENCRYPTED PASSWORD '{CANARY}'",
    f"login with password {CANARY}",
    f"the password is '{CANARY}'",
    f"--db_password {CANARY} --workers 2",
    f"--db_password={CANARY}",
    f"ODOO_DB_PASSWORD={CANARY}",
    f"smtp_pass={CANARY}",
    f"smtp_pass: '{CANARY}'",
    f"admin_passwd = {CANARY}",
    f"newPassword={CANARY}",
    f"Passwort: {CANARY}",
    f"mot de passe : {CANARY}",
    f"api_key={CANARY}",
    f"apikey: {CANARY}",
    f"API-Key={CANARY}",
    f"aws_secret_access_key = {CANARY}",
    f"client_secret={CANARY}&grant_type=x",
    f"client_secret%3D{CANARY}",
    f"credentials: {CANARY}",
    f"auth=('odoo', '{CANARY}')",
    f"session_id={CANARY}; frontend_lang=en_US",
    f"session_id '{CANARY}' expired",
    f"sid={CANARY}",
    f"totp_secret: {CANARY}",
    f"GET /web/reset_password?db=acme&token={CANARY} HTTP/1.1",
    f"GET /my/orders/12?access_token={CANARY}&x=1",
    f"GET /oauth?code={CANARY}&state=1",
    f"Authorization: Bearer {CANARY}",
    f"Authorization: {CANARY}",
    f"authorization: Basic {CANARY}",
    f"{{'Authorization': 'Bearer {CANARY}', 'Host': 'h'}}",
    f"-H 'Authorization: token {CANARY}'",
    f"Proxy-Authorization: Basic {CANARY}",
    f"Cookie: frontend_lang=en; session_id={CANARY}",
    f"Set-Cookie: session_id={CANARY}; HttpOnly",
    f"X-Api-Key: {CANARY} and more {CANARY}",
    f"X-Gitlab-Token: {CANARY}",
    f"api-key: {CANARY}",
    f"Bearer {CANARY}",
    "Basic azROYXJ5LVBhNXM6eA==",
    "token eyJhbGciOiJIUzI1NiJ9.eyJrNE5hcnkiOiJrNE5hcnkifQ.k4NaryPa5s",
    "AKIAK4NARYPA5SK4NARY",
    "ghp_k4NaryPa5sk4NaryPa5sk4NaryPa5s",
    "github_pat_k4NaryPa5sk4NaryPa5s",
    "glpat-k4NaryPa5sk4NaryPa5s",
    "xoxb-12345-k4NaryPa5s",
    "whsec_k4NaryPa5s",
    "sk_live_k4NaryPa5s",
    "https://hooks.slack.com/services/T0/B0/k4NaryPa5s",
    "-----BEGIN RSA PRIVATE KEY-----\nk4NaryPa5s\nk4NaryPa5s\n-----END RSA PRIVATE KEY-----\n",
    "-----BEGIN PRIVATE KEY-----\\nk4NaryPa5s",
]


@pytest.mark.parametrize("text", SHAPES)
def test_what_has_the_shape_of_a_secret_is_masked(text: str) -> None:
    shown = masked(f"before {text}\nafter")
    folded = shown.lower().replace("-", "")
    assert "nary" not in folded
    assert "pa5s" not in folded
    assert "azroyxj5" not in folded
    assert shown.startswith("before ")
    assert MASK in shown
    assert masked(shown) == shown


READABLE = [
    "could not connect to postgresql://db.example.com:5432/acme: connection refused",
    "redis://cache:6379/0 is away, ask ops@example.com",
    "http://127.0.0.1:8069/web/health?mail=a@b.example answered 503",
    '{"url":"https://example.com/x","mail":"a@b.example"}',
    'password authentication failed for user "odoo"',
    "The password must have 12 characters",
    "Invalid token",
    "KeyError: 'password'",
    "{'password': None, 'token': False}",
    "password = ?",
    "basic information on the Basic plan",
    "Bearer token missing",
    "token_type is unknown",
    "Session expired",
    "Job 'Base: Auto-vacuum internal data' (1) done in 0.420s",
    "commit 866a7273867732c73243db7b246bb0f0c8abe096 was deployed",
    "job 016d3f8e-8670-4304-a3f6-554f5b1ae897 was queued again",
    "Module sale loaded in 0.74s, 799 queries (+799 other)",
    "authors: a, b",
    "the pinned version: 3",
    "Signature check of GitHub's delivery failed",
]


@pytest.mark.parametrize("text", READABLE)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:secret@example.com/path", "https://u:***@example.com/path"),
        ("Authorization: Bearer abcdef", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic eHg6eXk=', 'Host': 'h'}", "{'Authorization': 'Basic ***', 'Host': 'h'}"),
        ("host=db password='a b' user=x", "host=db password='***' user=x"),
        ('{"token": "abc", "id": 7}', '{"token": "***", "id": 7}'),
    ],
)
def test_only_the_secret_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


SECRET = "pä/ß w0rd'\"\\&<%+=x"


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        quote_plus(SECRET),
        quote(quote(SECRET, safe=""), safe=""),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        json.dumps(json.dumps(SECRET)),
        repr(SECRET),
        repr(SECRET.encode()),
        html.escape(SECRET),
        SECRET.replace("'", "''"),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(b"odoo:" + SECRET.encode()).decode(),
        base64.b64encode(b"user:" + SECRET.encode() + b":x").decode(),
        base64.urlsafe_b64encode(b"us:" + SECRET.encode()).decode(),
        SECRET.encode().hex(),
    ],
)
def test_a_known_secret_is_masked_in_every_form(form: str) -> None:
    learn(SECRET)
    shown = masked(f"before <{form}> after")
    assert form.strip("\"'") not in shown
    assert "w0rd" not in shown
    # Of base64 the characters stay that hang on what stands beside the secret.
    assert len(shown) <= len("before <> after") + len(MASK) + 14
    assert shown.startswith("before <")
    assert shown.endswith("> after")


def test_the_password_of_a_known_url_is_known_by_itself() -> None:
    learn("postgresql://odoo:S3cr%2Ft%23x@db:5432/acme?sslpassword=An0ther")
    assert masked("S3cr/t#x and S3cr%2Ft%23x and An0ther") == "*** and *** and ***"
    assert masked("db:5432/acme") == "db:5432/acme"


def test_the_password_of_a_known_connection_string_is_known_by_itself() -> None:
    learn("host=db user=odoo password='S3cr t'")
    assert masked("S3cr t is wrong") == "*** is wrong"


def test_the_path_of_a_known_web_address_is_known_by_itself() -> None:
    learn("https://hooks.example.com/T0/B0/abcdefghijklmnopqrst")
    assert masked("POST https://hooks.example.com/T0/B0/abcdefghijklmnopqrst") == "POST https://hooks.example.com***"
    assert masked("abcdefghijklmnopqrst") == MASK


def test_a_short_secret_is_masked_as_a_word_only() -> None:
    learn("odoo")
    assert (
        masked("odoo.service of odoo-log says odoo, (odoo) and odoo.")
        == "odoo.service of odoo-log says ***, (***) and ***."
    )


def test_a_known_secret_that_was_cut_is_masked() -> None:
    learn("S3cr3tThatIsLong")
    assert masked("got 'S3cr3tThatI'") == "got '***'"
    assert masked("got S3cr3tTha…") == "got ***…"


def test_the_lines_of_a_known_key_are_known_by_themselves() -> None:
    learn("-----BEGIN X-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END X-----")
    assert masked("line MIIEvQIBADANBgkqhkiG9w0 is wrong") == "line *** is wrong"


@given(st.text(max_size=80), st.text(min_size=6, max_size=20).filter(lambda text: text.strip() and text.strip(" *")))
def test_no_text_brings_a_known_secret_back(text: str, secret: str) -> None:
    learn(secret)
    if len(secret.strip()) >= masking.ANYWHERE_LENGTH:
        assert secret.strip() not in masked(f"{text}{secret}{text}")
    masking._known.clear()
    masking._by_gram.clear()


@given(
    st.lists(
        st.sampled_from([*"a1 :=/@'\"\\\n-_.?&<>,;", "://", "password", "token=", "Bearer ", "Cookie:", "-----BEGIN"])
    )
)
def test_masking_twice_changes_nothing_more(pieces: list[str]) -> None:
    once = masked("".join(pieces))
    assert masked(once) == once


@pytest.mark.parametrize(
    "pump",
    ["a://", "a:", "password", "password:", "password='", 'x-', "x-token", "Authorization: ", "eyJ", "eyJaaaaaa.", "basic ",
     "bearer ", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "://a:b@", "://a:b", "sk-", "SG.", "a", "=", "'", "\\", "<", "1:"],
)  # fmt: skip
def test_the_time_grows_with_the_length_and_no_faster(pump: str) -> None:
    def time_s(length: int) -> float:
        text = pump * (length // len(pump))
        taken = []
        for _ in range(3):
            started = time.thread_time()
            masked(text)
            taken.append(time.thread_time() - started)
        return min(taken)

    short, long = time_s(10_000), time_s(40_000)
    assert long < 0.01 or long < 8 * short


def test_a_name_that_begins_a_user_is_no_cut_secret() -> None:
    learn("postgresql://borealis_reader:IUOMB81oZLoG5LL8obCJbA@127.0.0.1/borealis")
    assert masked("borealis") == "borealis"
    assert "IUOMB81o" not in masked("could not connect as borealis_reader:IUOMB81oZLo")
