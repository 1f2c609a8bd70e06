"""Ranks on CPUs under mpirun: shared memory where it can be had, else MPI, and the same tokens by either."""
import ctypes
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from tests.support.cluster import Cluster
from tests.support.load import FIFTY_PROMPTS, run_all, tokens_of

COMMON = {"weights": "INT8", "threads": 1}
PLANS = {"tensor parallel": ((2,), "sums"), "pipeline": ((1, 1), "tensors")}
CLONE_NEWNS = 0x00020000


def requests():
    """Short prompts and a long one, greedy."""
    prompts = sorted((prompt for prompt in FIFTY_PROMPTS if isinstance(prompt, str)), key=len)
    return [(prompt, {"max_tokens": 16, "ignore_eos": True}) for prompt in (*prompts[:3], prompts[-1])]


def lines_with(output, *words):
    """Lines of the log that hold all of `words`."""
    return [line for line in output.splitlines() if all(word in line for word in words)]


class CpuTransportsTest(unittest.TestCase):
    """What the configuration demands, and what the host has."""

    @classmethod
    def setUpClass(cls):
        with Cluster(stages=(1,), extra="device: CPU", **COMMON) as server:
            cls.expected = tokens_of(run_all(server.client, requests(), 2))

    def serve(self, stages, transport):
        """The log of a job that has given the expected tokens."""
        extra = f"device: CPU cpu {{ transport: {transport} }}"
        with Cluster(stages=stages, extra=extra, **COMMON) as server:
            self.assertEqual(tokens_of(run_all(server.client, requests(), 2)), self.expected)
            return server.output()

    def test_shared_memory_is_taken_and_may_be_demanded(self):
        for transport in ("AUTO", "SHARED_MEMORY"):
            for name, (stages, what) in PLANS.items():
                with self.subTest(name, transport=transport):
                    log = self.serve(stages, transport)
                    self.assertEqual(len(lines_with(log, f"ranks 0,1: {what} through shared memory")), 1, log)

    def test_mpi_may_be_demanded(self):
        for name, (stages, _) in PLANS.items():
            with self.subTest(name):
                log = self.serve(stages, "MPI")
                self.assertEqual(lines_with(log, "shared memory"), [], log)

    def test_a_host_without_room_for_shared_memory(self):
        """A /dev/shm as small as a container's may be: MPI with a warning, or an error where shared memory is demanded."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="shoal-vader-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        # This process and its children alone see the small file system.
        if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
            self.skipTest("needs the right to mount file systems")
        mounts = (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", "size=128k", "small", "/dev/shm"])
        for command in mounts:
            if subprocess.run(command, check=False, capture_output=True).returncode != 0:
                self.skipTest("needs the right to mount file systems")
        self.addCleanup(subprocess.run, ["umount", "/dev/shm"], check=True)
        os.environ["OMPI_MCA_btl_vader_backing_directory"] = str(folder)  # MPI needs room, too.
        self.addCleanup(os.environ.pop, "OMPI_MCA_btl_vader_backing_directory")
        for name, (stages, what) in PLANS.items():
            with self.subTest(name):
                log = self.serve(stages, "AUTO")
                self.assertEqual(len(lines_with(log, f"ranks 0,1: {what} by MPI", "make /dev/shm larger")), 1, log)
            with self.subTest(name, transport="SHARED_MEMORY"):
                server = Cluster(stages=stages, wait=False, extra="device: CPU cpu { transport: SHARED_MEMORY }", **COMMON)
                try:
                    self.assertEqual(server.process.wait(30), 3, server.output())
                    lines = lines_with(server.output(), "cpu.transport is SHARED_MEMORY", "make /dev/shm larger")
                    self.assertEqual(len(lines), 1, server.output())
                finally:
                    server.abandon()


if __name__ == "__main__":
    unittest.main()
