"""With 8 streams on 2 stages both stages compute nearly all the time."""
import os
import time
import unittest

from tests.support.cluster import Cluster
from tests.support.load import median_at_least, slow_model, wait_until

COMMON = {"weights": "INT8", "max_context": 2048, "kv_blocks": 640, "batch": {"max_sequences": 8}}
STREAMS = 8
BUSY_MIN = 0.85
RATIO_MIN = 0.85
WINDOW_SECONDS = 1.0
WINDOW_SECONDS_MIN = 0.3


def window(server):
    """GetLoads at the begin and the end of a window in which 8 streams decode, and its length in seconds.

    The client does not read during the window: on two cores it would compete with the stages. What the server sends fits
    the connection's window. A fast machine may be done with the streams early: the window ends before the first of them does.
    """
    calls = [server.client.start("Once upon a time", timeout=120, max_tokens=2000, ignore_eos=True, temperature=1.0, seed=index)
             for index in range(STREAMS)]
    try:
        running = wait_until(lambda: server.client.loads().num_running_reqs == STREAMS, 10, interval=0.002)
        assert running is not None, server.client.loads()
        time.sleep(0.05)
        before, begin = server.client.loads(), time.monotonic()
        after, end = before, begin
        while end - begin < WINDOW_SECONDS:
            time.sleep(0.1)
            loads, now = server.client.loads(), time.monotonic()
            if loads.num_running_reqs < STREAMS:
                break
            after, end = loads, now
    finally:
        for call in calls:
            call.cancel()
        assert wait_until(lambda: server.client.loads().num_running_reqs == 0, 10) is not None
    return before, after, end - begin


def measure(server):
    """Output tokens per second of 8 streams, and the busy fraction of each stage, over a window of steady decoding."""
    for _ in range(3):
        before, after, seconds = window(server)
        if seconds >= WINDOW_SECONDS_MIN:
            break
    assert seconds >= WINDOW_SECONDS_MIN, f"the streams end within {seconds:.2f} s: too soon to measure them"
    busy = [(new.busy_seconds - old.busy_seconds) / (new.wall_seconds - old.wall_seconds)
            for old, new in zip(before.stages, after.stages)]
    return (after.generation_tokens_total - before.generation_tokens_total) / seconds, busy


class PipelinedTest(unittest.TestCase):
    """Two cores: two stages of one thread, and for comparison one rank of two threads."""

    def setUp(self):
        if len(os.sched_getaffinity(0)) < 2:
            self.skipTest("needs two cores")

    def test_both_stages_compute_most_of_the_time(self):
        """A model whose layers can be cut evenly; the demo's six layers and head cannot."""
        with Cluster(model=slow_model(), stages=(1, 1), threads=1, **COMMON) as pipeline:
            measure(pipeline)  # All memory touched once.

            def idler():
                tokens, busy = measure(pipeline)
                print(f"small-qwen2 as a pipeline: {tokens:.0f} tokens/s, busy {', '.join(f'{part:.3f}' for part in busy)}")
                return min(busy)
            enough, figures = median_at_least(idler, BUSY_MIN, windows_max=12)
        self.assertTrue(enough, f"busy fraction of the idler stage: {figures}, not {BUSY_MIN}")

    def test_the_pipeline_costs_little_throughput(self):
        """The demo model, whose weights stay in cache."""
        with Cluster(stages=(1, 1), threads=1, **COMMON) as pipeline, Cluster(stages=(1,), threads=2, **COMMON) as single:
            measure(pipeline)  # Both have touched all of their memory once.
            measure(single)

            def ratio():
                one, _ = measure(single)
                piped, busy = measure(pipeline)
                print(f"demo: pipeline {piped:.0f} tokens/s, busy {', '.join(f'{part:.3f}' for part in busy)}; one rank {one:.0f} "
                      f"tokens/s; ratio {piped / one:.3f}")
                return piped / one
            enough, figures = median_at_least(ratio, RATIO_MIN, windows_max=16)
        self.assertTrue(enough, f"throughput against one rank: {figures}, not {RATIO_MIN}")


if __name__ == "__main__":
    unittest.main()
