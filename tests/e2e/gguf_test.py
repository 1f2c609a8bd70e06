"""A real GGUF file, served by ranks under mpirun with its own tokenizer, writes the text that others published."""
import json
import subprocess
import tempfile
import unittest

from tests.support.cluster import ROOT, SHOAL, Cluster

DATA = ROOT.parent / "shared" / "data"
FILE = DATA / "weights" / "stories260K" / "stories260K.gguf"
TOKENS = 200
FP32 = {"weights": "F32", "embedding": "F32", "kv": "KV_F32"}


@unittest.skipUnless(FILE.exists(), f"{FILE} is not there")
class GgufTest(unittest.TestCase):
    """stories260K: a Llama of 8 heads and 4 KV heads with a vocabulary of scores and byte fallback."""

    @classmethod
    def setUpClass(cls):
        cls.golden = json.loads((DATA / "golden" / "stories260K.json").read_text())

    def story(self, model, stages, **formats):
        """What the job writes after the begin token, greedily."""
        with Cluster(model=model, stages=stages, threads=1, **formats) as server:
            return server.client.generate(self.golden["prompt_ids"], max_tokens=TOKENS, ignore_eos=True)

    def test_ranks_write_the_golden_story(self):
        for stages in ((1,), (2,), (1, 1)):
            with self.subTest(stages):
                result = self.story(FILE, stages, **FP32)
                self.assertEqual(result.ids, self.golden["greedy_ids"][:TOKENS])
                self.assertTrue(self.golden["text"].startswith(result.text.strip()), result.text)

    def test_a_prepared_folder_writes_what_the_file_writes(self):
        with tempfile.TemporaryDirectory() as folder:
            target = f"{folder}/prepared"
            subprocess.run([str(SHOAL), "quantize", "--model", str(FILE), "--out", target, "--weights", "bf16"], check=True,
                           capture_output=True)
            prepared = self.story(target, (2,), weights="PREPARED")
        file = self.story(FILE, (1,), weights="BF16")
        self.assertEqual(prepared.ids, file.ids)
        self.assertEqual(prepared.text, file.text)


if __name__ == "__main__":
    unittest.main()
