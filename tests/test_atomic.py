"A file appears whole or not at all, and what killed writers leave does not stay."
import os, signal, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from catscans.core.basics import UserError
from catscans.core import files
from catscans.core.files import atomic
from catscans.transfer.folds import keep_fold, kept_fold

ROOT = Path(__file__).parent.parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="NOT CHECKED: without Linux' locks halves stay")

# HDF5 locks what it writes, and closes it: neither must fail on, nor end, the lock of the half
WRITE = """
import sys, time, h5py
from catscans.core.files import atomic
with atomic(sys.argv[1]) as tmp:
    with h5py.File(tmp, "w") as f: f["a"] = [1]
    print("half", flush=True); time.sleep(600)
"""


@pytest.fixture
def writers(tmp_path):
    "starts writers that stop halfway; whatever happens they end with the test"
    started = []
    def start():
        p = subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path/"net[1].h5")], stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
        started.append(p)
        assert p.stdout.readline() == "half\n"
        return p
    yield start
    for p in started: p.kill(); p.wait(); p.stdout.close()


def halves(folder): return {f.name for f in folder.glob(".*")}


@linux
def test_the_next_writer_removes_what_dead_ones_left_and_nothing_else(writers, tmp_path):
    file, strangers = tmp_path/"net[1].h5", {".net[1]-12345678.csv", ".net[1]-best-12345678.h5", ".net1-12345678.h5", ".net[1]-1234567.h5"}
    for f in strangers: (tmp_path/f).touch()
    dead, alive = writers(), None
    [left] = halves(tmp_path) - strangers
    alive = writers()                                        # it is a next writer itself: the first one lives still
    [mine] = halves(tmp_path) - strangers - {left}
    dead.send_signal(signal.SIGKILL); dead.wait()
    with atomic(tmp_path/"other.h5") as tmp: tmp.write_text("other")
    assert halves(tmp_path) == strangers | {left, mine}      # of another file nothing is removed
    with atomic(file) as tmp: tmp.write_text("whole")
    assert halves(tmp_path) == strangers | {mine} and file.read_text() == "whole"
    alive.send_signal(signal.SIGKILL); alive.wait()
    with atomic(file) as tmp: tmp.write_text("again")
    assert halves(tmp_path) == strangers and file.read_text() == "again"


@linux
def test_a_half_that_is_taken_before_it_is_locked_is_begun_again(tmp_path, monkeypatch):
    "between its creation and its lock another writer may hold it for a dead one's"
    lock, taken = files._lock, []
    def late(fd, wait=False):
        if wait and not taken:
            files.remove_halves(tmp_path/"a.txt"); taken.append(fd)
            assert not list(tmp_path.iterdir())
        return lock(fd, wait)
    monkeypatch.setattr(files, "_lock", late)
    with atomic(tmp_path/"a.txt") as tmp: tmp.write_text("whole")
    assert taken and [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("a.txt", "whole")]


def test_without_locks_halves_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_lock", lambda fd, wait=False: False)
    (tmp_path/".a-12345678.txt").touch()
    with atomic(tmp_path/"a.txt") as tmp: tmp.write_text("whole")
    assert {f.name for f in tmp_path.iterdir()} == {"a.txt", ".a-12345678.txt"} and (tmp_path/"a.txt").read_text() == "whole"


def test_no_descriptor_stays_open(tmp_path):
    fds = Path("/proc/self/fd")
    if not fds.exists(): pytest.skip("NOT CHECKED: descriptors are counted in /proc")
    before = len(list(fds.iterdir()))
    for i in range(3):
        with atomic(tmp_path/"a.txt") as tmp: tmp.write_text("whole")
        with pytest.raises(KeyboardInterrupt):
            with atomic(tmp_path/"a.txt"): raise KeyboardInterrupt
    assert len(list(fds.iterdir())) == before and [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_a_finished_fold_that_finds_no_room_is_named(tmp_path):
    "a limit on the size of files stands for the disk"
    resource = pytest.importorskip("resource")
    file, p = tmp_path/"fold1.npz", np.zeros((2**18, 2), "float32")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(UserError, match=r"cannot write the finished fold .*fold1.npz \(File too large\): it needs 2.0 MiB, \d+ MiB are free; make room and start again, it goes on"): keep_fold(file, "key", {}, p)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir()), "half a file was left"
    keep_fold(file, "key", dict(a=1), p)
    assert kept_fold(file, "key")[0] == dict(a=1)
