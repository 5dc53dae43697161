from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossfeed.errors import OutputError
from crossfeed.files import (
    atomic_folder,
    atomic_path,
    file_hash,
    only_process,
    write_json,
)
from crossfeed.outputs import RUN

MARK = {"format_version": 1, "crossfeed": "1.0", "dataset_hash": "0"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def no_space(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file.txt"
    with atomic_path(file) as temporary:
        temporary.write_text("new")
        assert not file.exists()
        assert temporary.parent == file.parent
    assert file.read_text() == "new"
    assert names(file.parent) == {"file.txt"}


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("old")
    monkeypatch.setattr(os, moment, no_space)
    with (
        pytest.raises(OutputError, match=r"cannot write '.*file\.txt': No space left") as caught,
        atomic_path(file) as temporary,
    ):
        temporary.write_text("new")
    assert caught.value.hint is not None
    assert "nothing was replaced" in caught.value.hint
    assert file.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_a_device_without_space_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), atomic_path(tmp_path / "file"):
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "file" / "x"):
        pass


def test_write_json_ends_with_a_newline_and_keeps_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"domain": "Bücher"})
    text = (tmp_path / "a.json").read_text("utf-8")
    assert text.endswith("}\n")
    assert "Bücher" in text
    assert json.loads(text) == {"domain": "Bücher"}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out", RUN, overwrite=False) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "inner" / "a").read_text() == "a"
    assert names(tmp_path) == {"out"}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "out", RUN, overwrite=True) as folder:
            write_json(folder / "config.json", MARK)
            (folder / name).write_text(name)
    assert names(tmp_path / "out") == {"new", "config.json"}
    assert names(tmp_path) == {"out"}


def test_a_folder_is_not_replaced_without_leave(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    write_json(tmp_path / "out" / "config.json", MARK)
    with (
        pytest.raises(OutputError, match="exists already"),
        atomic_folder(tmp_path / "out", RUN, overwrite=False),
    ):
        pytest.fail("the guard let the work begin")
    assert names(tmp_path / "out") == {"mine", "config.json"}


def test_what_another_process_wrote_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="exists already"),
        atomic_folder(tmp_path / "out", RUN, overwrite=False) as folder,
    ):
        (folder / "a").write_text("second")
        (tmp_path / "out").mkdir()
        write_json(tmp_path / "out" / "config.json", MARK)
        (tmp_path / "out" / "a").write_text("first")
    assert (tmp_path / "out" / "a").read_text() == "first"
    assert names(tmp_path) == {"out"}


def test_a_lock_keeps_others_out_and_is_gone_at_the_end(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.touch()  # of a process that died
    for _ in range(2):
        with only_process(lock):
            with pytest.raises(OutputError, match="another process") as caught, only_process(lock):
                pytest.fail("two hold it")
            assert lock.exists()
        assert not lock.exists()
    assert caught.value.hint == "let it end, or give another --out"


def test_a_lock_that_was_removed_after_it_was_opened_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".lock"
    flock = fcntl.flock

    def late(*given: Any) -> None:
        lock.unlink()
        flock(*given)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(OutputError, match="another process"), only_process(lock):
        pytest.fail("nobody else would see this lock")


def test_a_file_system_without_locks_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*given: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.raises(OutputError, match=r"cannot write .*\.out\.lock': Function not implemented"),
        atomic_folder(tmp_path / "out", RUN, overwrite=False),
    ):
        pytest.fail("nobody is kept out")


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "out", RUN, overwrite=False) as folder:
        write_json(folder / "config.json", MARK)
    moves = []
    replace = os.replace

    def fails_once_the_old_one_is_aside(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == 2:
            no_space()
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once_the_old_one_is_aside)
    with (
        pytest.raises(OutputError, match="No space left"),
        atomic_folder(tmp_path / "out", RUN, overwrite=True) as folder,
    ):
        (folder / "new").write_text("new")
    assert names(tmp_path / "out") == {"config.json"}
    assert names(tmp_path) == {"out"}


def test_a_stop_between_the_two_moves_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_folder(tmp_path / "out", RUN, overwrite=False) as folder:
        write_json(folder / "config.json", MARK)
    replace = os.replace
    moves = []

    def stopped_at_the_second(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped_at_the_second)
    with (
        pytest.raises(KeyboardInterrupt),
        atomic_folder(tmp_path / "out", RUN, overwrite=True) as folder,
    ):
        (folder / "new").write_text("new")
    assert names(tmp_path / "out") == {"config.json"}
    assert names(tmp_path) == {"out"}


_DIES_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from crossfeed.files import atomic_folder, atomic_path
from crossfeed.outputs import RUN
path = Path(sys.argv[2])
is_file = sys.argv[1] == "file"
with atomic_path(path) if is_file else atomic_folder(path, RUN, overwrite=True) as new:
    (new if is_file else new / "a").write_text("half of the ne")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_half_way_leaves_the_old_one_readable(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    content = target if kind == "file" else target / "a"
    content.parent.mkdir(exist_ok=True)
    content.write_text("old")
    if kind == "folder":
        write_json(target / "config.json", MARK)
    died = subprocess.run([sys.executable, "-c", _DIES_HALF_WAY, kind, str(target)])
    assert died.returncode == -signal.SIGKILL
    assert content.read_text() == "old"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_kill_left_is_not_in_the_way(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _DIES_HALF_WAY, kind, str(target)])
    if kind == "file":
        write_json(target, 1)
    else:
        with atomic_folder(target, RUN, overwrite=False) as folder:
            (folder / "a").write_text("new")
        assert names(tmp_path) == {"out"}
    assert target.exists()


def test_what_another_folder_s_writer_left_stays(tmp_path: Path) -> None:
    others = {".out.0123abcd.0123abcd.tmp", ".out.txt.0123abcd.tmp", ".out.notes.old", ".out.tmp"}
    for name in others:
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "out", RUN, overwrite=False):
        pass
    assert names(tmp_path) == {"out", *others}


_DIES_BETWEEN_THE_MOVES = """
import os, signal, sys
from pathlib import Path
from crossfeed.files import atomic_folder
from crossfeed.outputs import RUN
replace = os.replace
def dies_at_the_second(source, target):
    if Path(target) == Path(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
with atomic_folder(Path(sys.argv[1]), RUN, overwrite=True) as new:
    os.replace = dies_at_the_second
"""


def test_a_folder_that_a_kill_between_the_moves_set_aside_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write_json(target / "config.json", MARK)
    subprocess.run([sys.executable, "-c", _DIES_BETWEEN_THE_MOVES, str(target)])
    assert not target.exists()
    with (
        pytest.raises(OutputError, match="exists already"),
        atomic_folder(target, RUN, overwrite=False),
    ):
        pytest.fail("the guard let the work begin")
    assert names(target) == {"config.json"}
    assert names(tmp_path) == {"out"}


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "file") as temporary:
        temporary.chmod(0o600)
    with atomic_folder(tmp_path / "folder", RUN, overwrite=False) as temporary:
        (temporary / "file").touch(0o600)
    for file in (tmp_path / "file", tmp_path / "folder" / "file"):
        assert file.stat().st_mode == plain.stat().st_mode


def test_a_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
