"""Ranks on GPUs, emulated, under mpirun: the tokens of CPU ranks, over every transport that needs no real GPU."""
import unittest

from tests.support.cluster import EMULATED_SERVER, Cluster
from tests.support.load import FIFTY_PROMPTS, run_all, tokens_of

TOKENS = 10
# One rank computes about a hundred million multiply-adds a second.
COMMON = {"weights": "INT8", "max_context": 512, "threads": 1, "batch": {"max_sequences": 4, "max_waiting": 16}}


def requests():
    """A few short prompts, greedy and sampled."""
    prompts = sorted((prompt for prompt in FIFTY_PROMPTS if isinstance(prompt, str)), key=len)[:3]
    out = [(prompt, {"max_tokens": TOKENS, "ignore_eos": True, "logprobs": 3}) for prompt in prompts]
    return out + [(prompts[0], {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 1.0, "seed": 7, "logprobs": 3})]


class CudaRanksTest(unittest.TestCase):
    """Everything is compared with one CPU rank, log probabilities included."""

    @classmethod
    def expected(cls, kv):
        """What a CPU rank answers."""
        with Cluster(stages=(1,), kv=kv, extra="device: CPU", **COMMON) as server:
            results = run_all(server.client, requests(), 2)
        return tokens_of(results), [result.logprobs for result in results]

    def check(self, stages, transport, kv="KV_F16", says=""):
        """The same requests on emulated GPUs; `says` must be in the log."""
        with Cluster(stages=stages, kv=kv, program=EMULATED_SERVER, ready_seconds=120,
                     extra=f"device: CUDA cuda {{ transport: {transport} workspace_memory: \"2MiB\" }}", **COMMON) as server:
            results = run_all(server.client, requests(), 2)
            log = server.output()
        tokens, logprobs = self.expected(kv)
        self.assertEqual(tokens_of(results), tokens)
        self.assertEqual([result.logprobs for result in results], logprobs)
        self.assertIn("cuda, emulated", log)
        self.assertIn(says, log)

    def test_one_rank(self):
        self.check((1,), "AUTO")

    def test_one_rank_with_an_8_bit_cache(self):
        self.check((1,), "AUTO", kv="KV_INT8")

    def test_tensor_parallel_through_shared_host_memory(self):
        self.check((2,), "HOST_LL")

    def test_tensor_parallel_through_mpi(self):
        self.check((2,), "MPI_HOST")

    def test_pipeline_through_shared_host_memory(self):
        self.check((1, 1), "HOST_LL")

    def test_whatever_the_start_up_test_chooses(self):
        self.check((2, 1), "AUTO")


if __name__ == "__main__":
    unittest.main()
