"""An estate from a folder of YAML: every file adds cells, calendars and routes; the whole is checked before use.

A document that begins with `apiVersion: openslo/v1` is an OpenSLO document; a file may hold several, parted by `---`, or a
list of them. What is wrong is found all at once, each with its file and line; values that may be secrets are not shown.
Files and folders whose names begin with a dot are passed over; links are followed, each folder and file once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pilothouse import yaml_text
from pilothouse.errors import Misuse
from pilothouse.terminal import clean
from pilothouse.yaml_text import Text
from schemas.estate import APART, Estate, Fault
from schemas.openslo import KINDS

PARTS = ("cells", "calendars", "routes", "receivers", "openslo")
SUFFIXES = (".yaml", ".yml")
FILE_BYTES_MAX = 4 * 2**20
FILES_MAX, BYTES_MAX = 5_000, 64 * 2**20
FINDINGS_MAX = 500
"""Of one check; more are counted."""
VALUE_MAX = 80
_MAY_HOLD_SECRETS = frozenset(
    {"url", "secret", "secrets", "keys", "env", "file", "connectionDetails", "connection_details"}
)

_SHAPES = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
}

Place = tuple[str | int, ...]
Kept = dict[Place, list[int]]
"""By the place of a list, the numbers of its items that were kept."""


@dataclass(frozen=True)
class Finding:
    """What is wrong (a fault) or looks odd (a warning), where, and what would be right."""

    level: str
    file: str
    line: int | None
    place: str
    text: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        # Not `secret: word`: that has the shape of a secret, and whoever prints it would mask the word.
        end = " " if self.place.endswith("secret") else ": "
        return f"{where}: {self.place + end if self.place else ''}{self.text}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


class EstateError(Misuse):
    """The estate cannot be used; the message has a line a fault: file, line, place, value and what would be right."""

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.findings = findings


@dataclass
class Source:
    """Every part of an estate as it was read, with the text that each item came from."""

    directory: Path
    whole: dict[str, list[Any]] = field(default_factory=lambda: {part: [] for part in PARTS})
    origins: dict[Place, tuple[Path, Text, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    is_whole: bool = True
    """Whether every file could be read to its end; where not, what seems to be missing may stand there."""
    kept: Kept = field(default_factory=dict)
    """Where the items of the estate stand, when some were left out."""

    left_out: set[Place] = field(default_factory=set)
    """Keys of the whole that are wrong, and so are not in the estate that was made."""

    def moved(self, place: Place) -> Place:
        """Where a place of the estate that was made stands in the whole."""
        return _moved(place, self.kept)

    def add(self, part: str, item: Any, path: Path, text: Text, line: int) -> None:
        """An item of a part."""
        self.origins[part, len(self.whole[part])] = (path, text, line)
        self.whole[part].append(item)

    def find(self, place: Place, problem: str, level: str = "fault") -> Finding:
        """A finding about a place of the estate, with the file and line that it came from."""
        path, line = self.where(place)
        shown = (str(at) for at in place if str(at) != "str" and not _is_reference(at))
        return Finding(level, str(path), line, ".".join(shown), clean(problem))

    def where(self, place: Place) -> tuple[Path, int | None]:
        """File and line of a place; of the part when the item is not known, of the folder when nothing is."""
        origin = (
            self.origins.get(place[:2]) if len(place) > 1 else self.origins.get((str(place[0]), 0)) if place else None
        )
        if origin is None:
            return self.directory, None
        path, text, line = origin
        for at, _, marks in self._way(place, text):
            line = marks.lines.get(at, marks.line)
        return path, line

    def value(self, place: Place) -> tuple[Any, str | None]:
        """What stands there, and how it is written when it is a plain scalar."""
        origin = self.origins.get(place[:2])
        if origin is None:
            return None, None
        found: tuple[Any, str | None] = (None, None)
        for at, value, marks in self._way(place, origin[1]):
            found = (value, marks.plain.get(at))
        return found

    def _way(self, place: Place, text: Text) -> Iterator[tuple[Any, Any, yaml_text.Marks]]:
        """The steps down to a place: key, value, marks. Elements that are no keys there (names of union branches) are left out."""
        value: Any = self.whole[str(place[0])][int(place[1])] if len(place) > 1 else None
        for at in place[2:]:
            marks = text.marks_of(value)
            if marks is None:
                return
            try:
                value = value[at]
            except (KeyError, IndexError, TypeError):
                continue
            yield at, value, marks


def load(directory: Path) -> Estate:
    """Read and check an estate. Raises EstateError with every fault that was found."""
    estate, source = read(directory)
    faults = [one for one in source.findings if one.level == "fault"]
    if faults or estate is None:
        raise refused(faults)
    return estate


def refused(faults: Sequence[Finding]) -> EstateError:
    """The error of an estate with faults."""
    shown = [str(one) for one in faults[:FINDINGS_MAX]]
    if len(faults) > FINDINGS_MAX:
        shown.append(f"and {len(faults) - FINDINGS_MAX} more")
    return EstateError("\n".join(shown), faults)


def read(directory: Path) -> tuple[Estate | None, Source]:
    """An estate as far as it is right, and what was found in its files. Raises EstateError where there is nothing to read.

    With faults, the estate holds what is right by itself: what is looked at further can be looked at in one go.
    """
    if not directory.is_dir():
        raise EstateError(f"{directory} is not a folder; name the one that holds the estate's YAML files")
    source = Source(directory)
    files = list(_files(source))
    if not files and not source.findings:
        raise EstateError(f"{directory} holds no *.yaml file; an estate needs at least one with `cells:`")
    for path in files:
        _read(source, path)
    estate: Estate | None
    try:
        estate = Estate.model_validate(source.whole, context=APART)
    except ValidationError as error:
        items = _own(source, error.errors(include_url=False))
        source.findings += _said(source, items)
        estate, source.kept = _rest(source, items)
    for fault in estate.faults() if estate else ():
        if _is_sure(source, fault):
            source.findings.append(source.find(source.moved(fault.place), fault.text))
    return estate, source


def _files(source: Source) -> Iterator[Path]:
    """The YAML files of the folder in the order of their names."""
    folders, files, found, size = set[tuple[int, int]](), set[tuple[int, int]](), list[Path](), 0
    for folder, names, leaves in os.walk(source.directory, followlinks=True, onerror=lambda e: _unread(source, e)):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if (here := _identity(Path(folder))) in folders:
            names.clear()  # a link back
            continue
        folders.add(here)
        for path in (Path(folder, name) for name in sorted(leaves) if not name.startswith(".")):
            if path.suffix.lower() not in SUFFIXES:
                continue
            try:
                status = path.stat()
            except OSError as error:
                _fault(source, path, None, f"cannot be read: {error.strerror}; a link must lead to a file")
                continue
            if (status.st_dev, status.st_ino) in files:
                continue
            files.add((status.st_dev, status.st_ino))
            size += status.st_size
            if len(files) > FILES_MAX or size > BYTES_MAX:
                _fault(
                    source,
                    path,
                    None,
                    f"is more than {FILES_MAX} files or {BYTES_MAX} bytes; is the folder the right one?",
                )
                return iter(sorted(found))
            if not stat.S_ISREG(status.st_mode):
                _fault(source, path, None, "is no regular file; an estate's files are read to their end")
            elif status.st_size > FILE_BYTES_MAX:
                _fault(source, path, None, f"has {status.st_size} bytes; an estate's file has at most {FILE_BYTES_MAX}")
            else:
                found.append(path)
    return iter(sorted(found))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _unread(source: Source, error: OSError) -> None:
    _fault(source, Path(error.filename or source.directory), None, f"cannot be read: {error.strerror}")


def _fault(source: Source, path: Path, line: int | None, text: str) -> None:
    """A fault that keeps a file from being read."""
    source.is_whole = False
    source.findings.append(Finding("fault", str(path), line, "", clean(text)))


def documents_of(path: Path) -> list[Any]:
    """The documents of one file, those in lists as well. Raises EstateError with every fault of its text."""
    source = Source(path.parent)
    text = _text(source, path)
    if source.findings:
        raise refused(source.findings)
    documents = text.documents if text else []
    return [one for document in documents if document is not None for one in openslo_documents(document)]


def _read(source: Source, path: Path) -> None:
    if text := _text(source, path):
        for document in text.documents:
            _document(source, path, text, document)


def _text(source: Source, path: Path) -> Text | None:
    """A file as it was read, what is wrong in it among the findings; None when nothing could be read."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        _fault(source, path, None, f"cannot be read: {error.strerror}")
        return None
    if len(data) > FILE_BYTES_MAX:
        _fault(source, path, None, f"has more than {FILE_BYTES_MAX} bytes; YAML that people write has fewer")
        return None
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        _fault(source, path, line, f"is no UTF-8: {error.reason} at byte {error.start}; save it as UTF-8")
        return None
    text = yaml_text.read(content)
    for mistake in text.mistakes:
        source.findings.append(Finding("fault", str(path), mistake.line, "", clean(mistake.problem)))
    source.is_whole &= text.is_whole
    return text


def _document(source: Source, path: Path, text: Text, document: Any) -> None:
    for one in openslo_documents(document):
        marks = text.marks_of(one)
        if one is None:
            continue
        if isinstance(one, dict) and "apiVersion" in one and not one.keys() & set(PARTS):
            source.add("openslo", one, path, text, marks.line if marks else 1)
        else:
            _parts(source, path, text, one)


def openslo_documents(document: Any) -> list[Any]:
    """The documents that a document stands for: itself, the items of a list, or those of `kind: List`."""
    if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
        document = document["items"]
    if isinstance(document, list) and document and all(isinstance(one, dict) for one in document):
        return [inner for one in document for inner in openslo_documents(one)]
    return [document]


def _parts(source: Source, path: Path, text: Text, document: Any) -> None:
    marks = text.marks_of(document)
    line = marks.line if marks else 1
    right = f"an estate's file holds {', '.join(PARTS)}, or OpenSLO documents (apiVersion: openslo/v1)"
    if not isinstance(document, dict):
        source.is_whole = False
        source.findings.append(Finding("fault", str(path), line, "", f"holds {_kind(document)}; {right}"))
        return
    for part, items in document.items():
        at = marks.lines.get(part, line) if marks else line
        if part not in PARTS:
            source.is_whole = False
            source.findings.append(Finding("fault", str(path), at, "", clean(f"holds {part}; {right}")))
        elif items is not None and not isinstance(items, list):
            source.findings.append(Finding("fault", str(path), at, part, f"is {_kind(items)}; it must be a list"))
            source.is_whole = False
        else:
            inner = text.marks_of(items)
            for number, item in enumerate(items or ()):
                source.add(part, item, path, text, inner.lines.get(number, at) if inner else at)


def _kind(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "nothing")


# What is wrong by the models.


def _said(source: Source, items: Iterable[Any]) -> Iterator[Finding]:
    """A finding for each error of pydantic, of which one mistake may have several."""
    kept: dict[Place, list[Any]] = {}
    for item in items:
        kept.setdefault(tuple(item["loc"]), []).append(item)
    branches = _branches(kept)
    for place, errors in kept.items():
        if place in branches:
            if branches[place]:
                yield source.find(place[:-1], branches[place])
            continue
        for item in errors:
            yield source.find(place, sentence(source, place, item))


def _own(source: Source, items: Iterable[Any]) -> list[Any]:
    """The errors without those that only follow: a list is too short when an entry is wrong, or could not be read."""
    found = list(items)
    begins = {tuple(one["loc"][:end]) for one in found for end in range(len(one["loc"]))}
    return [one for one in found if one["type"] != "too_short" or (source.is_whole and tuple(one["loc"]) not in begins)]


def _branches(kept: Mapping[Place, list[Any]]) -> dict[Place, str]:
    """Of a union of a text and a reference, the errors of a branch that was not meant, with the sentence to say instead."""
    found: dict[Place, str] = {}
    for place in kept:
        if len(place) < 2 or place[-1] != "str":
            continue
        others = [
            one for one in kept if one[: len(place) - 1] == place[:-1] and _is_reference(one[len(place) - 1 :][:1])
        ]
        if not others:
            continue
        if isinstance(kept[place][0]["input"], dict):
            found[place] = ""  # a reference was meant, and what is wrong with it is said
        else:
            found[place] = "must be a text, {env: NAME} or {file: PATH}"
            found |= dict.fromkeys(others, "")
    return found


def _is_reference(at: object) -> bool:
    """Whether an element of a place is pydantic's name for the branch of a union that is a reference."""
    return "Reference" in str(at)


def _is_sure(source: Source, fault: Fault) -> bool:
    """Whether what is said to be missing is: not when it may stand in what could not be read, or stands there and is wrong."""
    if fault.wanted is None:
        return True
    kind, name = fault.wanted
    return source.is_whole and name not in _declared(source, kind)


def _declared(source: Source, kind: str) -> set[Any]:
    """Names that are declared, also by items that are wrong."""
    cells = [one for one in source.whole["cells"] if isinstance(one, dict)]
    items = {
        "cell": cells,
        "calendar": source.whole["calendars"],
        "tenant": [one for cell in cells for one in cell.get("tenants") or ()],
        "resource": [one for cell in cells for one in cell.get("resources") or ()],
    }[kind]
    return {str(one.get("name")) for one in items if isinstance(one, dict)}


def sentence(source: Source, place: Place, item: Any) -> str:
    """What an error of pydantic means to whoever wrote the value, without the value where it may be a secret."""
    kind, message = str(item["type"]), str(item["msg"]).removeprefix("Value error, ")
    _, written = source.value(place)
    last = next((str(one) for one in reversed(place) if isinstance(one, str)), "")
    if kind == "extra_forbidden":
        known = _known_keys(place[:-1])
        return f"is not a key that is known{f'; known are {known}' if known else ''}"
    if kind == "model_type" and item.get("ctx", {}).get("class_name") == "Reference":
        return (
            "stands here as a value, and a secret must not; write {env: NAME} or {file: PATH}, "
            "and change the secret if others could read this file"
        )
    if kind == "string_type" and written is not None and not isinstance(item["input"], str):
        what = {bool: "a truth value", type(None): "nothing"}.get(type(item["input"]), "a number")
        shown = f': "{written}"' if written and not _is_secret(place, last) else ""
        return (
            f"is read as {what}; write it in quotes{shown}" if item["input"] is not None else "is empty; write a value"
        )
    if kind == "too_short":
        return "needs at least one entry"
    if kind in _SHAPES:
        return f"must be {_SHAPES[kind]}, not {_kind(item['input'])}"
    if kind == "missing":
        return "Field required; write it"
    if kind.startswith("union_tag"):
        return _no_kind(item)
    if isinstance(item["input"], dict | list):
        return message
    if kind == "value_error" or _is_secret(place, last):
        return message
    return f"{message}, got {item['input']!r:.{VALUE_MAX}}"


def _no_kind(item: Any) -> str:
    known = ", ".join(KINDS)
    named = item.get("ctx", {}).get("tag")
    return f"kind {named!r:.40} is unknown; known are {known}" if named else f"names no kind; known are {known}"


def _is_secret(place: Place, last: str) -> bool:
    return not _MAY_HOLD_SECRETS.isdisjoint(map(str, place)) or any(
        word in last.lower() for word in ("pass", "secret", "token", "key", "credential", "auth")
    )


def _known_keys(place: Place) -> str:
    """The keys of the model at a place, so far as the way there tells which one it is."""
    models: list[type[BaseModel]] = [Estate]
    for at in place:
        inner: list[type[BaseModel]] = []
        for model in models:
            names = {key: one for name, one in model.model_fields.items() for key in (name, one.alias)}
            if at in names:
                inner += _models(names[at].annotation)
        by_tag = [one for one in models if _tag(one) == at]
        models = inner or by_tag or models
    if len(models) != 1:
        return ""
    return ", ".join(str(one.alias or name) for name, one in models[0].model_fields.items())


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for one in get_args(annotation) for model in _models(one)]


def _tag(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return str(next(iter(get_args(kind.annotation)), "")) if kind else str(model.__name__)


# What is right by itself, to be looked at further.


def _rest(source: Source, items: Sequence[Any]) -> tuple[Estate | None, Kept]:
    """The estate without what is wrong, and where its items stood. None if too little is left.

    First only keys are left out, so that the rest of their item is looked at; then items, then whole cells.
    """
    source.left_out = {_key(tuple(item["loc"])) for item in items}
    begin = _without_keys(source.whole, source.left_out)
    wrong, kept, deep = set[Place](), Kept(), 4
    for deep in (4, 4, 2):
        whole, kept = _without(begin, wrong)
        try:
            return Estate.model_validate(whole, context=APART), kept
        except ValidationError as error:
            places = [_moved(tuple(one["loc"]), kept) for one in error.errors(include_url=False)]
            wrong |= {_item(place, deep) for place in places if len(place) > 1}
    return None, kept


def _key(place: Place) -> Place:
    """The key of an item that is wrong."""
    inner = place[0] == "cells" and len(place) > 4 and place[2] in ("tenants", "resources")
    return place[:5] if inner else place[:3]


def _without_keys(whole: Mapping[str, list[Any]], wrong: Collection[Place]) -> dict[str, list[Any]]:
    made = {part: list(items) for part, items in whole.items()}
    for place in wrong:
        if len(place) == 3 and isinstance(item := made[str(place[0])][int(place[1])], dict):
            made[str(place[0])][int(place[1])] = {key: value for key, value in item.items() if key != place[2]}
    for place in wrong:
        if len(place) == 5:
            cell = made["cells"][int(place[1])]
            if not isinstance(cell, dict) or not isinstance(cell.get(place[2]), list):
                continue
            inner = list(cell[place[2]])
            if not isinstance(inner[int(place[3])], dict):
                continue
            inner[int(place[3])] = {key: value for key, value in inner[int(place[3])].items() if key != place[4]}
            made["cells"][int(place[1])] = {**cell, place[2]: inner}
    return made


def _item(place: Place, deep: int) -> Place:
    """The item that is wrong: of a cell the tenant or the resource, where it is one of them."""
    inner = deep == 4 and place[0] == "cells" and len(place) > 3 and place[2] in ("tenants", "resources")
    return place[:4] if inner else place[:2]


def _without(whole: Mapping[str, list[Any]], wrong: Collection[Place]) -> tuple[dict[str, list[Any]], Kept]:
    kept: Kept = {}
    made: dict[str, list[Any]] = {}
    for part, items in whole.items():
        made[part] = _kept((part,), items, wrong, kept)
    for number, cell in enumerate(made["cells"]):
        if not isinstance(cell, dict):
            continue
        place = ("cells", kept[("cells",)][number])
        inner = {name: cell[name] for name in ("tenants", "resources") if isinstance(cell.get(name), list)}
        made["cells"][number] = cell | {
            name: _kept((*place, name), items, wrong, kept) for name, items in inner.items()
        }
    return made, kept


def _kept(place: Place, items: list[Any], wrong: Collection[Place], kept: Kept) -> list[Any]:
    numbers = kept[place] = [number for number in range(len(items)) if (*place, number) not in wrong]
    return [items[number] for number in numbers]


def _moved(place: Place, kept: Kept) -> Place:
    """Where a place of the rest stands in the whole."""
    moved: Place = ()
    for at in place:
        moved = (*moved, kept[moved][at] if isinstance(at, int) and moved in kept else at)
    return moved
