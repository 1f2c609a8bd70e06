"""With 8 streams on 2 stages both stages compute nearly all the time."""
import json
import os
import unittest

from tests.support.cluster import SHOAL, Cluster, run_program

COMMON = {"weights": "INT8", "max_context": 512, "batch": {"max_sequences": 8}}
STREAMS = 8
BUSY_MIN = 0.85
RATIO_MIN = 0.85
ATTEMPTS_MAX = 4


def measure(server, requests):
    """Runs `shoal bench` with 8 streams: (output tokens per second, busy fraction of each stage while it ran)."""
    before = {load.stage: load for load in server.client.loads().stages}
    status, out, err, _ = run_program([SHOAL, "bench", "--server", server.address, "--concurrency", STREAMS, "--requests", requests,
                                       "--max-tokens", 128, "--json"], 120)
    if status != 0:
        raise AssertionError(err)
    after = server.client.loads().stages
    busy = [(load.busy_seconds - before[load.stage].busy_seconds) / (load.wall_seconds - before[load.stage].wall_seconds)
            for load in after]
    return json.loads(out[out.index("{"):])["output_throughput"], busy


class PipelinedTest(unittest.TestCase):
    """The demo model on two cores: two stages of one thread against one rank of two threads."""

    def test_busy_stages_and_throughput(self):
        if (os.cpu_count() or 1) < 2:
            self.skipTest("needs two cores")
        with Cluster(stages=(1, 1), threads=1, **COMMON) as pipeline, Cluster(stages=(1,), threads=2, **COMMON) as single:
            measure(pipeline, 8)  # Both have touched all of their memory once.
            measure(single, 8)
            attempts = []
            for _ in range(ATTEMPTS_MAX):  # A machine with other work may spoil some.
                one, _ = measure(single, 32)
                piped, busy = measure(pipeline, 32)
                attempts.append((min(busy), piped / one))
                print(f"pipeline {piped:.0f} tokens/s, busy {', '.join(f'{part:.3f}' for part in busy)}; one rank {one:.0f} "
                      f"tokens/s; ratio {piped / one:.3f}")
                if min(busy) >= BUSY_MIN and piped / one >= RATIO_MIN:
                    break
        self.assertGreaterEqual(max(busy for busy, _ in attempts), BUSY_MIN, "busy fraction")
        self.assertGreaterEqual(max(ratio for _, ratio in attempts), RATIO_MIN, "throughput against one rank")


if __name__ == "__main__":
    unittest.main()
