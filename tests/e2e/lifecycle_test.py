"""How a job ends: drains finish what runs, a stop or a fault leaves nothing."""
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import unittest

import grpc

from tests.support import processes
from tests.support.cluster import Cluster, Process, pb
from tests.support.load import FIFTY_PROMPTS, slow_model, wait_until

STAGES = {"two tensor-parallel ranks": (2,), "two stages of two": (2, 2)}
STREAM = {"ignore_eos": True, "temperature": 1.0, "seed": 1}
LONGEST = 1900  # Tokens; seconds of work for the slow model.


class Streams:
    """Some requests that run in the background."""

    def __init__(self, server, count, **options):
        self.server = server
        self.results = [None] * count
        options = {**STREAM, **options}

        def run(index):
            self.results[index] = server.client.generate(FIFTY_PROMPTS[index], **options)
        self.threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
        for thread in self.threads:
            thread.start()
        running = wait_until(lambda: server.client.loads().num_running_reqs == count, 10)
        assert running is not None, f"the streams do not run: {server.client.loads()}"

    def join(self, seconds=120):
        """Waits for all of them."""
        for thread in self.threads:
            thread.join(seconds)
        assert None not in self.results, f"streams still run after {seconds} s"
        return self.results


class DrainTest(unittest.TestCase):
    """Running requests finish, new ones are refused, every rank exits with 0."""

    def check(self, stages, begin_drain):
        """`begin_drain(server)` starts the drain while 4 streams run.

        On a machine so fast that they end before the drain is seen, the test would prove nothing: then with longer ones.
        """
        for tokens in (300, LONGEST):
            if self.drained_while_running(stages, begin_drain, tokens):
                return
        self.fail(f"4 streams of {LONGEST} tokens ended before the drain was seen")

    def drained_while_running(self, stages, begin_drain, tokens):
        """The check itself; False if a stream ended before new requests were refused."""
        server = Cluster(model=slow_model(), stages=stages, weights="INT8", threads=1, kv_blocks=512)
        try:
            server.note_segments()
            streams = Streams(server, 4, max_tokens=tokens)
            begin_drain(server)

            def refuses():
                return server.client.generate("Once", max_tokens=1, timeout=5).code == grpc.StatusCode.UNAVAILABLE
            self.assertIsNotNone(wait_until(refuses, 2), "new requests were still taken 2 s after the drain began")
            refused = time.monotonic()
            try:
                self.assertEqual(server.client.health(), "NOT_SERVING")
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)  # Already gone.
            results = streams.join()
            for result in results:
                self.assertEqual(result.code, grpc.StatusCode.OK, result.error)
                self.assertEqual((result.finish, len(result.ids)), ("LENGTH", tokens))
            self.assertEqual(server.process.wait(10), 0, server.output())
            self.assertIsNotNone(server.process.wait_gone(3), server.output())
            self.assertEqual(server.left_behind(), [])
            return all(result.ended > refused for result in results)
        finally:
            server.abandon()

    def test_drain_by_call(self):
        for name, stages in STAGES.items():
            with self.subTest(name):
                self.check(stages, lambda server: server.drain())

    def test_drain_by_sigterm_to_rank_0(self):
        for name, stages in STAGES.items():
            with self.subTest(name):
                self.check(stages, lambda server: os.kill(server.process.rank_pids()[0], signal.SIGTERM))

    def test_drain_of_an_idle_server(self):
        with Cluster(stages=(2,), weights="INT8") as server:
            begin = time.monotonic()
            self.assertEqual(server.stop(), 0, server.output())
            self.assertLess(time.monotonic() - begin, 3)

    def test_a_drain_does_not_wait_longer_than_its_deadline(self):
        with Cluster(model=slow_model(), stages=(1, 1), weights="INT8", threads=1, kv_blocks=512) as server:
            streams = Streams(server, 4, max_tokens=LONGEST)
            begin = time.monotonic()
            server.client.admin.Drain(pb.DrainRequest(deadline_seconds=0.5), timeout=5)
            results = streams.join()
            self.assertEqual(server.process.wait(10), 0, server.output())
            self.assertLess(time.monotonic() - begin, 5)
            for result in results:
                self.assertTrue(result.finish == "ABORT" or result.code == grpc.StatusCode.UNAVAILABLE,
                                f"{result.finish} {result.error}")
                self.assertGreater(len(result.ids), 0)
                self.assertLess(len(result.ids), LONGEST)


class StopTest(unittest.TestCase):
    """Everything is gone within 3 seconds and nothing is left behind."""

    def check(self, stages, fault, busy=True):
        """`fault(server)` ends the job the hard way while 4 streams run."""
        server = Cluster(stages=stages, weights="INT8", threads=1, **({"model": slow_model()} if busy else {}))
        streams = None
        try:
            server.note_segments()
            if busy:
                streams = Streams(server, 4, max_tokens=LONGEST)
            fault(server)
            took = server.process.wait_gone(3)
            self.assertIsNotNone(took, f"after 3 s there are still {server.process.members()}:\n{server.output()}")
            self.assertIsNotNone(server.process.wait(1))
            self.assertEqual(server.left_behind(), [])
            if streams:
                for result in streams.join(10):  # None is OK: they were all at work.
                    self.assertIn(result.code, (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL,
                                                grpc.StatusCode.CANCELLED))
            return server.process.popen.returncode, server.output()
        finally:
            server.abandon()
            if streams:
                streams.join(10)

    def test_sigterm_to_mpirun(self):
        for name, stages in STAGES.items():
            with self.subTest(name):
                self.check(stages, lambda server: os.kill(server.process.popen.pid, signal.SIGTERM))

    def test_sigterm_to_mpirun_of_an_idle_job(self):
        self.check((2,), lambda server: os.kill(server.process.popen.pid, signal.SIGTERM), busy=False)

    def test_sigint_to_mpirun(self):
        self.check((2,), lambda server: os.kill(server.process.popen.pid, signal.SIGINT))

    def test_sigkill_of_any_rank_ends_all(self):
        for rank in range(4):
            with self.subTest(rank=rank):
                status, _ = self.check((2, 2), lambda server, victim=rank: os.kill(server.process.rank_pids()[victim],
                                                                                   signal.SIGKILL))
                self.assertNotEqual(status, 0)

    def test_sigkill_of_a_rank_of_an_idle_job_ends_all(self):
        for rank in range(2):
            with self.subTest(rank=rank):
                status, _ = self.check((1, 1), lambda server, victim=rank: os.kill(server.process.rank_pids()[victim],
                                                                                   signal.SIGKILL), busy=False)
                self.assertNotEqual(status, 0)

    def test_segmentation_fault_of_a_rank_ends_all(self):
        status, _ = self.check((2,), lambda server: os.kill(server.process.rank_pids()[1], signal.SIGSEGV))
        self.assertNotEqual(status, 0)

    def test_a_rank_that_leaves_on_sigterm_ends_all(self):
        self.check((2,), lambda server: os.kill(server.process.rank_pids()[1], signal.SIGTERM))


class KilledTestTest(unittest.TestCase):
    """What a test program leaves behind if it is killed."""

    def test_kill_run_ends_the_jobs_of_that_run_only(self):
        folder = processes.make_folder()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        run = f"killed-{os.getpid()}"
        job = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"]
        doomed = Process(job, folder, {**os.environ, processes.RUN: run})
        other = Process(job, folder)
        forgotten = tempfile.mkdtemp(prefix=processes.folder_prefix(run))
        try:
            for process in (doomed, other):
                self.assertIsNotNone(wait_until(lambda: len(process.members()) == 2, 10))
            self.assertEqual(len(processes.kill_run(run)), 2)
            self.assertIsNotNone(doomed.wait(5))
            self.assertEqual(len(other.members()), 2)
            self.assertFalse(os.path.exists(forgotten))
        finally:
            doomed.kill()
            other.kill()


if __name__ == "__main__":
    unittest.main()
