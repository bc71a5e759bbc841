"""A log is followed through every kind of rotation: each line once, and what is gone is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.collectors.tail import NotAFile, Place, end_of, read


class Follower:
    """Reads a log to its present end, as a collector does look by look."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, Place()
        self.seen: list[bytes] = []
        self.missing: list[str] = []
        self._clock_ns = 1_000_000_000

    def write(self, data: bytes, path: Path | None = None) -> None:
        """Append at a time of its own, so that the files' ages do not hang on the speed of the test."""
        self._clock_ns += 1_000_000_000
        with (path or self.path).open("ab") as file:
            file.write(data)
        os.utime(path or self.path, ns=(self._clock_ns, self._clock_ns))

    def look(self, times: int = 1) -> None:
        """Read whole lines; at the end of a file that was rotated away half a line, too."""
        for _ in range(times):
            piece = read(self.path, self.place, 1_000)
            used = len(piece.data) if piece.whole else piece.data.rfind(b"\n") + 1
            self.seen += piece.data[:used].splitlines()
            self.missing += [piece.missing] if piece.missing else []
            # As it is stored between looks.
            self.place = Place.model_validate_json(piece.after(used).model_dump_json())


@pytest.fixture
def log(tmp_path: Path) -> Follower:
    return Follower(tmp_path / "odoo.log")


def test_the_unread_rest_of_a_renamed_log_is_read_before_the_new_one(log: Follower) -> None:
    log.write(b"1\n")
    log.look()
    log.write(b"2\n")
    log.path.rename(log.path.with_name("odoo.log.1"))
    log.write(b"3\n")
    log.look(3)
    assert (log.seen, log.missing) == ([b"1", b"2", b"3"], [])


def test_two_rotations_between_looks_lose_nothing(log: Follower) -> None:
    log.write(b"1\n")
    log.look()
    log.path.rename(log.path.with_name("odoo.log.2"))
    log.write(b"2\n")
    log.path.rename(log.path.with_name("odoo.log.1"))
    log.write(b"3\n")
    log.look(6)
    assert (log.seen, log.missing) == ([b"1", b"2", b"3"], [])


def test_a_writer_that_still_has_the_renamed_log_open_is_heard(log: Follower) -> None:
    log.write(b"1\n")
    log.look()
    renamed = log.path.with_name("odoo.log-20261121")
    log.path.rename(renamed)
    log.write(b"3\n")
    log.look()
    log.write(b"2\n", renamed)
    os.utime(renamed, ns=(1, 1))
    log.look(3)
    assert log.seen == [b"1", b"2", b"3"]


def test_half_a_line_at_the_end_of_a_rotated_log_is_a_line(log: Follower) -> None:
    log.write(b"1\n2")
    log.look()
    log.path.rename(log.path.with_name("odoo.log.1"))
    log.write(b"3\n")
    log.look(4)
    assert log.seen == [b"1", b"2", b"3"]


def test_copytruncate_loses_nothing_and_doubles_nothing(log: Follower) -> None:
    log.write(b"first line\n")
    log.look()
    log.write(b"unread\n")
    shutil.copy2(log.path, log.path.with_name("odoo.log.1"))
    os.truncate(log.path, 0)
    log.write(b"new\n")
    log.look(3)
    assert (log.seen, log.missing) == ([b"first line", b"unread", b"new"], [])


def test_copytruncate_is_seen_even_when_the_new_log_has_grown_longer(log: Follower) -> None:
    log.write(b"first line\n")
    log.look()
    shutil.copy2(log.path, log.path.with_name("odoo.log.1"))
    os.truncate(log.path, 0)
    log.write(b"quite another line, longer than the one before\n")
    log.look(3)
    assert log.seen == [b"first line", b"quite another line, longer than the one before"]


def test_what_was_truncated_away_is_said(log: Follower) -> None:
    log.write(b"first line\n")
    log.look()
    os.truncate(log.path, 0)
    log.write(b"x\n")
    log.look()
    assert log.seen == [b"first line", b"x"]
    assert log.missing == [f"what followed byte 11 of {log.path} before it was truncated or rotated away"]


def test_a_log_renamed_away_with_none_in_its_place_is_still_read(log: Follower) -> None:
    log.write(b"1\n")
    log.look()
    log.write(b"2\n")
    log.path.rename(log.path.with_name("odoo.log.1"))
    log.look(3)
    log.write(b"3\n")
    log.look(2)
    assert log.seen == [b"1", b"2", b"3"]


def test_neighbours_of_the_log_are_not_read(log: Follower) -> None:
    for name in ("odoo.log.1.gz", "odoo.log.bak", "odoo.log2"):
        log.path.with_name(name).write_bytes(b"other\n")
    log.write(b"1\n")
    log.look(3)
    assert log.seen == [b"1"]


def test_the_end_of_a_log_is_a_place(log: Follower) -> None:
    log.write(b"past\n")
    log.place = end_of(log.path)
    log.write(b"present\n")
    log.look()
    assert log.seen == [b"present"]


def test_no_log_at_all_is_an_error(log: Follower) -> None:
    with pytest.raises(FileNotFoundError):
        log.look()


def test_a_pipe_in_the_place_of_the_log_is_an_error_that_does_not_wait(log: Follower) -> None:
    os.mkfifo(log.path)
    with pytest.raises(NotAFile, match="is a pipe, not a file"):
        log.look()
    with pytest.raises(NotAFile, match="is a pipe, not a file"):
        end_of(log.path)


def test_a_folder_or_a_loop_of_links_in_the_place_of_the_log_is_an_error(log: Follower) -> None:
    log.path.mkdir()
    with pytest.raises(NotAFile, match="is a folder, not a file"):
        log.look()
    log.path.rmdir()
    log.path.symlink_to(log.path)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        log.look()


def test_a_link_to_the_log_is_followed(log: Follower, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    log.path.symlink_to(elsewhere)
    log.write(b"1\n", elsewhere)
    log.look()
    assert log.seen == [b"1"]


def test_what_is_no_file_among_the_rotated_ones_is_passed_over(log: Follower) -> None:
    os.mkfifo(log.path.with_name("odoo.log.1"))
    log.path.with_name("odoo.log.2").mkdir()
    log.path.with_name("odoo.log.3").symlink_to("odoo.log.3")
    log.path.with_name("odoo.log.4").symlink_to("nowhere")
    log.write(b"1\n")
    log.look(2)
    log.write(b"2\n")
    log.look(2)
    assert (log.seen, log.missing) == ([b"1", b"2"], [])


def test_a_rotated_log_that_is_closed_to_us_is_missing_and_the_new_one_is_read(
    log: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(b"first line\n")
    log.look()
    log.write(b"unread\n")
    log.path.rename(log.path.with_name("odoo.log.1"))
    log.write(b"new\n")
    # Root may open everything, so the refusal is the test's own.
    opened = os.open

    def refused(path: str, flags: int) -> int:
        if str(path).endswith(".1"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags)

    monkeypatch.setattr(os, "open", refused)
    log.look(2)
    assert log.seen == [b"first line", b"new"]
    assert log.missing == ["what followed byte 11 is in a file that is closed to us"]


def test_a_name_with_signs_of_a_pattern_is_followed_through_rotation(tmp_path: Path) -> None:
    log = Follower(tmp_path / "odoo[1]*.log")
    log.write(b"1\n")
    log.look()
    log.write(b"2\n")
    log.path.rename(log.path.with_name(f"{log.path.name}.1"))
    log.write(b"3\n")
    log.look(3)
    assert log.seen == [b"1", b"2", b"3"]


def test_a_new_file_that_was_given_the_inode_of_the_old_is_read_from_its_beginning(log: Follower) -> None:
    log.write(b"first line\n")
    log.look()
    stored = log.place
    log.path.unlink()
    log.write(b"quite another file\n")
    log.place = stored.model_copy(update={"inode": log.path.stat().st_ino})
    log.look()
    assert log.seen == [b"first line", b"quite another file"]


def test_a_log_rotated_between_the_look_at_its_name_and_its_opening_is_looked_at_again(
    log: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(b"1\n")
    log.look()
    log.write(b"2\n")
    opened, rotated = os.open, []

    def rotating(path: str, flags: int) -> int:
        if not rotated:
            rotated.append(log.path.rename(log.path.with_name("odoo.log.1")))
            log.write(b"3\n")
        return opened(path, flags)

    monkeypatch.setattr(os, "open", rotating)
    log.look(4)
    assert (log.seen, log.missing) == ([b"1", b"2", b"3"], [])


def test_how_much_is_not_read_yet_is_told_over_all_files(log: Follower) -> None:
    log.write(b"x" * 1_999 + b"\n")
    assert read(log.path, Place(), 1_000).behind == 1_000
    place = read(log.path, Place(), 1_000).after(1_000)
    log.path.rename(log.path.with_name("odoo.log.1"))
    log.write(b"y" * 500)
    assert read(log.path, place, 400).behind == 1_100


def test_a_place_of_an_older_version_is_read() -> None:
    place = Place.model_validate_json('{"inode":7,"offset":11,"head":"ab","head_bytes":11,"ended":false}')
    assert (place.inode, place.offset) == (7, 11)


@settings(max_examples=60)
@given(actions=st.lists(st.sampled_from(["write", "look", "rename", "copytruncate"]), max_size=25))
def test_any_order_of_writing_and_rotating_gives_each_line_once(
    actions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = Follower(tmp_path_factory.mktemp("log") / "odoo.log")
    log.write(b"line 0\n")
    written = [b"line 0"]
    for number, action in enumerate(actions, 1):
        if action == "look":
            log.look()
        elif action == "write":
            log.write(b"line %d\n" % number)
            written.append(b"line %d" % number)
        elif log.place.inode:  # a log that was rotated before its first look begins with the new one
            _rotate(log, action)
            written.append(b"line %d after %s" % (number, action.encode()))
            log.write(written[-1] + b"\n")
    log.look(4 * len(actions) + 4)
    first = written.index(log.seen[0])
    assert (log.seen, log.missing) == (written[first:], [])
    assert first == 0


def _rotate(log: Follower, how: str) -> None:
    numbers = sorted(
        (int(one.suffix[1:]) for one in log.path.parent.glob("odoo.log.*") if one.suffix[1:].isdigit()), reverse=True
    )
    for number in numbers:
        log.path.with_name(f"odoo.log.{number}").rename(log.path.with_name(f"odoo.log.{number + 1}"))
    if how == "rename":
        log.path.rename(log.path.with_name("odoo.log.1"))
        return
    shutil.copy2(log.path, log.path.with_name("odoo.log.1"))
    os.truncate(log.path, 0)
