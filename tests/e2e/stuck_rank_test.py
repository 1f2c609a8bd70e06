"""Jobs that cannot come to their end by themselves: a frozen rank, a stop while loading, a rank that fails alone."""
import os
import pathlib
import shutil
import signal
import tempfile
import threading
import time
import unittest

import grpc

from tests.support.cluster import Cluster, pb
from tests.support.load import wait_until

LONG = {"max_tokens": 1500, "ignore_eos": True}


def blocks_signal(pid, number):
    """True if the main thread of `pid` blocks that signal."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


class FrozenRankTest(unittest.TestCase):
    """The job ends although one rank never answers: by itself, and sooner with a drain."""

    def check(self, begin_drain, busy=True, seconds=10, **options):
        """Freezes rank 1, lets a request wait for it if `busy`, and drains with `begin_drain(server)`."""
        server = Cluster(stages=(2,), weights="INT8", threads=1, **options)
        results = []
        caller = threading.Thread(target=lambda: results.append(server.client.generate("Once", **LONG)))
        try:
            os.kill(server.process.rank_pids()[1], signal.SIGSTOP)
            if busy:
                caller.start()
                self.assertIsNotNone(wait_until(lambda: server.client.loads().num_running_reqs == 1, 10))
            begin = time.monotonic()
            begin_drain(server)
            status = server.process.wait(seconds + 10)
            self.assertIsNotNone(server.process.wait_gone(2), f"{server.process.members()} are left:\n{server.output()}")
            self.assertLess(time.monotonic() - begin, seconds, server.output())
            self.assertNotIn(status, (0, None), server.output())
            self.assertEqual(server.left_behind(), [])
            if busy:
                caller.join(10)
                self.assertEqual(results[0].code, grpc.StatusCode.UNAVAILABLE)
                lines = [line for line in server.output().splitlines() if "a rank is stuck" in line]
                self.assertEqual(len(lines), 1, server.output())
        finally:
            server.abandon()
            if caller.ident:
                caller.join(10)

    def test_drain_by_call(self):
        self.check(lambda server: server.client.admin.Drain(pb.DrainRequest(deadline_seconds=1), timeout=5))

    def test_drain_by_sigterm_to_rank_0(self):
        self.check(lambda server: os.kill(server.process.rank_pids()[0], signal.SIGTERM), drain_seconds=1)

    def test_a_step_that_takes_too_long(self):
        self.check(lambda server: None, limits={"step_seconds": 2})

    def test_drain_of_an_idle_job(self):
        self.check(lambda server: server.client.admin.Drain(pb.DrainRequest(deadline_seconds=1), timeout=5), busy=False,
                   seconds=20)


class StopWhileLoadingTest(unittest.TestCase):
    """SIGTERM and SIGINT to rank 0 before it serves."""

    def test_a_signal_ends_the_job_at_once(self):
        directory = pathlib.Path(tempfile.mkdtemp(prefix="shoal-loading-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        config = directory / "config.textproto"
        os.mkfifo(config)  # Nobody writes: the ranks wait for their configuration.
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                server = Cluster(config_path=config, ranks=2, wait=False)
                try:
                    self.assertIsNotNone(wait_until(
                        lambda s=server: blocks_signal(s.process.rank_pids().get(0), signal.SIGTERM), 10), server.output())
                    os.kill(server.process.rank_pids()[0], number)
                    took = server.process.wait_gone(5)
                    self.assertIsNotNone(took, f"still there: {server.process.members()}\n{server.output()}")
                    self.assertNotIn(server.process.wait(1), (0, None))
                    lines = [line for line in server.output().splitlines() if "stopped while loading" in line]
                    self.assertEqual(len(lines), 1, server.output())
                    self.assertEqual(server.left_behind(), [])
                finally:
                    server.abandon()


if __name__ == "__main__":
    unittest.main()
