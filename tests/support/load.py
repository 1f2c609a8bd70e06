"""Many requests at once against one server, and the prompts that the end-to-end tests share."""
import atexit
import concurrent.futures
import functools
import importlib.util
import shutil
import statistics
import time

from tests.support import cluster, processes

_spec = importlib.util.spec_from_file_location("golden_inputs", cluster.GOLDEN / "golden_inputs.py")
_inputs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_inputs)

# 30 texts to continue and 20 questions to answer.
FIFTY_PROMPTS = _inputs.PLAIN_PROMPTS[:30] + [[("user", text)] for text in _inputs.CHAT_PROMPTS[:20]]


@functools.cache
def slow_model():
    """A folder with a random model of 48 million parameters and a context of 2048, 20 times the work per token of the demo model.

    For tests that must see requests at work: even a machine ten times as fast as today's needs a good part of a second for a
    long answer.
    """
    folder = processes.make_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    status, _, error, _ = cluster.run_program([cluster.SHOAL, "make-model", "--shape", "small-qwen2", "--out", folder / "model"])
    assert status == 0, error
    return folder / "model"


def run_all(client, requests, concurrency):
    """Runs `requests`, a list of (prompt, options), `concurrency` at a time; results in the order of the list."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=concurrency) as pool:
        futures = [pool.submit(client.generate, prompt, **options) for prompt, options in requests]
        return [future.result() for future in futures]


def run_together(client, requests, holders=0, held_tokens=1900):
    """Runs `requests`, opened before any is read; results in the order of the list.

    `holders` long streams (of `held_tokens`), as many as the server runs at once, keep it busy until all of `requests` wait in
    its queue: then it runs as many of them at a time as it can, however slowly this program opens and reads. AssertionError if
    they never wait together.
    """
    for _ in range(3):  # The holders may end too soon, should this program be very slow.
        held = [client.start("Once", max_tokens=held_tokens, ignore_eos=True) for _ in range(holders)]
        calls = [client.start(prompt, **options) for prompt, options in requests]
        wait = 10 if holders else 0
        waiting = wait_until(lambda: client.loads().num_waiting_reqs >= len(requests), wait)
        for call in held:
            call.cancel()
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(len(calls), 64)) as pool:
            results = list(pool.map(cluster.read_stream, calls))
        if not holders or waiting is not None:
            return results
    raise AssertionError(f"{len(requests)} requests never waited at the same time")


def tokens_of(results):
    """Token ids of each result; raises if one did not end well."""
    for result in results:
        if result.error is not None:
            raise AssertionError(f"a request failed: {result.error.code()}: {result.error.details()}")
        if result.complete is None:
            raise AssertionError("a stream ended without its final message")
        if result.complete.usage.completion_tokens != len(result.ids):
            raise AssertionError(f"usage says {result.complete.usage.completion_tokens} tokens, {len(result.ids)} came")
    return [result.ids for result in results]


def wait_until(condition, seconds, interval=0.01):
    """Waits until `condition()` is true; returns the seconds that took, or None."""
    begin = time.monotonic()
    while True:
        if condition():
            return time.monotonic() - begin
        if time.monotonic() - begin > seconds:
            return None
        time.sleep(interval)


def paired_ratios(measure_a, measure_b, pairs):
    """a/b of `pairs` pairs measured right after each other, in alternating order: slow drifts cancel in their median."""
    ratios = []
    for index in range(pairs):
        if index % 2 == 0:
            a, b = measure_a(), measure_b()
        else:
            b, a = measure_b(), measure_a()
        ratios.append(a / b)
    return ratios


def median_at_least(measure, limit, windows_max=8, enough=3):
    """Whether figures reach `limit`: (verdict, figures). Measures until `enough` in a row do, else decides by the median.

    So a quiet machine is done soon, one with other work gets more tries, and luck in a single window decides nothing.
    """
    figures = []
    while len(figures) < windows_max:
        figures.append(measure())
        if len(figures) >= enough and min(figures[-enough:]) >= limit:
            return True, figures
    return statistics.median(figures) >= limit, figures
