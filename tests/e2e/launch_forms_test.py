"""Ways to start things that people try first: `shoal plan` without --ranks."""
import json
import pathlib
import shutil
import tempfile
import unittest

from tests.support.cluster import ROOT, SHOAL, run_program


class PlanTest(unittest.TestCase):
    """An automatic plan needs no --ranks."""

    def test_one_rank_is_assumed_and_said(self):
        config = ROOT / "configs" / "demo_auto.textproto"
        status, out, err, _ = run_program([SHOAL, "plan", "--config", config, "--json"])
        self.assertEqual(status, 0, err)
        self.assertEqual(len(json.loads(out)["ranks"]), 1)
        self.assertEqual(len(err.strip().splitlines()), 1, err)
        self.assertIn("1 rank", err)
        self.assertIn("--ranks", err)

    def test_a_list_of_budgets_says_how_many(self):
        directory = pathlib.Path(tempfile.mkdtemp(prefix="shoal-plan-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        config = directory / "budgets.textproto"
        config.write_text(f'model: "{ROOT}/deploy/demo_model"\nmemory_budget: ["64MiB", "48MiB", "64MiB"]\n')
        status, out, err, _ = run_program([SHOAL, "plan", "--config", config, "--json"])
        self.assertEqual(status, 0, err)
        self.assertEqual(len(json.loads(out)["ranks"]), 3)
        self.assertEqual(err, "")


if __name__ == "__main__":
    unittest.main()
