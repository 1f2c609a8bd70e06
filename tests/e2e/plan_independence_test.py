"""The tokens do not depend on the plan, the batch, the chunks of a prompt or preemption (int8 weights)."""
import unittest

from tests.support.cluster import Cluster
from tests.support.load import FIFTY_PROMPTS, run_all, run_together, tokens_of

TOKENS = 32
TOGETHER = 16
COMMON = {"weights": "INT8", "max_context": 2048, "threads": 1, "limits": {"streams_per_connection": 256}}
BATCH = {"max_sequences": TOGETHER, "max_waiting": 256}
LOGPROBS = {"logprobs": 5}


def requests(**more):
    """Every prompt greedy and at temperature 1 with a seed of its own."""
    out = []
    for index, prompt in enumerate(FIFTY_PROMPTS):
        out.append((prompt, {"max_tokens": TOKENS, "ignore_eos": True, **more}))
        out.append((prompt, {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 1.0, "seed": 1000 + index, **more}))
    return out


class PlanIndependenceTest(unittest.TestCase):
    """Everything is compared with one rank that runs one request at a time."""

    @classmethod
    def setUpClass(cls):
        with Cluster(stages=(1,), **COMMON) as server:
            results = run_all(server.client, requests(**LOGPROBS), 1)
        cls.expected = tokens_of(results)
        cls.expected_logprobs = [result.logprobs for result in results]
        assert all(len(logprobs) == TOKENS for logprobs in cls.expected_logprobs)
        assert all(len(ids) == TOKENS for ids in cls.expected)
        # Sampling really samples: seeds give other tokens than greedy for most prompts.
        differ = sum(cls.expected[i] != cls.expected[i + 1] for i in range(0, len(cls.expected), 2))
        assert differ > len(FIFTY_PROMPTS) // 2, f"only {differ} prompts differ between greedy and temperature 1"

    def compare(self, results, what):
        """Fails with the first differing request."""
        for index, (found, expected) in enumerate(zip(tokens_of(results), self.expected)):
            if found != expected:
                at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
                different = sum(a != b for a, b in zip(tokens_of(results), self.expected))
                self.fail(f"{what}: {different} of {len(self.expected)} requests differ; request {index} "
                          f"({'greedy' if index % 2 == 0 else 'sampled'}) from token {at} on: {found} != {expected}")

    def compare_logprobs(self, results, what):
        """Fails with the first differing number: the log probabilities are functions of logits that must be bit-identical."""
        for index, (result, expected) in enumerate(zip(results, self.expected_logprobs)):
            self.assertEqual(len(result.logprobs), TOKENS)
            for at, (found, wanted) in enumerate(zip(result.logprobs, expected)):
                self.assertEqual(found, wanted, f"{what}: request {index}, token {at}")

    def check_plan(self, stages, **options):
        """Alone and 16 at a time: the server takes no more, and the rest wait in its queue."""
        with Cluster(stages=stages, **{**COMMON, "batch": BATCH, **options}) as server:
            self.compare(run_together(server.client, requests(), holders=TOGETHER), f"{stages}, 16 at a time")
            if stages != (1,):
                self.compare(run_all(server.client, requests(), 1), f"{stages}, alone")

    def test_one_rank(self):
        self.check_plan((1,))

    def test_tensor_parallel_2(self):
        self.check_plan((2,))

    def test_tensor_parallel_3(self):
        self.check_plan((3,))

    def test_tensor_parallel_4(self):
        self.check_plan((4,))

    def test_pipeline_2(self):
        self.check_plan((1, 1))

    def test_pipeline_3_uneven(self):
        self.check_plan(((1, 3), (1, 2), (1, 1)))

    def test_tensor_2_pipeline_2(self):
        self.check_plan((2, 2))

    def check_small_pool(self, stages):
        """A KV pool far too small for 16 requests, and prompts in chunks of 7 tokens."""
        batch = {**BATCH, "max_step_tokens": 24, "prefill_chunk_tokens": 7}
        with Cluster(stages=stages, **{**COMMON, "max_context": 256, "block_tokens": 16, "kv_blocks": 24,
                                       "batch": batch}) as server:
            what = f"{stages}, 24 blocks"
            results = run_together(server.client, requests(**LOGPROBS))
            self.compare(results, what)
            self.compare_logprobs(results, what)
            loads = server.client.loads()
            self.assertGreater(loads.preemptions_total, 0, "the pool was not too small: nothing was preempted")
            self.assertEqual(loads.kv_blocks_used, 0)

    def test_preemption_and_small_chunks_on_one_rank(self):
        self.check_small_pool((1,))

    def test_preemption_and_small_chunks_on_a_pipeline(self):
        self.check_small_pool((1, 1))

    def test_preemption_and_small_chunks_with_tensor_parallel_ranks(self):
        self.check_small_pool((2,))

    def test_threads_of_a_rank_change_nothing(self):
        self.check_plan((1,), threads=2)


if __name__ == "__main__":
    unittest.main()
