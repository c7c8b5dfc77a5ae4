from __future__ import annotations

import errno
import os
import stat
from datetime import datetime
from pathlib import Path

import pytest

from include.errors import HostError
from include.files import Damaged, Unreadable, disk_errors, find_record, read_record, write_atomic
from include.frozen import Frozen
from tests.support.damage import NOT_A_FILE, NOT_A_RECORD, Make


class Note(Frozen):
    text: str
    at: datetime
    size: float


def damage_of(path: Path, make: Make) -> Damaged:
    make(path)
    with pytest.raises(Damaged, match="note.json is damaged") as caught:
        find_record(path, Note)
    return caught.value


@pytest.mark.parametrize("make", NOT_A_FILE.values(), ids=NOT_A_FILE)
def test_what_is_no_file_is_damage_and_stops_nobody(tmp_path: Path, make: Make) -> None:
    assert damage_of(tmp_path / "note.json", make).where == str(tmp_path / "note.json")


@pytest.mark.parametrize("make", NOT_A_RECORD.values(), ids=NOT_A_RECORD)
def test_a_file_without_the_record_is_damage(tmp_path: Path, make: Make) -> None:
    assert len(str(damage_of(tmp_path / "note.json", make))) < 1000


def test_numbers_beyond_all_types_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    for at in ("1" + "0" * 400, "1e400", "-1e18", "NaN"):
        path.write_text(f'{{"text": "", "at": {at}, "size": 1}}')
        with pytest.raises(Damaged):
            find_record(path, Note)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "note.json/below"])
def test_a_name_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    (tmp_path / "note.json").write_text("{}")
    with pytest.raises((Damaged, FileNotFoundError)):
        read_record(tmp_path / name, Note)


def test_nothing_there_is_no_damage(tmp_path: Path) -> None:
    assert find_record(tmp_path / "note.json", Note) is None
    assert find_record(tmp_path / "no" / "note.json", Note) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_file_that_the_system_refuses_may_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "note.json"
    path.write_text("{}")

    def refuse(*args: object) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Unreadable, match=os.strerror(number)):
        find_record(path, Note)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE])
def test_a_write_that_fails_names_path_and_remedy_and_keeps_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "note.json"
    write_atomic(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(HostError, match=os.strerror(number)) as caught:
        write_atomic(path, "new")
    assert caught.value.where == str(path)
    assert caught.value.fix != "check the disk"
    assert path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == ["note.json"]


def test_a_write_over_a_directory_and_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken" / "in").mkdir(parents=True)
    write_atomic(tmp_path / "taken", "text")
    assert (tmp_path / "taken").read_text() == "text"
    assert [path.name for path in tmp_path.glob(".taken.*/*")] == ["in"], "nothing is lost"
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="file"):
        write_atomic(tmp_path / "file" / "below", "text")
    with pytest.raises(HostError, match="too long"):
        write_atomic(tmp_path / ("x" * 300), "text")
    assert sorted(left.name for left in tmp_path.iterdir() if left.name[0] != ".") == ["file", "taken"]


def test_a_fifo_at_the_path_of_a_write_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    os.mkfifo(path)
    write_atomic(path, "text")
    assert stat.S_ISREG(path.lstat().st_mode)


def test_errors_of_the_network_are_not_of_the_file_system() -> None:
    with pytest.raises(ConnectionRefusedError), disk_errors():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    with pytest.raises(HostError, match="Read-only") as caught, disk_errors():
        raise OSError(errno.EROFS, "Read-only file system", "/store/file")
    assert (caught.value.where, "writable" in caught.value.fix) == ("/store/file", True)


def test_errors_without_a_number_are_not_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="offline") as caught, disk_errors(tmp_path):
        raise OSError("offline")
    assert not isinstance(caught.value, HostError)
