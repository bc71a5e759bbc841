"""YAML as people write it, with the line of every value and every mistake of a text at once.

PyYAML's parser gives the events; what they mean is decided here, because its loader keeps no lines, loses the first of
two equal keys, and unfolds aliases without a bound. What YAML 1.1 and 1.2 read differently (`10:00` is 600 to one and a
text to the other, `010` is 8 or 10) is a mistake: it must be quoted. Dates stay texts; whoever wants a date reads one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

DEPTH_MAX = 50
ALIASED_MAX = 100_000
"""Nodes that the aliases of one document may stand for: a bomb of a few lines stands for billions."""
DIGITS_MAX = 300

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser where the wheel has it
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_TRUTHS = {form: truth for word, truth in _WORDS.items() for form in (word, word.capitalize(), word.upper())}
_INT = re.compile(r"^(?:[-+]?(?:0|[1-9][0-9_]*+)|[-+]?0x[0-9a-fA-F_]++|0o[0-7]++|[-+]?0b[01_]++)")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]++|[0-9][0-9_]*+(?:\.[0-9_]*+)?)(?:[eE][-+]?[0-9]++)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_OCTAL = re.compile(r"^[-+]?0[0-9_]++")
_SEXAGESIMAL = re.compile(r"^[-+]?[1-9][0-9_]*+(?::[0-5]?[0-9])++(?:\.[0-9_]*+)?")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp")}


class Mistake(NamedTuple):
    """What is wrong on a line, and what would be right."""

    line: int
    problem: str


@dataclass(slots=True)
class Marks:
    """Of a mapping or a list: its own line, and of its keys or places the line and the text of a plain scalar."""

    line: int
    lines: dict[Any, int] = field(default_factory=dict)
    plain: dict[Any, str] = field(default_factory=dict)


@dataclass(slots=True)
class Text:
    """A text that was read: its documents, where their parts stand, what is wrong."""

    documents: list[Any] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    marks: dict[int, Marks] = field(default_factory=dict)
    """By the `id` of a mapping or list of `documents`."""
    is_whole: bool = True
    """Whether it was read to its end."""
    kept: list[Any] = field(default_factory=list)
    """What is no longer part of a document and keeps its `id`."""

    def marks_of(self, value: Any) -> Marks | None:
        """Where a mapping or a list of this text stands."""
        return self.marks.get(id(value)) if isinstance(value, dict | list) else None


def read(text: str) -> Text:
    """Read all documents of a text. What cannot be read ends it; what could be read before stands all the same."""
    made = Text()
    try:
        made.is_whole = False
        _Composer(made, yaml.parse(text, Loader=_PARSER)).documents()
        made.is_whole = True
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        made.mistakes.append(Mistake(line, f"the character {error.character!r} may not stand in YAML; take it out"))
    except yaml.MarkedYAMLError as error:
        made.mistakes.append(_syntax(error, text))
    except _End as end:
        made.mistakes.append(Mistake(*end.args))
    return made


def _syntax(error: yaml.MarkedYAMLError, text: str) -> Mistake:
    """The parser's words without the lines that it quotes: a secret may stand there."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    said = ", ".join(filter(None, (error.context, error.problem)))
    if any(one.lstrip(" ").startswith("\t") for one in text.splitlines()[line - 1 : line]):
        said = "a tab indents the line; YAML takes spaces only"
    return Mistake(line, f"cannot be read as YAML: {said}")


class _End(Exception):  # noqa: N818 (it is how reading ends)
    """Nothing behind this line is read: line and problem."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A value with what aliases to it are worth."""

    value: Any
    line: int
    plain: str | None = None
    size: int = 1
    depth: int = 1


@dataclass(slots=True)
class _Composer:
    made: Text
    events: Iterator[Any]
    anchors: dict[str, _Node | None] = field(default_factory=dict)
    aliased: int = 0

    def documents(self) -> None:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors, self.aliased = {}, 0
                self.made.documents.append(self._node(next(self.events), 1).value)

    def _node(self, event: Any, depth: int) -> _Node:
        line = event.start_mark.line + 1
        if depth > DEPTH_MAX:
            raise _End(line, f"is nested more than {DEPTH_MAX} levels deep; nothing here needs so many")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), line, depth)
        if event.tag and event.tag != "!" and event.tag not in _TAGS:
            self._mistake(line, f"the tag {event.tag} is not read here; leave it out")
        if event.anchor:
            self.anchors[event.anchor] = None  # it is not whole yet: an alias inside would be endless
        if isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(line, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(line, depth)
        else:
            node = self._scalar(event, line)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, name: str, line: int, depth: int) -> _Node:
        if name not in self.anchors:
            raise _End(line, f"*{name} has no anchor &{name} before it in its document")
        node = self.anchors[name]
        if node is None:
            raise _End(line, f"*{name} stands inside its own anchor &{name}, which would be endless")
        self.aliased += node.size
        if self.aliased > ALIASED_MAX:
            raise _End(
                line, f"*{name}: the aliases stand for more than {ALIASED_MAX:,} values; write them out, or fewer"
            )
        if depth + node.depth > DEPTH_MAX:
            raise _End(line, f"*{name} is nested more than {DEPTH_MAX} levels deep; nothing here needs so many")
        return _Node(node.value, line, node.plain, node.size, node.depth)

    def _sequence(self, line: int, depth: int) -> _Node:
        found: list[Any] = []
        marks = self.made.marks[id(found)] = Marks(line)
        size, deepest = 1, 0
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            node = self._node(event, depth + 1)
            _place(marks, len(found), node)
            found.append(node.value)
            size, deepest = size + node.size, max(deepest, node.depth)
        return _Node(found, line, None, size, deepest + 1)

    def _mapping(self, line: int, depth: int) -> _Node:
        found: dict[str, Any] = {}
        merged: list[_Node] = []
        marks = self.made.marks[id(found)] = Marks(line)
        size, deepest = 1, 0
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._node(event, depth + 1)
            node = self._node(next(self.events), depth + 1)
            size, deepest = size + key.size + node.size, max(deepest, node.depth, key.depth)
            if key.plain == "<<":
                merged.append(_Node(node.value, key.line))
            else:
                self._pair(found, marks, key, node)
        for one in merged:
            self._merge(found, marks, one)
        return _Node(found, line, None, size, deepest + 1)

    def _pair(self, found: dict[str, Any], marks: Marks, key: _Node, node: _Node) -> None:
        name = key.value
        if not isinstance(name, str):
            if key.plain is None:
                self._mistake(key.line, "a list or a mapping stands as a key; a key is a text")
                return
            self._mistake(key.line, f'the key {key.plain} is read as {_kind(name)}; write it in quotes: "{key.plain}"')
            name = key.plain
        if name not in found:
            found[name] = node.value
            _place(marks, name, node, key.line)
            return
        first = marks.lines[name]
        self._mistake(key.line, f"the key {name} stands twice in one mapping, first on line {first}; make one of both")
        if isinstance(found[name], list) and isinstance(node.value, list):
            # Both are looked at, so that what stands in either is not reported as missing.
            joined = found[name] + node.value
            one, two = self.made.marks[id(found[name])], self.made.marks[id(node.value)]
            count = len(found[name])
            self.made.marks[id(joined)] = Marks(
                one.line,
                one.lines | {count + place: at for place, at in two.lines.items()},
                one.plain | {count + place: at for place, at in two.plain.items()},
            )
            self.made.kept.append(found[name])
            found[name] = joined

    def _merge(self, found: dict[str, Any], marks: Marks, merged: _Node) -> None:
        for one in merged.value if isinstance(merged.value, list) else [merged.value]:
            if not isinstance(one, dict):
                self._mistake(merged.line, "<< merges mappings only; write <<: *NAME of an anchored mapping")
                continue
            from_marks = self.made.marks[id(one)]
            for name, value in one.items():
                if name not in found:
                    found[name] = value
                    marks.lines[name] = merged.line
                    if name in from_marks.plain:
                        marks.plain[name] = from_marks.plain[name]

    def _scalar(self, event: Any, line: int) -> _Node:
        text = event.value
        if event.tag == "!" or event.tag == "tag:yaml.org,2002:str" or not (event.implicit[0] or event.tag):
            return _Node(text, line)
        return _Node(self._plain(text, line), line, text)

    def _plain(self, text: str, line: int) -> Any:
        if text in _NULLS:
            return None
        if text in _TRUTHS:
            return _TRUTHS[text]
        if _SEXAGESIMAL.fullmatch(text):
            self._mistake(
                line, f'{text} without quotes is a number of base 60 to YAML 1.1; write it in quotes: "{text}"'
            )
            return text
        if _OCTAL.fullmatch(text):
            self._mistake(
                line, f'{text} is octal to YAML 1.1 and decimal to 1.2; write "{text}" in quotes, or no leading 0'
            )
            return text
        if len(text) > DIGITS_MAX or text[0] not in "-+.0123456789":
            return text
        if _INT.fullmatch(text):
            return int(text.replace("_", ""), 0)
        return self._float(text, line) if _FLOAT.fullmatch(text) else text

    def _float(self, text: str, line: int) -> float:
        number = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        if number in (float("inf"), float("-inf")) and "inf" not in text.lower():
            self._mistake(line, f"the number {text} is larger than any that can be kept; in quotes it is a text")
        return number

    def _mistake(self, line: int, problem: str) -> None:
        self.made.mistakes.append(Mistake(line, problem))


def _place(marks: Marks, place: Any, node: _Node, line: int | None = None) -> None:
    marks.lines[place] = line or node.line
    if node.plain is not None:
        marks.plain[place] = node.plain


def _kind(value: Any) -> str:
    names = {bool: "a truth value", int: "a number", float: "a number", type(None): "nothing"}
    return names.get(type(value), "a text")
