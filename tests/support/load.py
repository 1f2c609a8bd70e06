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


def run_together(client, requests, peak):
    """Runs `requests` and proves that `peak` of them were running at one moment: (results, largest number seen).

    All streams are opened before any is read. A server that takes `peak` sequences at most and has a queue for the rest is kept
    full by that; how soon this program reads does not matter.
    """
    finished = client.loads().requests_finished_total
    calls = [client.start(prompt, **options) for prompt, options in requests]
    seen = 0

    def full_or_over():
        nonlocal seen
        loads = client.loads()
        seen = max(seen, loads.num_running_reqs)
        return seen >= peak or loads.requests_finished_total - finished > len(requests) - peak
    wait_until(full_or_over, 30, interval=0.001)
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(len(calls), 64)) as pool:
        return list(pool.map(cluster.read_stream, calls)), seen


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


def throughput(client, streams, tokens, prompt="Once upon a time, there was a"):
    """Tokens per second of `streams` equal requests of `tokens` tokens that start together, all of them together."""
    begin = time.monotonic()
    results = run_all(client, [(prompt, {"max_tokens": tokens, "ignore_eos": True, "seed": index, "temperature": 1.0})
                               for index in range(streams)], streams)
    count = sum(len(ids) for ids in tokens_of(results))
    return count / (time.monotonic() - begin)


def paired_ratio(measure_a, measure_b, rounds):
    """Median of a/b over `rounds` pairs measured right after each other, in alternating order: slow drifts cancel."""
    ratios = []
    for index in range(rounds):
        if index % 2 == 0:
            a, b = measure_a(), measure_b()
        else:
            b, a = measure_b(), measure_a()
        ratios.append(a / b)
    return statistics.median(ratios)


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
