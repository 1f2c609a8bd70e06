"""Many requests at once against one server, and the prompts that the end-to-end tests share."""
import concurrent.futures
import importlib.util
import statistics
import time

from tests.support import cluster

_spec = importlib.util.spec_from_file_location("golden_inputs", cluster.GOLDEN / "golden_inputs.py")
_inputs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_inputs)

# 30 texts to continue and 20 questions to answer.
FIFTY_PROMPTS = _inputs.PLAIN_PROMPTS[:30] + [[("user", text)] for text in _inputs.CHAT_PROMPTS[:20]]


def run_all(client, requests, concurrency):
    """Runs `requests`, a list of (prompt, options), `concurrency` at a time; results in the order of the list."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=concurrency) as pool:
        futures = [pool.submit(client.generate, prompt, **options) for prompt, options in requests]
        return [future.result() for future in futures]


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
