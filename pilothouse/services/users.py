"""Which OS user the embedded servers run as, and what that user can reach.

Started by root they run as `pilothouse`, a system user that is made when it is missing: PostgreSQL refuses root, and no server
needs it. Not as `nobody`: that user is shared, and whoever runs as it could read everything. Started by anybody
else they run as whoever started them.
"""

from __future__ import annotations

import logging
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pilothouse.errors import Unreachable
from schemas import masking

log = logging.getLogger(__name__)

NAME = "pilothouse"
SHARED = "nobody"
"""Takes its place where no user can be made."""
MAKE_TIMEOUT_S = 30


class User(NamedTuple):
    """An OS user by name, and its own group."""

    name: str
    uid: int
    gid: int


def server_user() -> User | None:
    """The user of the servers; None when they run as we do. Makes it when it is missing, which needs root."""
    if os.geteuid() != 0:
        return None
    found = _known(NAME) or _made()
    if found is None:
        log.warning(
            "no user for the embedded servers could be made; they run as a user that others share",
            extra={"wanted": NAME, "taken": SHARED, "remedy": f"useradd --system {NAME}"},
        )
        found = _known(SHARED)
    if found is None:
        raise Unreachable(f"PostgreSQL refuses root, and there is no user {NAME}; make it: useradd --system {NAME}")
    return found


def _known(name: str) -> User | None:
    with suppress(KeyError):
        entry = pwd.getpwnam(name)
        return User(name, entry.pw_uid, entry.pw_gid) if entry.pw_uid else None
    return None


def _made() -> User | None:
    """Make the user with what the system has for that. Programs that start at once make one user."""
    commands = (
        [
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/bin/false",
            NAME,
        ],
        ["adduser", "-S", "-D", "-H", "-h", "/nonexistent", "-s", "/bin/false", NAME],  # busybox
    )
    for command in commands:
        if program := shutil.which(command[0], path="/usr/sbin:/sbin:/usr/bin:/bin"):
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    [program, *command[1:]],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=MAKE_TIMEOUT_S,
                    check=False,
                )
            if found := _known(NAME):
                log.info("made a system user for the embedded servers", extra={"user": NAME})
                return found
    return None


def first_closed(path: Path, user: User) -> Path | None:
    """The outermost directory on the way to `path`, itself included when it is one, that the user cannot pass."""
    path = path.resolve()
    for directory in [*reversed(path.parents), *([path] if path.is_dir() else [])]:
        status = directory.stat()
        mine = status.st_uid == user.uid, status.st_gid == user.gid
        needed = stat.S_IXUSR if mine[0] else stat.S_IXGRP if mine[1] else stat.S_IXOTH
        if not status.st_mode & needed:
            return directory
    return None


def give(directory: Path, user: User | None) -> None:
    """Make a directory the user's own, closed to others, with all that is in it if it was somebody else's before.

    Links are not followed: what they lead to stays whose it is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if user and directory.stat().st_uid != user.uid:
        for _, folders, files, here in os.fwalk(directory):
            for name in (*folders, *files):
                os.chown(name, user.uid, user.gid, dir_fd=here, follow_symlinks=False)
        os.chown(directory, user.uid, user.gid)
    directory.chmod(0o700)


def open_the_way(directory: Path, user: User | None) -> None:
    """Close a directory of ours to all but us; the servers' user may pass through it."""
    if user:
        os.chown(directory, os.geteuid(), user.gid)
    directory.chmod(0o710 if user else 0o700)


def linked(source: Path, target: Path) -> Path:
    """A tree of programs or jars at a place that the servers' user can reach; without copying where the disk is the same."""
    if not target.exists() or target.stat().st_mtime_ns != source.stat().st_mtime_ns:
        unfinished = target.with_name(f"{target.name}.new")
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)
        if source.is_dir():
            shutil.copytree(source, unfinished, symlinks=True, copy_function=_link)
        else:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            _link(str(source), str(unfinished))
        if target.is_dir():
            shutil.rmtree(target)
        unfinished.replace(target)
    return target


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target


def secret(file: Path, user: User | None) -> str:
    """The secret in a file, which is made with a new one when it is missing. Nobody but its owner can read it."""
    if not file.exists():
        write(file, secrets.token_urlsafe(24), user)
    file.chmod(0o600)
    found = file.read_text().strip()
    masking.learn(found)
    return found


def write(file: Path, text: str, user: User | None) -> None:
    """Write a file anew, for the user's eyes alone. What a server put in its place is replaced, not followed."""
    place = file.with_name(f"{file.name}.new")
    place.unlink(missing_ok=True)
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    if user:
        os.chown(place, user.uid, user.gid)
    place.replace(file)
