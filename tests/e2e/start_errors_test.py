"""A job that cannot serve ends within 5 seconds, as a whole, and says why in one clear line."""
import json
import pathlib
import shutil
import socket
import struct
import tempfile
import unittest

from tests.support.cluster import DEMO_MODEL, SERVER, Cluster, config_text, mpirun_environment, run_program

SECONDS_MAX = 5
ATTEMPTS = 2  # A busy machine may start one job late.
# Exit codes, as `shoal-server --help` says.
REFUSED, MEMORY, PORT = 2, 3, 4


class StartErrorsTest(unittest.TestCase):
    """Broken configs and broken model folders on one and two ranks."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="shoal-errors-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def model(self, name, changes=None, remove=()):
        """A copy of the demo model with files changed (name to bytes, or to a function of the old bytes) or removed."""
        folder = self.directory / name
        shutil.copytree(DEMO_MODEL, folder)
        for file, change in (changes or {}).items():
            path = folder / file
            path.write_bytes(change(path.read_bytes()) if callable(change) else change)
        for file in remove:
            (folder / file).unlink()
        return folder

    def check(self, expected, ranks=1, config=None, port=None, status=REFUSED, **options):
        """Starts the job; it must end in time, with `status` and with a line that holds all of `expected`."""
        if config is None:
            config = config_text(**options)
        for attempt in range(ATTEMPTS):
            server = Cluster(config=config, ranks=ranks, port=port, wait=False)
            try:
                found = server.process.wait(SECONDS_MAX)
                if found is None and attempt + 1 < ATTEMPTS:
                    continue
                self.check_end(server, found, expected, status, port is None)
                return
            finally:
                server.abandon()

    def check_end(self, server, found, expected, status, port_is_free):
        """What must be true of a job that was to end with `status` and ended with `found`."""
        output = server.output()
        self.assertIsNotNone(found, f"still running after {SECONDS_MAX} s, {ATTEMPTS} times:\n{output}")
        self.assertEqual(found, status, output)
        self.assertIsNotNone(server.process.wait_gone(2), output)
        left = [line for line in server.left_behind() if port_is_free or not line.startswith("port")]
        self.assertEqual(left, [])
        words = [expected] if isinstance(expected, str) else list(expected)
        lines = [line for line in output.splitlines() if all(word in line for word in words)]
        self.assertTrue(lines, f"no line with {words}:\n{output}")
        # One line, once: not from every rank, no trace of a crash.
        self.assertEqual(len(lines), 1, f"said {len(lines)} times:\n{output}")
        for crash in ("CHECK failed", "terminate called", "Segmentation fault", "Signal: Aborted", "what():"):
            self.assertNotIn(crash, output)
        self.assertLess(len(lines[0]), 1000)

    def run_job(self, ranks, *arguments):
        """mpirun with these arguments of shoal-server: (exit status, all it wrote); it must end in time."""
        for _ in range(ATTEMPTS):
            status, out, err, seconds = run_program(["mpirun", "-n", ranks, SERVER, *arguments], 30,
                                                    environment=mpirun_environment())
            if seconds < SECONDS_MAX:
                break
        self.assertLess(seconds, SECONDS_MAX)
        return status, out + err

    def test_wrong_configs(self):
        cases = {
            "unknown field": ('model: "x"\nmodle: "y"\n', "modle"),
            "not text format": ("{{{{", "config.textproto"),
            "empty": ("", "model"),
            "binary": ("\x01\x02\xff\x00", "config.textproto"),
            "wrong enum": (config_text() + "formats { weights: INT7 }\n", "INT7"),
            "bad budget": (config_text(memory_budget=["3 potatoes"]), ("memory_budget", "3 potatoes")),
            "bad listen": (config_text(extra='listen: "nowhere"'), "listen"),
            "negative threads": (config_text(threads=-1), "threads"),
            "unknown instructions": (config_text(extra="cuda { path: \"sm99\" }"), ("cuda.path", "sm99")),
            "unknown transport": (config_text(extra="cpu { transport: PIGEONS }"), "PIGEONS"),
            "no workspace": (config_text(extra="cuda { workspace_memory: \"1KiB\" }"), "workspace_memory"),
            "zero ranks in a stage": (config_text(stages=(0,)), "ranks"),
            "huge context": (config_text(max_context=1 << 40), "max_context"),
            "zero queue": (config_text(batch={"max_sequences": 0}), "max_sequences"),
        }
        for name, (text, expected) in cases.items():
            with self.subTest(name):
                self.check(expected, config=text)

    @unittest.skipIf(pathlib.Path("/dev/nvidiactl").exists(), "this machine has a GPU")
    def test_gpus_that_are_not_there(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                self.check(("device is CUDA", "no GPU"), ranks=ranks, stages=(ranks,), extra="device: CUDA")

    def test_missing_config_file(self):
        status, output = self.run_job(2, "--config", self.directory / "none.textproto")
        self.assertEqual(status, REFUSED)
        self.assertEqual(sum("none.textproto" in line and "mpirun" not in line for line in output.splitlines()), 1, output)

    def test_rank_count_that_does_not_fit(self):
        for ranks, stages in ((1, (2,)), (3, (2,)), (2, (2, 2)), (2, (1,))):
            with self.subTest(ranks=ranks, stages=stages):
                self.check("ranks", ranks=ranks, stages=stages)

    def test_impossible_plans(self):
        cases = [
            (("layers", "6"), 2, {"stages": ((1, 4), (1, 4))}),           # Eight layers of a model with six.
            (("needs", "2.00 MiB"), 2, {"stages": (2,), "memory_budget": ["2MiB"], "status": MEMORY}),
            (("memory_budget",), 2, {"stages": (2,), "memory_budget": ["1GiB", "1GiB", "1GiB"]}),
            (("blocks",), 1, {"kv_blocks": 1, "max_context": 2048}),
            (("max_context", "2048"), 1, {"max_context": 100000}),         # Beyond the model's positions.
        ]
        for expected, ranks, options in cases:
            with self.subTest(options=options):
                self.check(expected, ranks=ranks, **options)

    def test_missing_model(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                self.check("no-such-folder", ranks=ranks, stages=(ranks,), model=self.directory / "no-such-folder")

    def test_missing_files(self):
        for file in ("config.json", "tokenizer.json", "model.safetensors"):
            with self.subTest(file):
                folder = self.model(f"without-{file}", remove=[file])
                self.check(file, ranks=2, stages=(2,), model=folder)

    def test_broken_files(self):
        def edit_config(**fields):
            def change(raw):
                content = json.loads(raw)
                for key, value in fields.items():
                    if value is None:
                        content.pop(key, None)
                    else:
                        content[key] = value
                return json.dumps(content).encode()
            return change
        huge_header = struct.pack("<Q", 1 << 60)
        cases = [
            ("config.json", b"{", "config.json"),
            ("config.json", b"[]", "config.json"),
            ("config.json", edit_config(hidden_size=1 << 40), "hidden_size"),
            ("config.json", edit_config(hidden_size="384"), "hidden_size"),
            ("config.json", edit_config(num_hidden_layers=None), "num_hidden_layers"),
            ("config.json", edit_config(num_hidden_layers=7), "layers.6"),
            ("config.json", edit_config(num_key_value_heads=5), "num_key_value_heads"),
            ("config.json", edit_config(architectures=["GPT2LMHeadModel"], model_type="gpt2"), "GPT2LMHeadModel"),
            ("tokenizer.json", b"\xff\xfe", "tokenizer.json"),
            ("tokenizer.json", b'{"model": {"type": "Unigram"}}', "tokenizer.json"),
            ("tokenizer.json", lambda raw: raw[:len(raw) // 2], "tokenizer.json"),
            ("tokenizer_config.json", b"nothing", "tokenizer_config.json"),
            ("model.safetensors", b"", "model.safetensors"),
            ("model.safetensors", lambda raw: raw[:-2], "model.safetensors"),
            ("model.safetensors", lambda raw: raw + b"\0", "model.safetensors"),
            ("model.safetensors", lambda raw: huge_header + raw[8:], "model.safetensors"),
            ("model.safetensors", lambda raw: raw.replace(b"lm_head.weight", b"lm_hat_.weight", 1), "lm_head.weight"),
            ("model.safetensors", lambda raw: raw.replace(b"[1024,384]", b"[1025,384]", 1), "model.safetensors"),
        ]
        for index, (file, change, expected) in enumerate(cases):
            with self.subTest(index=index, file=file, expected=expected):
                folder = self.model(f"broken-{index}", {file: change})
                ranks = 1 + index % 2
                self.check(expected, ranks=ranks, stages=(ranks,), model=folder)

    def test_weights_that_are_not_numbers(self):
        def poison(raw):
            header = struct.unpack("<Q", raw[:8])[0]
            return raw[:8 + header] + b"\xc0\x7f" * 64 + raw[8 + header + 128:]  # bfloat16 NaN.
        folder = self.model("nan", {"model.safetensors": poison})
        self.check("NaN", ranks=2, stages=(2,), model=folder)

    def test_port_in_use(self):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            self.check((str(port), "in use"), ranks=2, stages=(2,), port=port, status=PORT)

    def test_two_servers_on_one_port(self):
        with Cluster(weights="INT8") as server:
            self.check((str(server.port), "in use"), port=server.port, status=PORT)
            self.assertEqual(server.client.health(), "SERVING")

    def test_an_open_address_needs_the_word(self):
        path = self.directory / "open.textproto"
        path.write_text(config_text())
        status, output = self.run_job(1, "--config", path, "--listen", "0.0.0.0:0")
        self.assertEqual(status, REFUSED)
        self.assertIn("allow_insecure_remote", output)


if __name__ == "__main__":
    unittest.main()
