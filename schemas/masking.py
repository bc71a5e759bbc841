"""What must never be read by anybody is taken out of a text here, and only here.

Two things are masked. Secrets that this process has been given (`learn`) go in every form in which they come back: as they
are, percent-encoded, in base64, escaped for JSON, Python, SQL or HTML, cut at the end of a text. What has the shape of a
secret goes whoever wrote it: credentials in URLs, values of `password=` and its kin, headers that carry a key, private
keys, tokens of well-known makers. Whoever writes text that people or machines read (an event, an error, a log line, a
dead letter) passes it through `masked`.

The time that a text takes grows with its length and no faster: every pattern is anchored, possessive or bounded.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
ANYWHERE_LENGTH = 6
"""Secrets of so many characters are replaced anywhere; shorter ones only where no word goes on beside them."""
SHORTEST = 3
"""Shorter ones are nobody's secret, and masking them would make every text unreadable; where they stand in a URL they go."""
CUT_LENGTH = 8
"""So much of the beginning of a secret at the end of a text is masked: the text was cut inside it."""

GRAM = 4
"""Forms are looked up by so many of their first characters, so that many secrets cost a text no more than few."""
FEW_FORMS = 100
"""So many are looked for one by one."""
LABELS_MAX, LABEL_MAX, NAME_MAX = 20_000, 300, 200
"""Labels that are remembered, how long they may be, and how much of a name is looked at."""

_Span = Callable[[str, int], tuple[int, int]]
_known: dict[str, re.Pattern[str] | None] = {}
"""Forms of the secrets, longest first, and for the short ones the pattern that asks for edges."""
_by_gram: dict[str, list[str]] = {}
"""The same forms by how they begin; those that are shorter than a gram under the empty one."""


def learn(secret: str) -> None:
    """From now on `masked` takes this secret out of every text of this process, in whatever form it comes back.

    Of a URL or a connection string it is the password and other credentials that are secret, not the host and the
    database; of a web address without credentials what follows the host.
    """
    forms = {form for part in _parts(secret.strip()) if len(part) >= SHORTEST for form in _forms(part)}
    found = {**_known, **{form: _edged(form) for form in forms}}
    _known.clear()
    _known.update(sorted(found.items(), key=lambda pair: (-len(pair[0]), pair[0])))
    _by_gram.clear()
    for form in _known:
        _by_gram.setdefault(form[:GRAM] if len(form) >= GRAM else "", []).append(form)
    _label.cache_clear()


def masked_bytes(data: bytes) -> bytes:
    """The same of bytes, whether they are text or not: what is no UTF-8 stays as it is."""
    text = data.decode("utf-8", "surrogateescape")
    after = masked(text)
    return data if after == text else after.encode("utf-8", "surrogateescape")


def masked_label(text: str, name: str = "") -> str:
    """The same of a text that comes again and again: the value of a series' attribute of that name."""
    if name and text not in _HARMLESS and says_secret(name[:NAME_MAX]):
        return MASK
    return _label(text) if len(text) <= LABEL_MAX else masked(text)


@lru_cache(LABELS_MAX)
def _label(text: str) -> str:
    return masked(text)


def masked_data(data: Any) -> Any:
    """JSON data with its texts masked, each by itself and by the name that it stands under; its form stays whole."""
    if isinstance(data, str):
        return masked(data)
    if isinstance(data, list | tuple):
        return [masked_data(one) for one in data]
    if isinstance(data, dict):
        return {masked(name) if isinstance(name, str) else name: _under(name, one) for name, one in data.items()}
    return data


def _under(name: Any, value: Any) -> Any:
    """A value of a mapping: a text whose name says secret goes whole."""
    if isinstance(name, str) and isinstance(value, str) and value not in _HARMLESS and says_secret(name[:NAME_MAX]):
        return MASK
    return masked_data(value)


@lru_cache(LABELS_MAX)
def says_secret(name: str) -> bool:
    """Whether what stands under a name is secret by that name alone, such as `smtp.password`."""
    return masked(f"{name}: Q").endswith(f": {MASK}")


def masked(text: str) -> str:
    """The text without the secrets that are known and without what has the shape of one."""
    text = _without_known(text)
    text = _without_private_keys(text)
    text = _without_url_credentials(text)
    lower = text.lower()
    if any(word in lower for word in _HEADER_WORDS):
        text = _without_values(text, _HEADER, _header_value)
    if any(word in lower for word in _KEY_WORDS):
        text = _without_values(text, _KEY, _value)
    for words, shape, put in _TOKENS:
        if any(word in lower for word in words):
            text = shape.sub(put, text)
    return text


# Secrets that are known.


def _parts(secret: str) -> Iterator[str]:
    """What of it is secret by itself."""
    if not secret:
        return
    scheme, marked, rest = secret.partition("://")
    if not marked or not _SCHEME.fullmatch(scheme):
        yield secret
        yield secret.removeprefix("whsec_")
        yield from _header_parts(secret)
        lines = secret.splitlines()
        if len(lines) > 1:
            yield from (line.strip() for line in lines if len(line.strip()) >= 16 and not line.startswith("-----"))
        yield from _named_values(secret)
        return
    yield from _named_values(secret)
    userinfo, at, _host = rest.rpartition("@")
    if at:
        user, colon, password = userinfo.partition(":")
        secrets = [password, f"{user}:{password}"] if colon else [user]
        yield from (form for one in secrets for form in (one, unquote(one)) if form)
    elif scheme.lower().startswith("http"):
        _host, slash, path = rest.partition("/")
        if len(path) >= ANYWHERE_LENGTH:
            yield slash + path
            yield from (part for part in re.split(r"[/?#&=]", path) if len(part) >= 16)


def _header_parts(secret: str) -> Iterator[str]:
    """What is secret of the value of an Authorization header; of Basic also the password by itself."""
    scheme = _AUTH_SCHEME.match(secret)
    if not scheme:
        return
    yield secret[scheme.end() :]
    with suppress(ValueError):
        _, _, password = base64.b64decode(secret[scheme.end() :], validate=True).decode().partition(":")
        if password:
            yield password


def _named_values(text: str) -> Iterator[str]:
    """Values under a name that says secret: of a query, of `key=value` connection strings."""
    for found in _KEY.finditer(text):
        start, end = _value(text, found.end())
        value = text[start:end]
        if value not in _HARMLESS:
            yield value
            yield unquote_plus(value)


def _forms(secret: str) -> set[str]:
    """The ways in which it may be written."""
    raw = secret.encode("utf-8", "surrogatepass")
    percent = {
        quote(secret, safe="", errors="replace"),
        quote(secret, errors="replace"),
        quote_plus(secret, errors="replace"),
    }
    escaped = {
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(raw)[2:-1],
    }
    again = {json.dumps(form)[1:-1] for form in escaped} | {quote(form, safe="", errors="replace") for form in percent}
    quoted = {
        secret.replace("'", "''"),
        secret.replace("\\", "\\\\").replace("'", "\\'"),
        html.escape(secret),
        html.escape(secret, quote=False),
    }
    lower = {_PERCENT.sub(lambda found: found[0].lower(), form) for form in percent}
    forms = {secret, *percent, *lower, *escaped, *again, *quoted}
    if len(raw) >= ANYWHERE_LENGTH:
        forms |= {*_base64(raw), raw.hex(), raw.hex().upper()}
    return {form for form in forms if form and form.strip("*")}


def _base64(raw: bytes) -> Iterator[str]:
    """What of its base64 is the same whatever stands before and behind it; of Basic credentials, say."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        whole = encoded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        if len(whole) >= ANYWHERE_LENGTH:
            yield whole
            yield whole.translate(_URL_SAFE)


def _edged(form: str) -> re.Pattern[str] | None:
    if len(form) >= ANYWHERE_LENGTH:
        return None
    return re.compile(rf"(?<![\w.-]){re.escape(form)}(?![\w-]|\.\w)")


def _without_known(text: str) -> str:
    for form in _candidates(text):
        edged = _known[form]
        if form in text:
            text = text.replace(form, MASK) if edged is None else edged.sub(MASK, text)
        elif len(form) > CUT_LENGTH and not _NAMED.match(form):
            text = _without_beginning(text, form)
    return text


_NAMED = re.compile(r"[^:%]{1,255}(?::|%(?:25)?3[aA])")
"""A form that begins with a user's name: its beginning is no secret, and may be the name of a tenant."""


def _candidates(text: str) -> Iterable[str]:
    """The forms that may stand in the text, longest first."""
    if len(_known) <= FEW_FORMS:
        return _known
    grams = {text[at : at + GRAM] for at in range(len(text) - GRAM + 1)} & _by_gram.keys()
    found = [*_by_gram.get("", ()), *(form for gram in grams for form in _by_gram[gram])]
    return sorted(found, key=lambda form: (-len(form), form))


def _without_beginning(text: str, form: str) -> str:
    """The text without a beginning of `form` at its end, behind which only marks of a cut or a quotation stand."""
    start = text.rfind(form[:CUT_LENGTH], max(0, len(text) - len(form) - 8))
    if start < 0:
        return text
    rest = text[start:]
    seen = rest.rstrip(" '\"`….,;)]}>\n\\")
    return f"{text[:start]}{MASK}{rest[len(seen) :]}" if form.startswith(seen) else text


# Shapes.

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")
_PERCENT = re.compile(r"%[0-9A-F]{2}")
_URL_SAFE = str.maketrans("+/", "-_")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----")
_BLANK = re.compile(r"\s")
_URL_END = re.compile(r"[\s\"'<>`]")
_PORT = re.compile(r"[^:@/]{0,255}(?::[0-9]{1,5})?")
_MAX_BLANKS = 128  # how far a password with a blank in it is looked for

_LONG_NAMES = (
    "passwords?|passwds?|passphrase|passcode|passwort|kennwort|wachtwoord|contrase(?:ñ|n|\\\\u00f1)a|mot[ _]de[ _]passe|senha|pwd"
    "|secrets?|tokens?|api[_ -]?keys?|access[_-]?keys?|private[_-]?keys?|(?:secret|signing|encryption|master|shared|account)[_-]?keys?"
    "|credentials?|session[._-]?(?:id|key)|csrf|jwt"
)
_SHORT_NAMES = r"(?<![A-Za-z0-9])(?:pass|pw|sid|ssh[_-]?key|aws[_-]?key)|(?<!\w)(?:t?otp|pin|auth|sig|signature)"
_SEPARATORS = (
    r"\\{0,3}[\"']?[\])]?\s{0,8}(?:=>|:=|={1,2}|:|%3[dDaA])\s{0,8}"  # password = x, "password": x, ['password'] = x
    r"|\\{0,3}'\s{0,8},\s{0,8}(?=[bru]{0,2}\\{0,3}')"  # ('password', 'x'); in double quotes it is a list of columns
    r"|(?:\s{1,4}(?:is|was))?\s{1,4}(?=\\{0,3}[\"'])"  # password 'x'
    r"|\s{0,4}>(?=[^<\s])"  # <password>x</password>
    r"|\s{1,4}(?=(?=[^\s'\"&<>]{0,64}[0-9])(?=[^\s'\"&<>]{0,64}[a-z])[^\s'\"&<>]{6})"  # password hunter2
    r"|</name>\s{0,8}<value>\s{0,8}(?:<string>)?"  # XML-RPC
)
_KEY = re.compile(
    rf"(?:(?:{_LONG_NAMES})(?:[_-]?(?:key|id|value|hash|plain|new|old|confirm|[0-9]{{1,3}}))?|{_SHORT_NAMES})"
    rf"(?:{_SEPARATORS})"
    rf"|--[a-z_-]{{0,32}}(?:{_LONG_NAMES}|pass)\s{{1,4}}(?=[^\s-])"  # --db_password x
    r"|[?&](?:key|code|hash|sig|h)=",
    re.IGNORECASE,
)
# Nothing that _KEY finds is without one of these.
_KEY_WORDS = (
    "pass", "passe", "kennwort", "wachtwoord", "contrase", "senha", "pwd", "pw", "secret", "token", "key", "credential", "session",
    "csrf", "otp", "jwt", "sid", "pin", "auth", "sig", "cookie", "?code", "&code", "?hash", "&hash", "?h=", "&h=",
)  # fmt: skip
_HEADER = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:proxy-)?authorization|(?:set-)?cookie|api-key|x-[a-z-]{0,30}(?:token|key|secret|auth|signature)[a-z-]{0,12})"
    r"\\{0,3}[\"']?\s{0,4}[:=,]\s{0,4}",
    re.IGNORECASE,
)
_HEADER_WORDS = ("authorization", "cookie", "api-key", "x-")
_AUTH_SCHEME = re.compile(
    r"(?:bearer|basic|digest|token|negotiate|ntlm|apikey|aws4-hmac-sha256)\s{1,4}(?=\S)", re.IGNORECASE
)
_OPENED = re.compile(r"[bBuUrRfF]{0,2}(\\{0,3}[\"'])")
_BARE = re.compile(r"[^\s&<>\"'`]*+")
_IN_QUOTES = {quote: re.compile(rf"(?:[^{quote}\\\n]|\\[^\n]|{quote}{quote})*+") for quote in ("'", '"')}
_PROSE = frozenset(
    (
        "a",
        "an",
        "and",
        "are",
        "by",
        "does",
        "from",
        "has",
        "in",
        "is",
        "it",
        "its",
        "must",
        "of",
        "or",
        "the",
        "they",
        "to",
        "was",
    )
)
"""Words with which a sentence goes on behind a name and a colon; nobody's secret."""
_HARMLESS = _PROSE | {
    "",
    "None",
    "none",
    "null",
    "True",
    "False",
    "true",
    "false",
    "?",
    "%s",
    "$1",
    "{}",
    "[]",
    "()",
    MASK,
}

_TOKENS = (
    (("bearer",), re.compile(r"\b(bearer\s{1,8})(?!(?:tokens?|auth\w{0,20}|realm|error|scheme|is|was|not)\b)[\w.~+/=-]{6,}+", re.IGNORECASE), rf"\1{MASK}"),
    (("basic",), re.compile(r"\b((?i:basic)\s{1,8})(?=[A-Za-z0-9+/]{0,400}(?:[0-9=]|[a-z][A-Z]))[A-Za-z0-9+/_-]{8,}+={0,2}"), rf"\1{MASK}"),
    (("whsec_",), re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]++"), f"whsec_{MASK}"),
    (("eyj",), re.compile(r"\beyJ[A-Za-z0-9_-]{6,}+(?:\.[A-Za-z0-9_-]*+){0,4}"), MASK),
    (("akia", "asia", "abia", "acca", "agpa", "aida", "aroa"), re.compile(r"\b(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA)[A-Z0-9]{12,}+"), MASK),
    (("gh", "github_pat_", "gl", "npm_", "pypi-", "dop_v1_", "shp", "hf_", "dckr_pat_"), re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|gldt-|glrt-|npm_|pypi-|dop_v1_|shpat_|shpss_|hf_|dckr_pat_)[A-Za-z0-9_-]{10,}+"), MASK),
    (("xox", "xapp-"), re.compile(r"\b(?:xox[a-z]|xapp)-[A-Za-z0-9-]{6,}+"), MASK),
    (("sk", "pk", "rk"), re.compile(r"\b(?:sk|pk|rk)[_-](?:live|test|proj|ant)[_-][A-Za-z0-9_-]{8,}+|\bsk-[A-Za-z0-9_-]{20,}+"), MASK),
    (("aiza", "ya29.", "sg."), re.compile(r"\bAIza[A-Za-z0-9_-]{30,}+|\bya29\.[A-Za-z0-9._-]{10,}+|\bSG\.[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]++"), MASK),
    ((":aa",), re.compile(r"\b([0-9]{6,12}:)AA[A-Za-z0-9_-]{30,}+"), rf"\1{MASK}"),
    (("hooks.slack.com", ".com/api/webhooks/", ".webhook.office.com/"), re.compile(r"(hooks\.slack\.com/(?:services|workflows|triggers)/|(?:discord|discordapp)\.com/api/webhooks/|\.webhook\.office\.com/)[^\s\"'<>]++"), rf"\1{MASK}"),
)  # fmt: skip
"""Tokens that say by themselves what they are. No text has one without one of the words, in lower case; what is put in its place."""


def _without_private_keys(text: str) -> str:
    if "PRIVATE KEY" not in text:
        return text
    kept: list[str] = []
    position = 0
    while found := _PRIVATE_KEY.search(text, position):
        end = text.find("-----END", found.end())
        close = text.find("-----", end + 8) if end >= 0 else -1
        kept += [text[position : found.start()], MASK]
        # A key whose end is missing was cut: all of the rest may be of it.
        position = len(text) if end < 0 else end + 8 if close < 0 else close + 5
    return "".join(kept) + text[position:]


def _without_url_credentials(text: str) -> str:
    kept: list[str] = []
    position = 0
    while (mark := text.find("://", position)) >= 0:
        start = mark + 3
        end, at = _userinfo(text, start, is_web=_is_web(text, mark))
        if at < 0:
            kept.append(text[position:end])
        else:
            user, colon, _ = text[start:at].partition(":")
            # A name alone is none of our business unless it is as long as a token.
            shown = f"{user}:{MASK}" if colon else MASK if len(user) >= 16 else user
            kept.append(text[position:start] + shown)
        position = end if at < 0 else at
    return "".join(kept) + text[position:]


def _is_web(text: str, mark: int) -> bool:
    return text[max(0, mark - 5) : mark].lower().endswith(("http", "https", "ws", "wss"))


def _userinfo(text: str, start: int, *, is_web: bool) -> tuple[int, int]:
    """Where the URL ends, and the @ that ends its credentials, -1 without any.

    A password may hold / # ? and @ unescaped, so they go on to the last @. A web address with a port is no such case:
    an @ in its path or query is an address. In other URLs a password may also hold quotes or, within a line, a blank.
    """
    found = (_URL_END if is_web else _BLANK).search(text, start)
    end = found.start() if found else len(text)
    at = text.rfind("@", start, end)
    host = _PORT.match(text, start, end)
    is_host = host is not None and (host.end() == end or text[host.end()] in "/?#\"'<>,;)]}")
    if is_web and is_host and at >= 0 and "@" not in text[start : _first(text, "/?#", start, end)]:
        return end, -1
    if at < 0 and not is_web and not is_host and ":" in text[start:end]:
        line = text.find("\n", end)
        at = text.rfind("@", end, min(end + _MAX_BLANKS, len(text) if line < 0 else line))
        return max(end, at), at
    return end, at


def _first(text: str, characters: str, start: int, end: int) -> int:
    """Where the first of the characters stands, `end` where none does."""
    return min((at for one in characters if (at := text.find(one, start, end)) >= 0), default=end)


def _without_values(text: str, named: re.Pattern[str], value: _Span) -> str:
    kept: list[str] = []
    position = 0
    while found := named.search(text, position):
        start, end = value(text, found.end())
        shown = text[start:end] if text[start:end] in _HARMLESS else MASK
        kept += [text[position:start], shown]
        position = max(end, found.end())
    return "".join(kept) + text[position:]


def _value(text: str, start: int) -> tuple[int, int]:
    """Where the value that begins at `start` lies; a quoted one without its quotes."""
    opened = _OPENED.match(text, start)
    if opened:
        return opened.end(), _closed(text, opened.end(), opened[1])
    if text[start : start + 1] in {"(", "[", "{"} and text[start : start + 2] not in _HARMLESS:
        return start, _line_end(text, start)
    if scheme := _AUTH_SCHEME.match(text, start):
        start = scheme.end()
    bare = _BARE.match(text, start)
    end = bare.end() if bare else start
    return start, start + len(text[start:end].rstrip(",;)]}"))


def _header_value(text: str, start: int) -> tuple[int, int]:
    """As `_value`, but a header that is not quoted goes to the end of its line, and the scheme may be seen."""
    opened = _OPENED.match(text, start)
    word = _BARE.match(text, start)
    if word and word[0] in _PROSE:
        return start, word.end()
    start, end = (opened.end(), _closed(text, opened.end(), opened[1])) if opened else (start, _line_end(text, start))
    scheme = _AUTH_SCHEME.match(text, start, end)
    return (scheme.end() if scheme else start), end


def _closed(text: str, start: int, quote: str) -> int:
    """Where the quotation ends that was opened before `start`: at the end of the line if it is not closed."""
    if len(quote) > 1:
        end = text.find(quote, start)
        return min(end, _line_end(text, start)) if end >= 0 else _line_end(text, start)
    inside = _IN_QUOTES[quote].match(text, start)
    return inside.end() if inside else start


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end
