"""The text of a log line as it may leave the host: no values of statements, no rows, no secrets, no addresses if masked.

What is known to be harmless leaves, the rest does not. A statement goes without its literals, wherever in a message it
begins, and takes all that follows with it. Of what PostgreSQL says the messages leave that are known to hold names alone;
what it quotes besides, its details, contexts and the line of the statement are left out. Then secrets, known ones and
what has their shape, and random runs of characters, for a log is full of sessions' keys.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ingest.collectors.odoo_log_lines import Entry, printable
from ingest.collectors.sql_text import ELLIPSIS, normalise, statement_end
from schemas.masking import MASK, masked

MAX_BODY = 16_384
MAX_READ = 65_536  # characters of a message that are looked at
MAX_REFUSED = 262_144  # bytes of a refused record in its dead letter
MIN_MIXED = 24
MIN_KINDS = 6  # different characters of a digest; a row of nines is none

_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]++@(?![0-9.]++(?![\w-]))[\w-]++(?:\.[\w-]++)++")
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]{0,254})(?::|$)")
_STATEMENT = re.compile(
    r"\b(?:SELECT\s|INSERT\s{1,8}INTO\s|UPDATE\s{1,8}[\w\".]{1,200}\s{1,8}SET\s|DELETE\s{1,8}FROM\s|MERGE\s{1,8}INTO\s"
    r"|WITH\s{1,8}[\w\".]{1,200}\s{1,8}AS\s|COPY\s|CALL\s{1,8}\w|(?:ALTER|CREATE)\s{1,8}(?:ROLE|USER)\s|VALUES\s{0,8}\(|WHERE\s)"
)
# In small letters only where more than one word of SQL stands where it should: people write "select ... from" as well.
_SMALL_STATEMENT = re.compile(
    r"\b(?i:insert\s{1,8}into\s{1,8}[\w\".]{1,200}\s{0,8}(?:\(|values|select)|update\s{1,8}[\w\".]{1,200}\s{1,8}set\s"
    r"|delete\s{1,8}from\s{1,8}[\w\".]{1,200}\s{1,8}where\s)"
)
_SMALL_FROM = re.compile(
    r"(?i:\sfrom\s{1,8}[\w\".]{1,200}(?:\s{1,8}(?:as|where|limit|order|group|join|left|inner|for|union)\s|\s{0,8};|\s{0,8}$))"
)
_SMALL_SELECT = re.compile(r"(?i:\bselect\s)")
_QUERY = re.compile(r"^(?:\[[0-9. ]{1,20}ms\] )?query: |\bin query ")
# What PostgreSQL puts below or behind a message, in the languages that it speaks at Odoo's customers.
_APPENDIX = re.compile(
    r"(?:^|(?<=\s)|(?<=\\n))(?:D[EÉ]TAIL|DETALLE|DETALHE|DETTAGLI|CONTEXTE?|CONTEXTO|KONTEXT|CONTESTO|HINT|TIPP?|ASTUCE|QUERY|ANFRAGE|STATEMENT"
    r"|INTERNAL QUERY|(?:LINE|ZEILE|LIGNE|LÍNEA|LINEA|LINHA|RIGA) [0-9]{1,9})\s?:"
    r"|Key \([^()\n]{0,500}\)=\(|Failing row contains"
)
# Sentences of Python between two tracebacks: what was left out ends there.
_GOES_ON = {
    "Traceback (most recent call last):",
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
}
_SAID_BY_POSTGRESQL = re.compile(
    r"(?:^|(?<=\s)|(?<=\\n))(?:(?:odoo\.)?(?:psycopg[23]?|asyncpg)(?:\.\w{1,64}){0,5}(?:: |\()"
    r"|(?:\w{1,40}Violation|InvalidTextRepresentation|StringDataRightTruncation|NumericValueOutOfRange|InvalidDatetimeFormat|DatetimeFieldOverflow|DataError"
    r"|IntegrityError|ProgrammingError|OperationalError|InternalError|DatabaseError|RaiseException|Undefined(?:Column|Table|Function))(?:: |\()"
    r"|(?:ERROR|FATAL|PANIC|FEHLER|ERREUR|ERRORE?|ERRO)\s?:\s{1,4})"
)
_NAME = r"\"[A-Za-z_][\w.$-]{0,62}\""
_KNOWN = re.compile(
    rf"""^(?:
      could\ not\ serialize\ access\ due\ to\ [\w/ ]{{1,80}}
    | deadlock\ detected | canceling\ [a-z ]{{1,40}}\ due\ to\ [a-z ]{{1,60}} | division\ by\ zero
    | current\ transaction\ is\ aborted,\ commands\ ignored\ until\ end\ of\ transaction\ block
    | null\ value\ in\ column\ {_NAME}(?:\ of\ relation\ {_NAME})?\ violates\ not-null\ constraint
    | duplicate\ key\ value\ violates\ unique\ constraint\ {_NAME}
    | conflicting\ key\ value\ violates\ exclusion\ constraint\ {_NAME}
    | (?:insert\ or\ update|update\ or\ delete)\ on\ table\ {_NAME}\ violates\ (?:RESTRICT\ setting\ of\ )?foreign\ key\ constraint\ {_NAME}(?:\ on\ table\ {_NAME})?
    | new\ row\ for\ relation\ {_NAME}\ violates\ check\ constraint\ {_NAME}
    | relation\ {_NAME}\ (?:does\ not\ exist|already\ exists)
    | column\ [A-Za-z_][\w.]{{0,126}}\ does\ not\ exist
    | column\ {_NAME}\ of\ relation\ {_NAME}\ (?:does\ not\ exist|already\ exists|contains\ null\ values)
    | column\ (?=\")
    | connection\ to\ server\ (?:at|on\ socket)\ \"[^\"]{{1,255}}\"(?:\ \([0-9a-f.:]{{1,45}}\))?(?:,\ port\ [0-9]{{1,5}})?\ failed:\ [A-Za-z ,:]{{0,200}}
    | could\ not\ (?:connect|translate|send|receive)\ [A-Za-z ,:]{{1,100}}
    | missing\ FROM-clause\ entry\ for\ table | invalid\ reference\ to\ FROM-clause\ entry\ for\ table
    | (?:constraint|index|sequence|view|schema|trigger|extension)\ {_NAME}(?:\ for\ (?:table|relation)\ {_NAME})?\ (?:does\ not\ exist|already\ exists)
    | function\ [\w.]{{1,126}}\([\w ,\[\]]{{0,300}}\)\ does\ not\ exist | operator\ does\ not\ exist
    | permission\ denied\ for\ \w{{1,30}}\ [\w.]{{1,126}} | must\ be\ owner\ of\ \w{{1,30}}\ [\w.]{{1,126}}
    | value\ too\ long\ for\ type\ [\w ]{{1,40}}(?:\([0-9]{{1,9}}\))? | (?:integer|bigint|smallint|real|timestamp|date|interval|numeric)\ out\ of\ range
    | numeric\ field\ overflow | syntax\ error\ at\ (?:or\ near|end\ of\ input) | unterminated\ [a-z -]{{1,40}}(?:\ at\ or\ near)?
    | invalid\ input\ syntax\ for\ (?:type\ )?[a-z ]{{1,40}} | invalid\ input\ value\ for\ enum | malformed\ [a-z ]{{1,30}}\ literal
    | invalid\ byte\ sequence\ for\ encoding\ {_NAME} | date/time\ field\ value\ out\ of\ range
    | could\ not\ obtain\ lock\ on\ (?:row\ in\ )?relation\ {_NAME} | (?:remaining|sorry,\ too\ many)\ [\w ]{{1,80}}
    | password\ authentication\ failed\ for\ user\ {_NAME} | (?:role|database)\ {_NAME}\ (?:does\ not\ exist|is\ being\ accessed\ by\ other\ users)
    | terminating\ connection\ due\ to\ [\w -]{{1,60}} | server\ closed\ the\ connection\ unexpectedly
    | the\ database\ system\ is\ [a-z ]{{1,40}} | SSL\ (?:SYSCALL\ error:\ EOF\ detected|connection\ has\ been\ closed\ unexpectedly)
    | connection\ (?:already\ closed|not\ open|to\ server\ was\ lost|timed\ out) | cursor\ already\ closed | out\ of\ (?:shared\ )?memory
    | could\ not\ (?:extend|open|read|write)\ | no\ space\ left\ on\ device | lock\ timeout | subquery\ [\w ]{{1,80}} | aggregate\ functions?\ are
    | (?:INSERT|UPDATE)\ has\ more\ [a-z ]{{1,60}} | each\ UNION\ query\ [a-z ]{{1,60}} | more\ than\ one\ row\ returned\ by\ [a-z ]{{1,60}}
    )""",
    re.VERBOSE,
)
"""Messages of PostgreSQL, up to where a value may stand: what follows is left out. Source: its message catalogue, 13-18."""
# Sentences of Python and Odoo behind which a value is quoted.
_QUOTES_A_VALUE = re.compile(
    r"(?:invalid literal for \w{1,20}\(\)[^:\n]{0,40}: |could not convert string to \w{1,20}: |[Ii]nvalid isoformat string: "
    r"|time data |unconverted data remains: |Wrong value for [\w.]{1,200}: |invalid input syntax for |(?:out of range|not recognized): (?=\")"
    r"|(?:at or near|malformed \w{1,20} literal:) (?=\"))"
)
_TYPED = re.compile(r"<[^<>\n]{1,1024}>")
_LOGGER_OF_LOGINS = re.compile(r"\b(odoo\.addons\.(?:auth_|base\.models\.res_users)[\w.]{0,100})\"?[:,] ?")
# How such a message begins, and what stands before and behind the login.
_TYPED_BETWEEN = (
    ("Login attempt ignored", "(user '", "') on "),
    ("Login ", "login:", " from "),
    (" generated: scope: <", "> for '", "' (#"),
)
_RUN = re.compile(r"[A-Za-z0-9+/_-]{20,}+={0,2}")
_CHANGE = re.compile(r"(?<=[a-z])(?=[^a-z])|(?<=[A-Z])(?=[^A-Z])|(?<=[0-9])(?=[^0-9])")
_HEX = re.compile(r"^[0-9a-fA-F]{32,}+$")
NOT_KNOWN = "a message that may hold values"


def body(entry: Entry, *, mask: bool) -> str:
    """The message as it may be shipped; `mask`: without addresses and logins, too."""
    text = shippable(entry.message[:MAX_READ], entry.logger)
    if mask:
        text = _without_people(text, entry.logger)
    return printable(text)[:MAX_BODY]


def shippable(text: str, logger: str = "") -> str:
    """The text without values of statements, rows and secrets."""
    if text.startswith("bad query: "):
        text = _bad_query(text.removeprefix("bad query: "))
    elif logger.startswith("odoo.sql_db") and (query := _QUERY.search(text)):
        text = f"{text[: query.end()]}{normalise(text[query.end() :])}"
    else:
        text = "\n".join(_lines(text))
    return _without_random(masked(text))


def shippable_bytes(data: bytes, *, mask: bool) -> bytes:
    """Bytes that are no record, for a dead letter: as they are, but for what may not leave and what is too much."""
    kept = data[:MAX_REFUSED]
    if kept.count(0) * 3 >= len(kept):  # UTF-16 would hide everything from the patterns
        kept = kept.replace(b"\0", b"")
    text = kept.decode("utf-8", "surrogateescape")
    shown = "\n".join(shippable(part) for part in _parts(text))
    if mask:
        shown = "\n".join(_raw_without_people(line) for line in shown.split("\n"))
    told = shown.encode("utf-8", "surrogateescape")
    if not text.isascii():
        told = masked(told.decode("latin-1")).encode("latin-1", "replace")
    left_out = len(data) - MAX_REFUSED
    return told + f" ... and {left_out} bytes more".encode() if left_out > 0 else told


def exception_type(message: str) -> str | None:
    """The type of the exception whose traceback the message ends with."""
    if "Traceback (most recent call last)" not in message:
        return None
    # Below the frames, which are indented, the exception stands at the margin; its own text may follow over lines.
    lines = message.rpartition("Traceback (most recent call last)")[2].split("\n")[1:]
    last = next((line for line in lines if line and not line[0].isspace()), "")
    found = _EXCEPTION.match(last[:300])
    return masked(found[1]) if found else None


# Statements and what PostgreSQL says of them.


def _bad_query(text: str) -> str:
    """A refused statement without its literals, and what is known to be harmless of the error."""
    statement, error = _statement_and_error(text)
    said = _said(error.partition("\n")[0].strip())
    return f"bad query: {normalise(statement)}" + (f"\nERROR: {said}" if error else "")


def _statement_and_error(text: str) -> tuple[str, str]:
    """Where the error begins is found by reading the statement: a literal may hold the same word.

    18 and 19 print Python's representation of its bytes, which has no line breaks.
    """
    if text.startswith(("b'", 'b"')):
        shown, _, rest = text.partition("\n")
        return _bytes_of(shown.strip()), rest.removeprefix("ERROR: ") if rest.startswith("ERROR: ") else ""
    end = statement_end(text, "\nERROR: ")
    return text[:end], text[end:].removeprefix("\nERROR: ")


def _bytes_of(shown: str) -> str:
    """What the representation of bytes stands for; of one that was cut, what can be read."""
    if len(shown) < 3 or not shown.endswith(shown[1]) or shown.endswith(f"\\{shown[1]}"):
        shown = f"{shown.rstrip(chr(92))}{shown[1]}"
    try:
        return str(ast.literal_eval(shown).decode(errors="replace"))
    except (ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):
        return ""


def _said(message: str) -> str:
    """What of a message of PostgreSQL is known to hold names only."""
    known = _KNOWN.match(message)
    if known is None:
        return NOT_KNOWN
    return f"{known[0]} {ELLIPSIS}" if message[known.end() :].strip(" .,)'\"\\n") else known[0]


def _lines(text: str) -> Iterator[str]:
    """The lines of a message that may leave, each without what it may not hold."""
    left_out, in_traceback = False, False
    position = 0
    for line in text.split("\n"):
        start, position = position, position + len(line) + 1
        if line.strip() in _GOES_ON:
            left_out, in_traceback = False, True
        if left_out:
            continue
        code = in_traceback and line.startswith("    ")
        statement = _begins(line)
        if statement >= 0 and not code:
            # Nobody knows where it ends.
            yield line[:statement] + normalise(text[start + statement :])
            return
        if statement >= 0:
            yield line[:statement] + normalise(line[statement:])
            continue
        shown, ends = _without_values(line)
        left_out = ends
        if shown or not ends:
            yield shown


def _begins(line: str) -> int:
    """Where a statement begins in the line, -1 where none does."""
    found = _STATEMENT.search(line) or _SMALL_STATEMENT.search(line)
    if found is None and (selects := _SMALL_SELECT.search(line)) and _SMALL_FROM.search(line, selects.end()):
        found = selects
    return found.start() if found else -1


def _without_values(line: str) -> tuple[str, bool]:
    """The line without what PostgreSQL and Python quote, and whether what follows belongs to what was left out."""
    if appendix := _APPENDIX.search(line):
        shown, _ = _without_values(line[: appendix.start()].rstrip())
        return shown, True
    if said := _SAID_BY_POSTGRESQL.search(line):
        message = line[said.end() :].strip().lstrip("'\"")
        return f"{line[: said.end()]}{_said(message)}", message.count('"') % 2 == 1
    if value := _QUOTES_A_VALUE.search(line):
        return f"{line[: value.end()]}{ELLIPSIS}", False
    return line, False


# Names that strangers type, and what nobody typed.


def _without_people(text: str, logger: str) -> str:
    """The text without addresses and logins."""
    return _without_logins(_EMAIL.sub("<address>", text), logger)


def _raw_without_people(line: str) -> str:
    """As `_without_people`, of a line whose logger nobody has read."""
    logger = _LOGGER_OF_LOGINS.search(line[:1_024])
    if logger is None:
        return _without_people(line, "")
    return line[: logger.end()] + _without_people(line[logger.end() :], logger[1])


def _without_logins(text: str, logger: str) -> str:
    """What was typed as a login stands between what Odoo writes."""
    if logger.startswith("odoo.addons.auth_"):
        return _TYPED.sub("<login>", text)
    if not logger.startswith("odoo.addons.base.models.res_users"):
        return text
    begins, ends = next((marks for word, *marks in _TYPED_BETWEEN if word in text[:512]), ("", ""))
    head, found, rest = text.partition(begins) if begins else (text, "", "")
    if not found:
        return text
    # A login whose end is not there goes on to the end of the text.
    _, end, tail = rest.rpartition(ends)
    return f"{head}{begins}<login>{ends}{tail}" if end else f"{head}{begins}<login>"


def _parts(text: str) -> Iterator[str]:
    """The messages of raw lines: what stands behind a prefix may be a statement that begins as a message does."""
    before, found, rest = text.partition("bad query: ")
    yield before + (f"bad query: {ELLIPSIS}" if found and not rest else "")
    if rest:
        yield f"bad query: {rest}"


def _without_random(text: str) -> str:
    """The text without runs of characters that nobody would write: keys of sessions, tokens, digests."""
    return _RUN.sub(lambda run: MASK if _is_random(run[0]) else run[0], text)


def _is_random(run: str) -> bool:
    if _HEX.match(run):
        return len(set(run)) >= MIN_KINDS
    digits = sum(map(run.count, "0123456789"))
    lower, upper = run.upper() != run, run.lower() != run
    if digits < 2 or not (lower and upper):
        return False
    if len(run) >= MIN_MIXED and "/" not in run:
        return True
    return len(_CHANGE.findall(run)) >= 0.4 * len(run)
