"""Ways to start things that people try first: `shoal plan` without --ranks, --config=FILE, a proxy in the environment."""
import json
import os
import pathlib
import shutil
import tempfile
import unittest

from tests.support.cluster import ROOT, SERVER, SHOAL, Cluster, mpirun_environment, run_program


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


class ServerTest(unittest.TestCase):
    """Arguments of shoal-server, and a client whose environment names a proxy."""

    def test_config_with_an_equals_sign(self):
        status, out, err, _ = run_program(["mpirun", "-n", "1", SERVER, "--config=no-such-file.textproto"], 10,
                                          environment=mpirun_environment())
        self.assertEqual(status, 2, out + err)
        self.assertIn("no-such-file.textproto", out + err)
        self.assertNotIn("unknown argument", out + err)

    def test_a_proxy_in_the_environment_is_not_asked_for_loopback(self):
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("no_proxy")}
        environment.pop("no_grpc_proxy", None)
        environment.update(http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9", grpc_proxy="http://127.0.0.1:9")
        with Cluster(weights="INT8") as server:
            status, _, err, _ = run_program([SHOAL, "generate", "--server", server.address, "--prompt", "Once",
                                             "--max-tokens", "2"], environment=environment)
            self.assertEqual(status, 0, err)


if __name__ == "__main__":
    unittest.main()
