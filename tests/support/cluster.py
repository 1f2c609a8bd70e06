"""Starts a job of ranks for an end-to-end test, talks to it, and proves that nothing of it is left.

Environment: SHOAL_BUILD_DIR names the build folder (default ROOT/build).
"""
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid

import grpc

from tests.support import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SHOAL_BUILD_DIR", ROOT / "build")).resolve()
SERVER = BUILD / "bin" / "shoal-server"
EMULATED_SERVER = BUILD / "bin" / "shoal-server-emulated"  # The same on emulated GPUs.
SHOAL = BUILD / "bin" / "shoal"
DEMO_MODEL = ROOT / "deploy" / "demo_model"
GOLDEN = ROOT / "tests" / "golden"


def _make_stubs():
    """Generates the Python messages and services into the build folder and returns the modules (messages, services)."""
    out = BUILD / "generated" / "python"
    source = "proto/shoal/v1/inference.proto"
    made = out / "proto" / "shoal" / "v1" / "inference_pb2_grpc.py"
    if not made.exists() or made.stat().st_mtime < (ROOT / source).stat().st_mtime:
        out.mkdir(parents=True, exist_ok=True)
        plugin = shutil.which("grpc_python_plugin")
        subprocess.run(["protoc", f"--proto_path={ROOT}", f"--python_out={out}", f"--grpc_out={out}",
                        f"--plugin=protoc-gen-grpc={plugin}", source], check=True, cwd=ROOT)
    sys.path.insert(0, str(out))
    from proto.shoal.v1 import inference_pb2, inference_pb2_grpc  # pylint: disable=import-outside-toplevel
    return inference_pb2, inference_pb2_grpc


pb, services = _make_stubs()


def mpirun_environment():
    """The environment for mpirun: ours, with the settings of deploy/mpirun_env.sh."""
    script = f"set -a; . {ROOT}/deploy/mpirun_env.sh; exec env -0"
    raw = subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout.decode()
    return dict(entry.split("=", 1) for entry in raw.split("\0") if "=" in entry)


def free_port():
    """A port on loopback that nobody listens on just now.

    Below the range the kernel gives out: mpirun listens on ports of that range and may take one before our server does.
    """
    for _ in range(100):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port between 20000 and 32000")


def config_text(model=DEMO_MODEL, stages=(1,), **options):
    """A config in text format. `stages`: ranks of each stage, or (ranks, layers).

    Options: weights, embedding, kv (enum names); threads, max_context, kv_blocks, block_tokens; memory_budget (list); drain_seconds;
    batch, limits (dicts of field to value); extra (text added as it is).
    """
    lines = [f'model: "{model}"']
    formats = [f"{name}: {options[name]}" for name in ("weights", "embedding", "kv") if name in options]
    if formats:
        lines.append(f"formats {{ {' '.join(formats)} }}")
    for budget in options.get("memory_budget", ()):
        lines.append(f'memory_budget: "{budget}"')
    plan = []
    for stage in stages:
        ranks, layers = stage if isinstance(stage, tuple) else (stage, 0)
        plan.append(f"stages {{ ranks: {ranks}{f' layers: {layers}' if layers else ''} }}")
    lines.append(f"plan {{ {' '.join(plan)} }}")
    kv_cache = [f"{field}: {options[name]}" for name, field in (("block_tokens", "block_tokens"), ("kv_blocks", "blocks"))
                if name in options]
    if kv_cache:
        lines.append(f"kv_cache {{ {' '.join(kv_cache)} }}")
    for name in ("threads", "max_context", "drain_seconds"):
        if name in options:
            lines.append(f"{name}: {options[name]}")
    for name in ("batch", "limits"):
        if name in options:
            lines.append(f"{name} {{ {' '.join(f'{key}: {value}' for key, value in options[name].items())} }}")
    lines.append(options.get("extra", ""))
    return "\n".join(lines) + "\n"


def ranks_of(stages):
    """The number of ranks that `stages` takes."""
    return sum(stage[0] if isinstance(stage, tuple) else stage for stage in stages)


class Process:
    """A program with its output in files and its descendants known by a mark in their environment.

    `start_new_session` keeps Ctrl-C and our signals apart; the mark finds ranks that outlived mpirun, too. A shell lets what it
    starts in the background ignore SIGINT, and so would everything that such a test starts: `env` undoes that.
    """

    def __init__(self, command, directory, environment=None):
        self.mark = f"SHOAL_TEST_MARK={uuid.uuid4().hex}"
        environment = dict(environment or os.environ)
        key, value = self.mark.split("=")
        environment[key] = value
        environment["TMPDIR"] = str(directory)
        self.out_path = pathlib.Path(directory) / f"{value}.out"
        self.err_path = pathlib.Path(directory) / f"{value}.err"
        self.started = time.monotonic()
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.popen = subprocess.Popen(["env", "--default-signal=INT", *(str(part) for part in command)],
                                          stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=ROOT,
                                          start_new_session=True)

    def members(self):
        """Pids of every live process of this job, the started one included."""
        return processes.carriers(self.mark)

    def rank_pids(self):
        """Pid of each rank, by rank."""
        ranks = {}
        for pid in self.members():
            try:
                if pathlib.Path(os.readlink(f"/proc/{pid}/exe")).name not in (SERVER.name, EMULATED_SERVER.name):
                    continue
            except OSError:
                continue
            environment = dict(entry.split(b"=", 1) for entry in processes.environment_of(pid) if b"=" in entry)
            if b"OMPI_COMM_WORLD_RANK" in environment:
                ranks[int(environment[b"OMPI_COMM_WORLD_RANK"])] = pid
        return ranks

    def wait(self, seconds):
        """The exit status, or None if the program still runs after `seconds`."""
        try:
            return self.popen.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_gone(self, seconds):
        """Waits until no process of the job is left; returns the seconds it took, or None."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            self.popen.poll()
            if not self.members():
                return time.monotonic() - begin
            time.sleep(0.02)
        return None

    def kill(self):
        """Ends everything at once; safe to call twice."""
        processes.kill_all(self.mark)
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()

    def output(self):
        """What it wrote so far, standard output first."""
        return self.out_path.read_text(errors="replace") + self.err_path.read_text(errors="replace")


class Result:
    """What one Generate stream gave."""

    def __init__(self):
        self.text = ""
        self.ids = []
        self.logprobs = []         # Per token, if asked for: (id, logprob) of the token, then of the best ones.
        self.complete = None
        self.error = None         # grpc.RpcError
        self.first_seconds = None  # From the call to the first token.
        self.seconds = 0.0
        self.ended = None          # time.monotonic() of its end.

    @property
    def finish(self):
        """"STOP", "LENGTH", "ABORT", or None without a final message."""
        if self.complete is None:
            return None
        return pb.FinishReason.Name(self.complete.finish_reason).replace("FINISH_REASON_", "")

    @property
    def code(self):
        """grpc.StatusCode.OK, or the error's."""
        return grpc.StatusCode.OK if self.error is None else self.error.code()


def request(prompt, **options):
    """A GenerateRequest. `prompt`: text, list of token ids, or list of (role, content).

    Other names are fields of SamplingParams, except request_id and priority. Greedy unless `temperature` is given.
    """
    message = pb.GenerateRequest()
    if isinstance(prompt, str):
        message.text = prompt
    elif prompt and isinstance(prompt[0], (tuple, list)):
        for role, content in prompt:
            message.messages.messages.add(role=role, content=content)
    else:
        message.token_ids.ids.extend(prompt)
    for name in ("request_id", "priority"):
        if name in options:
            setattr(message, name, options.pop(name))
    options.setdefault("temperature", 0.0)
    # The demo model's generation_config.json must not decide what a test samples.
    options.setdefault("top_p", 1.0)
    options.setdefault("top_k", 0)
    options.setdefault("repetition_penalty", 1.0)
    for name, value in options.items():
        if isinstance(value, (list, tuple)):
            getattr(message.sampling_params, name).extend(value)
        elif isinstance(value, dict):
            getattr(message.sampling_params, name).update(value)
        else:
            setattr(message.sampling_params, name, value)
    return message


def read_stream(call, on_chunk=None):
    """Reads a Generate call to its end; errors are in the result. Its times count from now."""
    result = Result()
    begin = time.monotonic()
    try:
        for response in call:
            if response.HasField("complete"):
                if result.complete is not None:
                    raise AssertionError("two final messages")
                result.complete = response.complete
                continue
            chunk = response.chunk
            if result.first_seconds is None and chunk.token_ids:
                result.first_seconds = time.monotonic() - begin
            if chunk.token_ids and chunk.position != len(result.ids):
                raise AssertionError(f"chunk at position {chunk.position} after {len(result.ids)} tokens")
            result.ids.extend(chunk.token_ids)
            result.text += chunk.text
            for entry in chunk.logprobs:
                result.logprobs.append([(best.token_id, best.logprob) for best in (entry.token, *entry.top)])
            if on_chunk:
                on_chunk(result, chunk)
    except grpc.RpcError as error:
        result.error = error
    result.ended = time.monotonic()
    result.seconds = result.ended - begin
    return result


class Client:
    """A connection to a server."""

    def __init__(self, address, options=()):
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1),
                                                                ("grpc.enable_http_proxy", 0), *options])
        self.inference = services.InferenceStub(self.channel)
        self.admin = services.AdminStub(self.channel)
        self._health = self.channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=lambda raw: raw,
                                                response_deserializer=lambda raw: raw)

    def close(self):
        """Closes the connection; open streams are cancelled."""
        self.channel.close()

    def health(self, timeout=2):
        """"SERVING" or "NOT_SERVING"; raises grpc.RpcError where nobody answers."""
        raw = self._health(b"", timeout=timeout)
        return {b"": "UNKNOWN", b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}.get(raw, repr(raw))

    def loads(self):
        """GetLoads."""
        return self.inference.GetLoads(pb.GetLoadsRequest(), timeout=10)

    def start(self, prompt, timeout=300, **options):
        """Begins one request and returns its call, an iterator over the messages of the stream."""
        return self.inference.Generate(request(prompt, **options), timeout=timeout)

    def generate(self, prompt, timeout=300, on_chunk=None, **options):
        """Runs one request to its end; errors are in the result. `on_chunk(result, chunk)` is called per chunk."""
        return read_stream(self.start(prompt, timeout, **options), on_chunk)


class Cluster:
    """mpirun with shoal-server on a temporary config; use as a context manager.

    On leaving, the job is drained if it still runs; what is left after that is killed and reported as an AssertionError.
    """

    def __init__(self, config=None, ranks=None, stages=(1,), config_path=None, wait=True, ready_seconds=60, **options):
        self.directory = processes.make_folder()
        # Its own folder for the ranks' shared memory: what is left there is left by them.
        self.shared_memory = processes.make_folder(processes.SHARED_MEMORY)
        self.ranks = ranks if ranks is not None else ranks_of(stages)
        self.port = options.pop("port", None) or free_port()
        self.address = f"127.0.0.1:{self.port}"
        if config_path is None:
            config_path = self.directory / "config.textproto"
            config_path.write_text(config if config is not None else config_text(stages=stages, **options))
        self.segments = set()
        self.process = Process(["mpirun", "-n", self.ranks, options.pop("program", SERVER), "--config", config_path, "--listen", self.address],
                               self.directory,
                               {"OMPI_MCA_btl_vader_backing_directory": str(self.shared_memory), **mpirun_environment()})
        self.client = Client(self.address)
        self.ready_seconds = None
        if wait:
            try:
                self.wait_ready(ready_seconds)
            except BaseException:
                self.abandon()
                raise

    def wait_ready(self, seconds):
        """Waits until health says SERVING."""
        while True:
            try:
                if self.client.health(timeout=1) == "SERVING":
                    break
            except grpc.RpcError:
                pass
            if self.process.popen.poll() is not None:
                raise AssertionError(f"the server exited with {self.process.popen.returncode}:\n{self.output()}")
            if time.monotonic() - self.process.started > seconds:
                raise AssertionError(f"not ready after {seconds} s:\n{self.output()}")
            # A client that was refused once would wait for its back-off.
            self.client.close()
            self.client = Client(self.address)
            time.sleep(0.02)
        self.ready_seconds = time.monotonic() - self.process.started
        self.note_segments()

    def note_segments(self):
        """Remembers the shared memory files of the ranks, to see later that they are gone."""
        for pid in self.process.rank_pids().values():
            try:
                with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
                    self.segments.update(line.split()[-1] for line in file if "/dev/shm/" in line)
            except OSError:
                pass

    def new_client(self, options=()):
        """Another connection, to be closed by the caller."""
        return Client(self.address, options)

    def output(self):
        """What mpirun and the ranks wrote so far."""
        return self.process.output()

    def drain(self):
        """Asks the server to finish."""
        self.client.admin.Drain(pb.DrainRequest(), timeout=10)

    def stop(self, seconds=20):
        """Drains and returns mpirun's exit status, or None if it still runs after `seconds`."""
        try:
            self.drain()
        except grpc.RpcError:
            pass
        return self.process.wait(seconds)

    def left_behind(self):
        """What is still there of a job that should be gone, as a list of lines."""
        left = [f"process {pid}" for pid in self.process.members()]
        segments = self.segments | {str(path) for path in self.shared_memory.iterdir()}
        left += [f"shared memory {path}" for path in sorted(segments) if os.path.exists(path)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                left.append(f"port {self.port}")
        return left

    def abandon(self):
        """Kills what is left and removes the temporary files."""
        self.process.kill()
        self.client.close()
        for path in self.segments:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        shutil.rmtree(self.shared_memory, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            status = self.process.popen.poll()
            if status is None:
                status = self.stop()
                if status != 0 and kind is None:
                    raise AssertionError(f"mpirun ended with {status} after a drain:\n{self.output()}")
            if kind is None and self.process.wait_gone(3) is None:
                raise AssertionError(f"processes {self.process.members()} are left:\n{self.output()}")
            left = self.left_behind() if kind is None else []
            if left:
                raise AssertionError(f"left behind: {left}\n{self.output()}")
            if kind is not None:
                print(f"--- output of the ranks\n{self.output()}---", file=sys.stderr)
        finally:
            self.abandon()


def run_program(command, seconds=60, stdin="", environment=None):
    """Runs a program to its end: (exit status, standard output, standard error, wall seconds)."""
    begin = time.monotonic()
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=seconds,
                          cwd=ROOT, env=environment, check=False, errors="replace")
    return done.returncode, done.stdout, done.stderr, time.monotonic() - begin
