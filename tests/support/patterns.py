"""Finds every regular expression of the program and measures how the time of matching grows with the length of hostile inputs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import random
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "ingest", "processors", "sinks", "pilothouse")
FUNCTIONS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
SIZES = (10_000, 20_000, 40_000)
NOISE_S = 0.004  # less than this at the largest size is no evidence of anything
SMALL_SIZES = (*range(10, 40, 2), 64, 128, 256, 512, 1_250, 2_500, 5_000)
TOO_LONG_S = 0.5
"""CPU time at a small size beyond which the larger ones need not be tried."""
LONG_S = 0.2
SUSPECT = 6.0  # beyond this it is measured again, more carefully
MOST_GROWTH = 8.0
"""From 10,000 to 40,000 characters the time may grow so many times: 4 is linear, 16 is quadratic."""


def every_pattern() -> dict[str, re.Pattern[str]]:
    """Every pattern of the program, by where it stands."""
    return {**dict(in_modules()), **dict(in_sources())}


def in_modules() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Compiled patterns in the names of modules and classes, whatever holds them."""
    for module in modules():
        for name, value in list(vars(module).items()):
            owner = getattr(value, "__module__", module.__name__)
            inner = list(vars(value).items()) if isinstance(value, type) and owner == module.__name__ else [("", value)]
            for attribute, held in inner:
                where = f"{module.__name__}.{name}{'.' if attribute else ''}{attribute}"
                yield from ((f"{where}#{number}", one) for number, one in enumerate(_held(held)))


def modules() -> Iterator[Any]:
    for package in PACKAGES:
        found = importlib.import_module(package)
        yield found
        for info in pkgutil.walk_packages(found.__path__, f"{package}."):
            # Alembic runs its scripts itself; what they hold is found in their sources.
            if not info.name.endswith("__main__") and ".migrations." not in info.name:
                yield importlib.import_module(info.name)


def _held(value: Any, depth: int = 4) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        if isinstance(value.pattern, str):
            yield value
    elif depth and isinstance(value, dict):
        yield from (one for part in (*value, *value.values()) for one in _held(part, depth - 1))
    elif depth and isinstance(value, (tuple, list, set, frozenset)):
        yield from (one for part in value for one in _held(part, depth - 1))


def in_sources() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Patterns that are written as literals in calls of `re`, also inside functions."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from in_source(path.read_text(), str(path.relative_to(ROOT)))


def in_source(source: str, where: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        owner, first = node.func.value, node.args[0]
        is_re = isinstance(owner, ast.Name) and owner.id == "re" and node.func.attr in FUNCTIONS
        if is_re and isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield f"{where}:{node.lineno}", re.compile(first.value, _flags(node))


def _flags(call: ast.Call) -> re.RegexFlag:
    names = [node.attr for argument in (*call.args[1:], *(word.value for word in call.keywords)) for node in ast.walk(argument)
             if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "re"]  # fmt: skip
    found = re.NOFLAG
    for name in names:
        flag = getattr(re, name, None)
        found |= flag if isinstance(flag, re.RegexFlag) else re.NOFLAG
    return found


# Hostile inputs, from the pattern itself.


def hostile(pattern: re.Pattern[str]) -> Iterator[tuple[str, str, str]]:
    """(before, repeated, after): what a repetition wants, after what leads to it, and then something that it does not want.

    Repeated are what one repetition takes, the beginnings of the pattern up to each of its ends, and its single pieces.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = _parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    leads = {lead for lead in _leads(tree) if lead[1]}
    whole = _sample(tree)
    pumps = {("", repeated) for _, repeated in leads} | leads
    pumps |= {("", before + repeated) for before, repeated in leads}
    pumps |= {(before, before + repeated) for before, repeated in leads if before}
    pumps |= {("", whole[:end]) for end in {1, 2, 3, len(whole) // 2, len(whole) - 1, len(whole)} if whole[:end]}
    pumps |= {("", one) for one in set(whole)}
    for before, repeated in sorted(pumps):
        for after in ("", "\x00", "!\n"):
            yield before, repeated, after


def _leads(tree: Any) -> Iterator[tuple[str, str]]:
    """For every repetition: a text that leads to it, and texts that it takes once."""
    before = ""
    for code, argument in tree:
        yield from ((before + lead, repeated) for lead, repeated in _leads_of(code, argument))
        before += _sample_of(code, argument)


def _leads_of(code: Any, argument: Any) -> Iterator[tuple[str, str]]:
    if code in _REPEATS:
        _, high, item = argument
        if high > 1:
            yield from (("", one) for one in _samples(item))
            some = list(_samples(item))[:4]
            yield from (("", one + two) for one in some for two in some)
        yield from _leads(item)
    elif code is _constants.SUBPATTERN:
        yield from _leads(argument[3])
    elif code is _constants.ATOMIC_GROUP:
        yield from _leads(argument)
    elif code is _constants.BRANCH:
        for branch in argument[1]:
            yield from _leads(branch)
    elif code in (_constants.ASSERT, _constants.ASSERT_NOT):
        yield from _leads(argument[1])


_REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT}
_CATEGORIES = {
    _constants.CATEGORY_DIGIT: "1",
    _constants.CATEGORY_NOT_DIGIT: "a",
    _constants.CATEGORY_SPACE: " ",
    _constants.CATEGORY_NOT_SPACE: "a",
    _constants.CATEGORY_WORD: "a",
    _constants.CATEGORY_NOT_WORD: "-",
}
_TRIED = "a1 -.\"'\\/:=@(A_\n\t<%{}[]x,;`"


def _samples(tree: Any) -> Iterator[str]:
    """Some short texts that match: each part of the pattern varied, the others as they are at first."""
    parts = [_sample_of(code, argument) for code, argument in tree]
    yield "".join(parts)
    for place, (code, argument) in enumerate(tree):
        for one in _varied(code, argument):
            yield "".join([*parts[:place], one, *parts[place + 1 :]])


def _varied(code: Any, argument: Any) -> Iterator[str]:
    if code is _constants.IN:
        yield from (one for one in _TRIED if _is_in(one, argument))
    elif code is _constants.ANY or code is _constants.NOT_LITERAL:
        yield from _TRIED[:12]
    elif code is _constants.BRANCH:
        yield from (one for branch in argument[1] for one in _samples(branch))
    elif code is _constants.SUBPATTERN:
        yield from _samples(argument[3])


def _sample(tree: Any) -> str:
    return "".join(_sample_of(code, argument) for code, argument in tree)


def _sample_of(code: Any, argument: Any) -> str:
    if code is _constants.LITERAL:
        return chr(argument)
    if code is _constants.NOT_LITERAL:
        return "b" if argument == ord("a") else "a"
    if code is _constants.ANY:
        return "a"
    if code is _constants.IN:
        return next((one for one in _TRIED if _is_in(one, argument)), "~")
    if code in _REPEATS:
        return _sample(argument[2]) * max(1, argument[0])
    if code is _constants.SUBPATTERN:
        return _sample(argument[3])
    if code is _constants.ATOMIC_GROUP:
        return _sample(argument)
    if code is _constants.BRANCH:
        return _sample(argument[1][0])
    # What must stand before is written before; what must stand behind is written by what comes.
    return _sample(argument[1]) if code is _constants.ASSERT and argument[0] < 0 else ""


def _is_in(one: str, items: Any) -> bool:
    negated = any(code is _constants.NEGATE for code, _ in items)
    return any(_is_item(one, code, argument) for code, argument in items) != negated


def _is_item(one: str, code: Any, argument: Any) -> bool:
    if code is _constants.LITERAL:
        return ord(one) == argument
    if code is _constants.RANGE:
        return bool(argument[0] <= ord(one) <= argument[1])
    if code is _constants.CATEGORY:
        same = {"1": one.isdigit(), " ": one.isspace(), "a": one.isalnum() or one == "_"}
        is_not = argument.name.startswith("CATEGORY_NOT") or "_NOT_" in argument.name
        positive = _CATEGORIES[getattr(_constants, argument.name.replace("NOT_", ""))]
        return same[positive] != is_not
    return False


# Time.


def growth(run: Callable[[str], object], text_of: Callable[[int], str]) -> float:
    """How many times as long the run takes on four times as long a text; 1 where it is too short to say."""
    if any(_time_s(run, text_of(size), 1) > TOO_LONG_S for size in SMALL_SIZES):
        return float("inf")
    once = [_time_s(run, text_of(size), 1) for size in (SIZES[0], SIZES[-1])]
    if once[1] < NOISE_S or once[1] < SUSPECT * once[0]:
        return once[1] / max(once[0], NOISE_S)
    if once[1] > LONG_S:
        return once[1] / max(once[0], 1e-5)
    # The least of several is what the machine does undisturbed; what takes long is not disturbed by much.
    short, _, long = (_time_s(run, text_of(size), 4) for size in SIZES)
    return long / max(short, 1e-5)


def _time_s(run: Callable[[str], object], text: str, times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.thread_time()
        run(text)
        taken.append(time.thread_time() - started)
    return min(taken)


def worst(patterns: Iterable[tuple[str, re.Pattern[str]]], most: int = 100) -> dict[str, tuple[float, str]]:
    """The patterns that grow too fast, with how fast and on what; at most so many inputs are tried on each."""
    found: dict[str, tuple[float, str]] = {}
    for where, pattern in patterns:
        inputs = list(hostile(pattern))
        random.Random(1).shuffle(inputs)
        for before, repeated, after in inputs[:most]:
            grown = growth(lambda text, pattern=pattern: _through(pattern, text), _text_of(before, repeated, after))
            if grown > MOST_GROWTH:
                found[where] = (grown, f"{before!r} {repeated!r}... {after!r}: {pattern.pattern[:80]}")
                break
    return found


def _text_of(before: str, repeated: str, after: str) -> Callable[[int], str]:
    return lambda size: (before + repeated * (size // len(repeated)))[:size] + after


def _through(pattern: re.Pattern[str], text: str) -> None:
    """As the program may use it: from the beginning, as a whole, and everywhere."""
    pattern.match(text)
    pattern.fullmatch(text)
    for _ in pattern.finditer(text):
        pass
