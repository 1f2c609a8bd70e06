"""Finds and ends what a run of the end-to-end tests has started, also after the test program itself has died.

The runner gives each test program an environment with SHOAL_TEST_RUN; every process it starts inherits that, and every temporary
folder carries it in its name. Imports nothing but the standard library, so that the runner can use it without gRPC.
"""
import glob
import os
import pathlib
import shutil
import signal
import tempfile
import time

RUN = "SHOAL_TEST_RUN"
SHARED_MEMORY = pathlib.Path("/dev/shm")


def environment_of(pid):
    """The environment a process was started with, as a set of b"NAME=value"; empty if it is gone or not ours."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return set(file.read().split(b"\0"))
    except OSError:
        return set()


def is_zombie(pid):
    """True for a process that has ended but was not waited for, or is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def carriers(entry):
    """Pids of all live processes, but for this one, whose environment holds `entry` ("NAME=value")."""
    wanted = entry.encode()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return [pid for pid in pids if wanted in environment_of(pid) and not is_zombie(pid)]


def kill_all(entry, seconds=5):
    """Kills all carriers of `entry` until none is left; returns those that were found first."""
    first = carriers(entry)
    left, end = first, time.monotonic() + seconds
    while left and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
        left = carriers(entry)
    return first


def folder_prefix(mark):
    """How the names of a run's temporary folders begin."""
    return f"shoal-test-{mark}-"


def make_folder(parent=None):
    """A new temporary folder of this run, in `parent` or where temporary folders are; the caller removes it."""
    return pathlib.Path(tempfile.mkdtemp(prefix=folder_prefix(os.environ.get(RUN, "alone")), dir=parent))


def kill_run(mark):
    """Ends every process that was started with SHOAL_TEST_RUN=`mark` and removes the folders of that run.

    Returns the pids of the processes. The caller's own process stays, whatever its environment.
    """
    killed = kill_all(f"{RUN}={mark}")
    for parent in (tempfile.gettempdir(), SHARED_MEMORY):
        for path in glob.glob(f"{glob.escape(str(parent))}/{glob.escape(folder_prefix(mark))}*"):
            shutil.rmtree(path, ignore_errors=True)
    return killed
