"""SQL texts without their literals, so that no customer's data leaves the observed system.

A parser would refuse what PostgreSQL shows: `pg_stat_activity` cuts texts at `track_activity_query_size`, often inside a
literal. So the text is read token by token, and whatever is open when it ends is dropped.
Source: PostgreSQL manual, 4.1 Lexical Structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_INPUT = 16_384
MAX_OUTPUT = 2_000
PLACEHOLDER = "?"
ELLIPSIS = "…"

# As PostgreSQL's scanner has it: blanks, digits and ends of lines are ASCII, and everything beyond ASCII is a letter. A blank of
# Unicode that ended a name would turn the E of `\u2003E'it\'s'` into another kind of literal.
_TOKEN = re.compile(
    r"""
      # To PostgreSQL a carriage return ends a remark, to many who write one it does not: one alone ends the text.
      (?P<space>   [ \t\n\r\f\v]++ | --[^\n\r]*+ (?: \r(?!\n) .* )? )
    | (?P<comment> /\* )
    | (?P<literal> [eE] ' (?: [^'\\] | '' | \\. )*+ (?: ' | \\?\Z )                   # E'it\'s'
                 | (?: [bBxXnN] | [uU]& )? ' (?: [^'\\] | '' | \\(?!') )*+ (?: ' | \\'.* | \Z )
                 | \$ (?P<tag> (?: [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_\x80-\U0010ffff]*+ )? ) \$
                   .*? (?: \$ (?P=tag) \$ | \Z )                                      # $tag$it's$tag$
                 | \$ [0-9]++                                                         # a parameter
                 # 1  .5  1e-9  0xFF  1_000. Whether a $ behind letters belongs to them depends on the server's version.
                 | \.? [0-9] (?: [0-9.] | [eE][-+]?[0-9] )*+ (?: [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_.\x80-\U0010ffff]*+ (?: \$ .* )? )? )
    | (?P<name>    [uU]& " (?: [^"] | "" )*+ " | " (?: [^"] | "" )*+ "
                 | [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_$\x80-\U0010ffff]*+ )
    | (?P<open>    [uU]& " .* | " .* )                                                # a name that was cut
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_SIGN = re.compile(r"(?<=[=<>(,]) ?[-+] ?\?")
_LIST = re.compile(r"\?(?: ?, ?\?)+")
_ROWS = re.compile(r"(\([^()]*\))(?: ?, ?\1)+")
_SAVEPOINT = re.compile(r'\b(SAVEPOINT) (?:"[^"]*"|\w+)', re.IGNORECASE)  # Odoo draws a new name for each


def normalise(text: str) -> str:
    """The statement with every literal as `?`, lists of them as one, comments and line breaks gone; at most 2,000 characters.

    A quoted string in which a backslash stands before a quote ends the text: whether the string ends there depends on
    `standard_conforming_strings` of a session we cannot see, and guessing could let a literal out.
    """
    plain = "".join(_pieces(text[:MAX_INPUT])).strip()
    listed = _LIST.sub(PLACEHOLDER, _SIGN.sub(_keep_space, plain))
    short = _SAVEPOINT.sub(r"\1 ?", _ROWS.sub(r"\1", listed))
    return short if len(short) <= MAX_OUTPUT else short[: MAX_OUTPUT - 1] + ELLIPSIS


def _pieces(text: str) -> Iterator[str]:
    position = 0
    spaced = True
    while token := _TOKEN.match(text, position):
        position = _after_comment(text, token.end()) if token.lastgroup == "comment" else token.end()
        piece = _shown(token)
        if piece != " " or not spaced:
            yield piece
        spaced = piece == " "


def _shown(token: re.Match[str]) -> str:
    match token.lastgroup:
        case "space" | "comment":
            return " "
        case "literal":
            return PLACEHOLDER
        case "open":
            return ELLIPSIS
        case _:
            return token[0]


def _after_comment(text: str, position: int) -> int:
    """Where the comment ends whose opening ends at `position`; PostgreSQL's comments nest."""
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(text, position)):
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return len(text) if depth else position


def _keep_space(sign: re.Match[str]) -> str:
    return " ?" if sign[0].startswith(" ") else "?"


def statement_end(text: str, mark: str) -> int:
    """Where the statement ends that `mark` follows, which begins with a line break: the first mark that is in no token.

    The end of the text where there is none, as when a literal was left open or nobody can say where it ends.
    """
    position = 0
    while token := _TOKEN.match(text, position):
        end = _after_comment(text, token.end()) if token.lastgroup == "comment" else token.end()
        if token.lastgroup == "space":
            found = text.rfind("\n", position, end)
            if found >= 0 and text.startswith(mark, found):
                return found
        position = end
    return len(text)
