"""The demo model with fp32 weights says, through the whole server, what Hugging Face transformers says."""
import json
import unittest

from tests.support.cluster import GOLDEN, Cluster, pb
from tests.support.load import run_all, tokens_of

FP32 = {"weights": "F32", "embedding": "F32", "kv": "KV_F32"}


class GoldenTest(unittest.TestCase):
    """tests/golden/demo.json and demo_tokenizer.json."""

    @classmethod
    def setUpClass(cls):
        cls.continuations = json.loads((GOLDEN / "demo.json").read_text())["continuations"]
        assert len(cls.continuations) == 50, len(cls.continuations)

    def check(self, stages):
        """Greedy continuations of all golden prompts."""
        with Cluster(stages=stages, **FP32) as server:
            requests = [(entry["prompt_ids"], {"max_tokens": len(entry["ids"]), "ignore_eos": True,
                                               "skip_special_tokens": False}) for entry in self.continuations]
            results = run_all(server.client, requests, 8)
            for entry, ids, result in zip(self.continuations, tokens_of(results), results):
                self.assertEqual(ids, entry["ids"], entry["text"])
                self.assertEqual(result.text, entry["output_text"])
                self.assertEqual(result.finish, "LENGTH")
                self.assertEqual(result.complete.usage.prompt_tokens, len(entry["prompt_ids"]))

    def test_one_rank_continues_50_prompts_like_the_reference(self):
        self.check((1,))

    def test_three_tensor_parallel_ranks_do_too(self):
        self.check((3,))

    def test_two_stages_do_too(self):
        self.check((1, 1))

    def test_text_and_chat_input_become_the_golden_ids(self):
        golden = json.loads((GOLDEN / "demo_tokenizer.json").read_text())
        with Cluster(**FP32) as server:
            for entry in golden["strings"]:
                answer = server.client.inference.Tokenize(pb.TokenizeRequest(text=entry["text"]), timeout=10)
                self.assertEqual(list(answer.token_ids), entry["ids"], repr(entry["text"]))
                if entry["ids"]:
                    back = server.client.inference.Detokenize(
                        pb.DetokenizeRequest(token_ids=entry["ids"], skip_special_tokens=False), timeout=10)
                    self.assertEqual(back.text, entry["decoded"])
            for entry in golden["chats"]:
                if any("<|" in message["content"] for message in entry["messages"]):
                    continue  # Control tokens inside a message stay plain text here, on purpose.
                request = pb.TokenizeRequest()
                request.messages.add_generation_prompt = entry["add_generation_prompt"]
                for message in entry["messages"]:
                    request.messages.messages.add(role=message["role"], content=message["content"])
                answer = server.client.inference.Tokenize(request, timeout=10)
                self.assertEqual(list(answer.token_ids), entry["ids"], entry["rendered"])
            for entry in self.continuations[:6]:
                prompt = [("user", entry["text"])] if entry["chat"] else entry["text"]
                result = server.client.generate(prompt, max_tokens=16, ignore_eos=True)
                self.assertEqual(result.ids, entry["ids"][:16], entry["text"])


if __name__ == "__main__":
    unittest.main()
