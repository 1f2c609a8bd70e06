"""The `shoal` command: the forms that scripts rely on."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from tests.support.cluster import DEMO_MODEL, GOLDEN, ROOT, SERVER, SHOAL, Cluster, Process, free_port, run_program
from tests.support.load import FIFTY_PROMPTS, run_all, tokens_of, wait_until

COMMANDS = ("generate", "chat", "plan", "tokenize", "drain", "quantize", "make-model", "bench")
PLANS = {  # config: (ranks, stages)
    "demo_single": (1, 1), "demo_tp2": (2, 1), "demo_tp3": (3, 1), "demo_tp4": (4, 1), "demo_pp2": (2, 2), "demo_pp3": (3, 3),
    "demo_tp2_pp2": (4, 2), "demo_auto": (2, None), "r1_distill_qwen_1_5b_2x4gb": (2, None),
    "r1_distill_qwen_7b_4x4gb": (4, None), "r1_distill_qwen_14b_6x6gb": (6, None),
}

OFFLINE_BENCH = ("bench", "--offline", "--model", DEMO_MODEL, "--prompt", "64,16", "--generate", "4", "--batch", "1,2", "--depth", "0,40",
                 "--repeat", "2")


class WithoutServerTest(unittest.TestCase):
    """Commands that need no server."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="shoal-cli-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def good(self, *arguments, stdin="", seconds=60):
        """Runs `shoal` and returns its standard output; it must succeed."""
        status, out, err, _ = run_program([SHOAL, *arguments], seconds, stdin)
        self.assertEqual(status, 0, f"{arguments}: {err}")
        return out

    def refused(self, expected, *arguments, status=None, stdin=""):
        """Runs `shoal`; it must fail with one line that holds `expected`."""
        found, out, err, seconds = run_program([SHOAL, *arguments], 20, stdin)
        self.assertNotEqual(found, 0, f"{arguments}: {out}")
        if status is not None:
            self.assertEqual(found, status, err)
        self.assertIn(expected, err)
        self.assertEqual(len(err.strip().splitlines()), 1, err)
        self.assertLess(seconds, 10)

    def test_every_command_has_help(self):
        for program in (SHOAL, SERVER):
            status, out, _, _ = run_program([program, "--help"])
            self.assertEqual(status, 0)
            self.assertGreater(len(out), 100)
        overview = self.good("--help")
        for command in COMMANDS:
            self.assertIn(command, overview)
            text = self.good(command, "--help")
            self.assertIn("--", text)
            self.assertGreater(len(text), 100, text)

    def test_wrong_arguments(self):
        self.refused("no-such-command", "no-such-command", status=2)
        for command in COMMANDS:
            self.refused("no-such-flag", command, "--no-such-flag", status=2)
        self.refused("--config", "plan", status=2)
        self.refused("--prompt", "generate", "--server", "127.0.0.1:1", status=2)
        self.refused("max-tokens", "generate", "--server", "127.0.0.1:1", "--prompt", "x", "--max-tokens", "many", status=2)
        self.refused("huge-shape", "make-model", "--shape", "huge-shape", "--out", self.directory / "x")

    def test_nobody_there(self):
        address = f"127.0.0.1:{free_port()}"
        self.refused(address, "generate", "--server", address, "--prompt", "x", status=1)
        self.refused(address, "drain", "--server", address, status=1)

    def test_tokenize_gives_the_golden_ids(self):
        golden = json.loads((GOLDEN / "demo_tokenizer.json").read_text())["strings"]
        lines = [entry for entry in golden if not set(entry["text"]) & set("\n\r\0") and "<|" not in entry["text"]]
        out = self.good("tokenize", "--model", DEMO_MODEL, stdin="".join(entry["text"] + "\n" for entry in lines))
        found = [[int(word) for word in line.split()] for line in out.split("\n")[:len(lines)]]
        for entry, ids in zip(lines, found):
            self.assertEqual(ids, entry["ids"], repr(entry["text"]))
        self.assertGreater(len(lines), 40)

    def test_tokenize_refuses_what_it_cannot_read(self):
        self.refused("nowhere", "tokenize", "--model", self.directory / "nowhere", stdin="x\n")
        status, _, err, _ = run_program(["bash", "-c", f"printf 'ok\\n\\xff\\n' | {SHOAL} tokenize --model {DEMO_MODEL}"])
        self.assertNotEqual(status, 0)
        self.assertIn("UTF-8", err)

    def test_plan_of_every_config(self):
        configs = sorted(path.stem for path in (ROOT / "configs").glob("*.textproto"))
        self.assertLessEqual(set(PLANS), set(configs))
        for name in configs:
            with self.subTest(name):
                ranks, stages = PLANS.get(name, (None, None))
                arguments = ["plan", "--config", ROOT / "configs" / f"{name}.textproto"]
                if name == "demo_auto":
                    arguments += ["--ranks", ranks]
                text = self.good(*arguments)
                self.assertIn("rank", text)
                plan = json.loads(self.good(*arguments, "--json"))
                if ranks:
                    self.assertEqual(len(plan["ranks"]), ranks)
                if stages:
                    self.assertEqual(len({entry["stage"] for entry in plan["ranks"]}), stages)

    def test_impossible_plans_say_why_in_one_line(self):
        cases = {
            "too many ranks": ('plan { stages { ranks: 13 } }', "13"),
            "no memory": ('plan { stages { ranks: 2 } } memory_budget: "1MiB"', "1.00 MiB"),
            "layers": ('plan { stages { ranks: 1 layers: 9 } }', "layers"),
        }
        for name, (plan, expected) in cases.items():
            path = self.directory / "impossible.textproto"
            path.write_text(f'model: "{DEMO_MODEL}" {plan}\n')
            with self.subTest(name):
                self.refused(expected, "plan", "--config", path)

    def test_made_models_serve(self):
        for shape in ("tiny-qwen2", "tiny-llama", "tiny-qwen3"):
            with self.subTest(shape):
                folder = self.directory / shape
                self.good("make-model", "--shape", shape, "--out", folder, "--dtype", "bf16", "--seed", "7")
                again = self.directory / f"{shape}-again"
                self.good("make-model", "--shape", shape, "--out", again, "--dtype", "bf16", "--seed", "7")
                for path in folder.iterdir():
                    self.assertEqual(path.read_bytes(), (again / path.name).read_bytes(), path.name)
                with Cluster(model=folder, stages=(2,), threads=1, kv_blocks=64, max_context=128) as server:
                    result = server.client.generate([1, 2, 3, 4], max_tokens=8, ignore_eos=True)
                    self.assertEqual(len(tokens_of([result])[0]), 8)
                    text = server.client.generate("Hello there", max_tokens=8, ignore_eos=True)
                    self.assertEqual(len(tokens_of([text])[0]), 8)

    def test_quantized_folder_gives_the_tokens_of_quantizing_while_loading(self):
        requests = [(prompt, {"max_tokens": 24, "ignore_eos": True}) for prompt in FIFTY_PROMPTS[:12]]
        for weights in ("int8", "int4"):
            with self.subTest(weights):
                with Cluster(stages=(2,), weights=weights.upper(), threads=1) as server:
                    expected = tokens_of(run_all(server.client, requests, 12))
                folder = self.directory / f"prepared-{weights}"
                self.good("quantize", "--model", DEMO_MODEL, "--out", folder, "--weights", weights)
                with Cluster(model=folder, stages=(2,), weights="PREPARED", threads=1) as server:
                    self.assertEqual(tokens_of(run_all(server.client, requests, 12)), expected)
                other = {"int8": "INT4", "int4": "INT8"}[weights]
                refused = Cluster(model=folder, stages=(1,), weights=other, wait=False)
                try:
                    self.assertEqual(refused.process.wait(10), 2, refused.output())
                    self.assertIn(weights, refused.output().lower())
                finally:
                    refused.abandon()

    def test_quantize_refuses_a_target_that_exists(self):
        target = self.directory / "taken"
        target.mkdir()
        (target / "file").write_text("mine")
        self.refused("taken", "quantize", "--model", DEMO_MODEL, "--out", target, "--weights", "int8")
        self.assertEqual((target / "file").read_text(), "mine")

    def test_offline_bench_reports(self):
        report = json.loads(self.good(*OFFLINE_BENCH, "--json"))
        self.assertEqual([row["prompt_tokens"] for row in report["prefill"]], [64, 16])
        self.assertEqual([(row["batch"], row["depth"]) for row in report["decode"]], [(1, 0), (2, 0), (1, 40), (2, 40)])
        for row in report["prefill"] + report["decode"]:
            speed = row["tokens_per_second"]
            self.assertGreater(speed["min"], 0)
            self.assertLessEqual(speed["min"], speed["median"])
            self.assertLessEqual(speed["median"], speed["max"])
            self.assertAlmostEqual(speed["median"] * row["seconds"]["median"], row["tokens"], places=3)
            for key in ("bytes_per_step", "ops_per_step", "bandwidth_fraction", "int8_fraction"):
                self.assertGreater(row[key], 0, key)
        for key in ("weight_bytes", "kv_bytes", "load_seconds", "first_token_seconds"):
            self.assertGreater(report[key], 0, key)
        self.assertGreater(report["peak_resident_bytes"], report["weight_bytes"])
        self.assertGreater(report["first_token_seconds"], report["ready_seconds"])
        self.assertGreater(report["machine"]["read_bytes_per_second"], 1e8)

    def test_offline_bench_table(self):
        out = self.good(*OFFLINE_BENCH, "--weights", "int4", "--kv", "int8", "--threads", "1")
        for part in ("weights int4, KV int8", "1 thread", "pp64 ", "pp16 ", "tg4 b1 ", "tg4 b2 @ 40"):
            self.assertIn(part, out)

    def test_offline_bench_takes_prepared_folders(self):
        prepared = self.directory / "prepared"
        self.good("quantize", "--model", DEMO_MODEL, "--out", prepared, "--weights", "int4")
        form = ("bench", "--offline", "--model", prepared, "--prompt", "8", "--generate", "0", "--repeat", "1")
        self.assertIn("weights int4", self.good(*form))
        self.refused("have a format already", *form, "--weights", "int8")

    def test_offline_bench_refuses(self):
        form = ("bench", "--offline", "--model", DEMO_MODEL)
        self.refused("--server HOST:PORT or --offline", "bench", status=2)
        self.refused("--offline needs --model DIR", "bench", "--offline", status=2)
        self.refused("--batch is '1,x'", *form, "--batch", "1,x", status=2)
        self.refused("--kv is 'int3'", *form, "--kv", "int3", status=2)
        self.refused("int3", *form, "--weights", "int3", status=2)
        self.refused("--requests does not go with --offline", *form, "--requests", "3", status=2)
        self.refused("--depth does not go with --server", "bench", "--server", "127.0.0.1:1", "--depth", "3", status=2)
        self.refused("positions", *form, "--depth", "1000000")
        self.refused("isa 'z80'", *form, "--isa", "z80")
        self.refused("no-such-folder", "bench", "--offline", "--model", "no-such-folder")


class WithServerTest(unittest.TestCase):
    """Commands that talk to a server of two ranks."""

    @classmethod
    def setUpClass(cls):
        cls.server = Cluster(config_path=ROOT / "configs" / "demo_tp2.textproto", ranks=2)

    @classmethod
    def tearDownClass(cls):
        with cls.server:
            pass

    def run_shoal(self, *arguments, stdin="", seconds=60):
        """Runs `shoal` against the server and returns its standard output; it must succeed."""
        status, out, err, _ = run_program([SHOAL, arguments[0], "--server", self.server.address, *arguments[1:]], seconds, stdin)
        self.assertEqual(status, 0, err)
        return out

    def test_generate_streams_the_text(self):
        prompt = "Once upon a time, there was a"
        expected = self.server.client.generate(prompt, max_tokens=40)
        out = self.run_shoal("generate", "--prompt", prompt, "--max-tokens", 40, "--temperature", 0)
        self.assertEqual(out.rstrip("\n"), expected.text.rstrip("\n"))

    def test_generate_writes_text_while_it_is_made(self):
        command = [str(SHOAL), "generate", "--server", self.server.address, "--prompt", "Once upon a time", "--max-tokens", "1900",
                   "--ignore-eos", "--temperature", "1", "--seed", "3", "--stop", "never-this"]
        for _ in range(5):  # This program may be late to look.
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                first = process.stdout.read(1)
                running = process.poll() is None
                rest = process.stdout.read()
                self.assertEqual(process.wait(60), 0)
            self.assertTrue(first)
            self.assertGreater(len(rest), 1900)  # At least a character per token.
            if running:
                break
        self.assertTrue(running, "the text came only at the end")

    def test_generate_json(self):
        for chat in (False, True):
            with self.subTest(chat=chat):
                prompt = "What is 17 plus 25?"
                expected = self.server.client.generate([("user", prompt)] if chat else prompt, max_tokens=30)
                arguments = ["--prompt", prompt, "--max-tokens", 30, "--temperature", 0, "--json"]
                answer = json.loads(self.run_shoal("generate", *arguments, *(["--chat"] if chat else [])))
                self.assertEqual(answer["text"], expected.text)
                self.assertEqual(answer["token_ids"], expected.ids)
                self.assertEqual(answer["finish_reason"], {"STOP": "stop", "LENGTH": "length"}[expected.finish])
                usage = expected.complete.usage
                self.assertEqual((answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"],
                                  answer["usage"]["total_tokens"]),
                                 (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens))

    def test_seed_decides_the_text(self):
        arguments = ["generate", "--prompt", "Once upon a time", "--max-tokens", 40, "--temperature", 1]
        first = self.run_shoal(*arguments, "--seed", 11)
        self.assertEqual(self.run_shoal(*arguments, "--seed", 11), first)
        self.assertTrue(any(self.run_shoal(*arguments, "--seed", seed) != first for seed in (12, 13)))

    def test_generate_stops_at_a_stop_string(self):
        whole = self.run_shoal("generate", "--prompt", "Once upon a time", "--max-tokens", 60, "--temperature", 0)
        word = whole.split()[6]
        cut = self.run_shoal("generate", "--prompt", "Once upon a time", "--max-tokens", 60, "--temperature", 0, "--stop", word)
        self.assertEqual(cut.rstrip("\n"), whole[:whole.index(word)].rstrip("\n"))

    def test_generate_passes_the_servers_refusal_on(self):
        status, _, err, _ = run_program([SHOAL, "generate", "--server", self.server.address, "--prompt", "x",
                                         "--temperature", "-3"])
        self.assertNotEqual(status, 0)
        self.assertIn("temperature", err)
        self.assertEqual(len(err.strip().splitlines()), 1, err)

    def test_chat_answers_each_line(self):
        out = self.run_shoal("chat", "--temperature", 0, stdin="What is 2 plus 3?\nWhat is 17 plus 25?\n")
        answers = out.strip().splitlines()
        self.assertEqual(len(answers), 2, out)
        self.assertIn("5", re.findall(r"\d+", answers[0])[-1:], out)
        self.assertRegex(answers[1], r"\d", out)

    def test_bench_reports(self):
        out = self.run_shoal("bench", "--requests", 12, "--concurrency", 4, "--machine", "--json")
        report = json.loads(out)
        self.assertEqual((report["num_prompts"], report["completed"], report["failed"], report["max_concurrency"]), (12, 12, 0, 4))
        self.assertEqual((report["total_input_tokens"], report["total_output_tokens"]), (12 * 64, 12 * 64))
        self.assertGreater(report["machine"]["int8_ops_per_second"], report["ops_per_second"])
        keys = ["duration", "request_throughput", "output_throughput", "total_token_throughput", "ops_per_second",
                "ttft_ops_per_second", "tpot_bytes_per_second", "itl_bytes_per_second", "e2el_ops_per_second"]
        for figure in ("ttft", "tpot", "itl", "e2el"):
            keys += [f"{statistic}_{figure}_ms" for statistic in ("mean", "median", "p50", "p90", "p95", "p99")]
        for key in keys:
            self.assertIsInstance(report[key], (int, float), key)
            self.assertGreater(report[key], 0, key)
            self.assertLess(report[key], 1e9 if "second" not in key else 1e13, key)
        self.assertAlmostEqual(report["output_throughput"], report["total_output_tokens"] / report["duration"], delta=1)
        for figure in ("ttft", "tpot", "itl", "e2el"):
            ordered = [report[f"p{percent}_{figure}_ms"] for percent in (50, 90, 95, 99)]
            self.assertEqual(ordered, sorted(ordered))

    def test_bench_at_a_rate(self):
        out = self.run_shoal("bench", "--requests", 10, "--request-rate", 50, "--max-tokens", 4, "--json")
        report = json.loads(out)
        self.assertEqual((report["completed"], report["request_rate"]), (10, 50))
        # Nine gaps of 20 ms on average; less than a tenth of that does not happen by chance.
        self.assertGreater(report["duration"], 0.018)
        self.assertIn("50 sent per second", self.run_shoal("bench", "--requests", 5, "--request-rate", 50, "--max-tokens", 2))


class DrainTest(unittest.TestCase):
    """`shoal drain`."""

    def test_drain_ends_the_job_with_status_0(self):
        server = Cluster(config_path=ROOT / "configs" / "demo_tp2.textproto", ranks=2)
        try:
            begin = time.monotonic()
            status, _, err, _ = run_program([SHOAL, "drain", "--server", server.address], 20)
            self.assertEqual(status, 0, err)
            self.assertEqual(server.process.wait(10), 0, server.output())
            self.assertLess(time.monotonic() - begin, 5)
            self.assertIsNotNone(server.process.wait_gone(2))
            self.assertEqual(server.left_behind(), [])
        finally:
            server.abandon()


class QuickstartTest(unittest.TestCase):
    """deploy/quickstart.sh, on the build at hand."""

    def test_quickstart_answers_and_stops(self):
        if SERVER.parent.parent != ROOT / "build":
            self.skipTest("runs on the build folder ROOT/build only")
        status, out, err, seconds = run_program([ROOT / "deploy" / "quickstart.sh"], 300,
                                                environment={**os.environ, "SHOAL_WITH_TESTS": "ON"})
        self.assertEqual(status, 0, out + err)
        self.assertRegex(out, r"tokens?/s|tokens per second")
        self.assertIn("rank", out)
        self.assertIn("fox", out.split("Shoal: ", 1)[1].lower())
        self.assertLess(seconds, 300)

    def test_quickstart_serves_until_it_is_told_to_stop(self):
        if SERVER.parent.parent != ROOT / "build":
            self.skipTest("runs on the build folder ROOT/build only")
        directory = tempfile.mkdtemp(prefix="shoal-quickstart-")
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        script = Process([ROOT / "deploy" / "quickstart.sh", "--serve", "--prompt", "What is 2 plus 3?"], directory,
                         {**os.environ, "SHOAL_WITH_TESTS": "ON"})
        try:
            self.assertIsNotNone(wait_until(lambda: "Ctrl-C" in script.output(), 300), script.output())
            address = re.search(r"Serving on (\S+)\.", script.output()).group(1)
            status, out, err, _ = run_program([SHOAL, "generate", "--server", address, "--chat", "--prompt", "Hello!"])
            self.assertEqual(status, 0, err)
            self.assertTrue(out.strip())
            os.kill(script.popen.pid, signal.SIGINT)
            self.assertEqual(script.wait(20), 0, script.output())
            self.assertIsNotNone(script.wait_gone(3), "the quickstart left processes behind")
        finally:
            script.kill()


if __name__ == "__main__":
    unittest.main()
