"""Many clients at once: right answers, limits, cancels, slow readers."""
import json
import statistics
import subprocess
import threading
import time
import unittest

import grpc

from tests.support.cluster import SHOAL, Cluster, pb, read_stream, request, run_program
from tests.support.load import (FIFTY_PROMPTS, paired_ratios, run_all, run_together, slow_model, tokens_of, wait_until)

LONG = {"max_tokens": 1900, "ignore_eos": True, "temperature": 1.0, "seed": 5}


class ServerOfOneClass:
    """One server of two tensor-parallel ranks for all tests of a class, which leave it idle."""

    @classmethod
    def setUpClass(cls):
        cls.server = Cluster(stages=(2,), weights="INT8", threads=1, kv_blocks=1024, block_tokens=32,
                             batch={"max_sequences": 64, "max_waiting": 256}, limits={"streams_per_connection": 256},
                             **cls.options())
        cls.client = cls.server.client

    @classmethod
    def options(cls):
        """More options of the server."""
        return {}

    @classmethod
    def tearDownClass(cls):
        with cls.server:
            pass  # Drains and proves that nothing is left.

    def tearDown(self):
        self.assert_idle()

    def assert_idle(self, seconds=5):
        """Every block and every slot comes back."""
        def idle():
            loads = self.client.loads()
            return loads.kv_blocks_used == 0 and loads.num_running_reqs == 0 and loads.num_waiting_reqs == 0
        self.assertIsNotNone(wait_until(idle, seconds), f"still busy: {self.client.loads()}")


class ServedTest(ServerOfOneClass, unittest.TestCase):
    """The demo model: right answers, limits, errors."""

    def test_64_concurrent_streams_equal_the_same_requests_alone(self):
        requests = []
        for index in range(64):
            sampled = {"temperature": 1.0, "seed": index, "top_p": 0.9} if index % 2 else {}
            requests.append((FIFTY_PROMPTS[index % 50], {"max_tokens": 96 + index % 9, "ignore_eos": index % 4 < 2, **sampled}))
        alone = run_all(self.client, requests, 1)
        together = run_together(self.client, requests, holders=64)
        self.assertEqual(tokens_of(together), tokens_of(alone))
        self.assertEqual([r.text for r in together], [r.text for r in alone])
        self.assertEqual([r.finish for r in together], [r.finish for r in alone])

    def test_cancel_at_any_moment_leaks_nothing(self):
        codes = []

        def one(index):
            call = self.client.start(FIFTY_PROMPTS[index % 50], timeout=60, max_tokens=40, ignore_eos=True)
            timer = threading.Timer(0.002 * (index % 40), call.cancel)
            timer.start()
            codes.append(read_stream(call).code)
            timer.join()
        threads = [threading.Thread(target=one, args=(index,)) for index in range(120)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(codes), 120)
        self.assertLessEqual(set(codes), {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED})
        self.assertIn(grpc.StatusCode.CANCELLED, codes)
        self.assert_idle()
        self.assertEqual(self.client.generate("Once upon", max_tokens=4, ignore_eos=True).finish, "LENGTH")

    def test_deadline_ends_the_stream_and_frees_it(self):
        # 64 at once, more than 100,000 tokens: no machine is done with them before the deadline.
        before = self.client.loads()
        results = run_all(self.client, [("Once upon", {"timeout": 0.5, **LONG})] * 64, 64)
        for result in results:
            self.assertEqual(result.code, grpc.StatusCode.DEADLINE_EXCEEDED)
            self.assertLess(result.seconds, 5)  # A thread of this program may be late, ...
        self.assertLess(statistics.median(result.seconds for result in results), 2)  # ... not most of them.
        begun = sum(len(result.ids) > 0 for result in results)
        self.assertGreater(begun, 0, "no stream had begun before its deadline")
        self.assert_idle(2)
        after = self.client.loads()
        self.assertEqual(after.requests_finished_total, before.requests_finished_total)
        self.assertGreaterEqual(after.requests_cancelled_total - before.requests_cancelled_total, begun)

    def test_invalid_utf8_is_refused_with_the_offset(self):
        call = self.client.channel.unary_stream("/shoal.v1.Inference/Generate", request_serializer=lambda raw: raw,
                                                response_deserializer=lambda raw: raw)
        for text, offset in ((b"\xff", "0"), (b"abc\xc3(", "3"), (b"ok \xed\xa0\x80", "3"), (b"\xf0\x9f\x98", "0")):
            raw = b"\x12" + bytes([len(text)]) + text  # Field 2: text.
            with self.assertRaises(grpc.RpcError) as caught:
                list(call(raw, timeout=10))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn("UTF-8", caught.exception.details())
            self.assertIn(offset, caught.exception.details())

    def test_stop_strings_and_usage(self):
        whole = self.client.generate("Once upon a time, there was a", max_tokens=60, ignore_eos=True)
        word = whole.text.split()[5]
        cut = self.client.generate("Once upon a time, there was a", max_tokens=60, ignore_eos=True, stop=[word])
        self.assertEqual(cut.finish, "STOP")
        self.assertEqual(cut.complete.matched_stop_str, word)
        self.assertEqual(cut.text, whole.text[:whole.text.index(word)])
        kept = self.client.generate("Once upon a time, there was a", max_tokens=60, ignore_eos=True, stop=[word],
                                    include_stop_str_in_output=True)
        self.assertEqual(kept.text, whole.text[:whole.text.index(word) + len(word)])
        usage = cut.complete.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        stopped = self.client.generate("Once upon a time, there was a", max_tokens=60, ignore_eos=True,
                                       stop_token_ids=[whole.ids[7]])
        self.assertEqual(stopped.finish, "STOP")
        self.assertEqual(stopped.complete.matched_token_id, whole.ids[7])
        self.assertEqual(stopped.ids, whole.ids[:whole.ids.index(whole.ids[7]) + 1])

    def test_logprobs_come_one_per_token_and_greedy_takes_the_best(self):
        chunks = []
        result = self.client.generate("Once upon", max_tokens=12, ignore_eos=True, logprobs=3,
                                      on_chunk=lambda _, chunk: chunks.extend(chunk.logprobs))
        self.assertEqual([entry.token.token_id for entry in chunks], result.ids)
        for entry in chunks:
            self.assertEqual(len(entry.top), 3)
            self.assertEqual(entry.top[0].token_id, entry.token.token_id)
            values = [top.logprob for top in entry.top]
            self.assertEqual(values, sorted(values, reverse=True))
            self.assertLessEqual(values[0], 0.0)

    def test_timings_and_drawn_seed_can_be_used_again(self):
        first = self.client.generate("Once upon a time", max_tokens=24, ignore_eos=True, temperature=1.0)
        again = self.client.generate("Once upon a time", max_tokens=24, ignore_eos=True, temperature=1.0,
                                     seed=first.complete.seed)
        self.assertEqual(again.ids, first.ids)
        metrics = first.complete.metrics
        self.assertLessEqual(metrics.arrival_time, metrics.first_scheduled_time)
        self.assertLess(metrics.first_scheduled_time, metrics.first_token_time)
        self.assertLess(metrics.first_token_time, metrics.last_token_time)
        self.assertLess(abs(metrics.arrival_time - time.time()), 60)

    def test_information_calls(self):
        info = self.client.inference.GetModelInfo(pb.GetModelInfoRequest(), timeout=5)
        self.assertEqual((info.model_type, info.vocab_size, info.has_chat_template), ("qwen2", 1024, True))
        loads = self.client.loads()
        # A step reads all weights but the embedding and the norms.
        self.assertGreater(info.work.weight_bytes, sum(memory.weights_bytes for memory in loads.memory) / 2)
        self.assertLess(info.work.weight_bytes, sum(memory.weights_bytes for memory in loads.memory))
        self.assertEqual(info.work.head_ops, 2 * 1024 * 384)
        self.assertGreater(info.work.token_ops, info.work.head_ops)
        server = self.client.inference.GetServerInfo(pb.GetServerInfoRequest(), timeout=5)
        self.assertEqual((server.ranks, server.state), (2, pb.SERVER_STATE_SERVING))
        plan = self.client.inference.GetPlan(pb.GetPlanRequest(), timeout=5)
        self.assertEqual(sorted((rank.heads.begin, rank.heads.end) for rank in plan.ranks), [(0, 6), (6, 12)])
        loads = self.client.loads()
        self.assertEqual((len(loads.stages), len(loads.memory)), (1, 2))
        self.assertEqual(loads.kv_blocks_total, 1024)
        for memory in loads.memory:
            self.assertEqual(memory.total_bytes, memory.weights_bytes + memory.kv_bytes + memory.activations_bytes +
                             memory.communication_bytes + memory.reserved_bytes)

    def test_reflection_lists_the_services(self):
        call = self.client.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                                 request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)
        answer = next(iter(call(iter([b"\x3a\x01*"]), timeout=10)))  # Field 7: list_services.
        for name in (b"shoal.v1.Inference", b"shoal.v1.Admin", b"grpc.health.v1.Health"):
            self.assertIn(name, answer)


class LongStreamsTest(ServerOfOneClass, unittest.TestCase):
    """What happens to streams that are at work: a model so slow that they are, on any machine."""

    @classmethod
    def options(cls):
        return {"model": slow_model()}

    def test_cancelled_streams_give_their_blocks_back(self):
        seconds = []
        for _ in range(3):  # On a busy machine it is this program that is late to see it.
            cancelled_before = self.client.loads().requests_cancelled_total
            calls = [self.client.start(prompt, timeout=120, **LONG) for prompt in FIFTY_PROMPTS[:16]]
            for call in calls:
                next(iter(call))
            self.assertGreater(self.client.loads().kv_blocks_used, 0)
            for call in calls:
                call.cancel()
            took = wait_until(lambda: self.client.loads().kv_blocks_used == 0, 2, interval=0.005)
            self.assertIsNotNone(took, "blocks are still held 2 s after the cancels")
            self.assertEqual(self.client.loads().requests_cancelled_total - cancelled_before, 16)
            seconds.append(took)
            if took < 0.5:
                break
        self.assertLess(min(seconds), 0.5)

    def test_a_client_that_vanishes_gives_its_blocks_back(self):
        before = self.client.loads()
        other = self.server.new_client()
        call = other.start("Once", timeout=120, **LONG)
        next(iter(call))
        other.close()
        self.assert_idle(2)
        after = self.client.loads()
        self.assertEqual(after.requests_cancelled_total - before.requests_cancelled_total, 1)
        self.assertEqual(after.requests_finished_total, before.requests_finished_total)

    def test_abort_ends_the_stream_with_reason_abort(self):
        call = self.client.start("Once upon", timeout=120, request_id="to-abort", **LONG)
        self.assertIsNotNone(wait_until(lambda: self.client.loads().num_running_reqs == 1, 10))
        answer = self.client.inference.Abort(pb.AbortRequest(request_ids=["to-abort", "nobody"]), timeout=5)
        result = read_stream(call)
        self.assertEqual(list(answer.aborted_request_ids), ["to-abort"])
        self.assertEqual(result.finish, "ABORT")
        self.assertEqual(result.code, grpc.StatusCode.OK)
        self.assertLess(len(result.ids), LONG["max_tokens"])

    def test_a_running_request_id_is_refused_a_second_time(self):
        call = self.client.inference.Generate(request("Once upon", request_id="twin", **LONG), timeout=60)
        next(iter(call))
        self.assertEqual(self.client.generate("Once", request_id="twin", max_tokens=2).code, grpc.StatusCode.ALREADY_EXISTS)
        call.cancel()
        self.assert_idle()
        def again():
            return self.client.generate("Once", request_id="twin", max_tokens=2, ignore_eos=True).finish == "LENGTH"
        self.assertIsNotNone(wait_until(again, 2), "the id is still taken 2 s after its request was cancelled")

    def test_wrong_requests_are_refused_and_disturb_nobody(self):
        steady = []
        begun = threading.Event()
        thread = threading.Thread(target=lambda: steady.append(self.client.generate(
            "Once upon a time", request_id="steady", on_chunk=lambda *_: begun.set(), **LONG)))
        thread.start()
        self.assertTrue(begun.wait(10))
        wrong = [
            ("temperature", "hi", {"temperature": -1.0}), ("temperature", "hi", {"temperature": float("nan")}),
            ("top_p", "hi", {"top_p": 0.0}), ("top_p", "hi", {"top_p": 1.5}), ("top_k", "hi", {"top_k": -2}),
            ("min_p", "hi", {"min_p": -0.1}), ("repetition_penalty", "hi", {"repetition_penalty": 0.0}),
            ("presence_penalty", "hi", {"presence_penalty": 2.5}),
            ("frequency_penalty", "hi", {"frequency_penalty": float("inf")}),
            ("max_tokens", "hi", {"max_tokens": 0}), ("max_tokens", "hi", {"max_tokens": -5}),
            ("min_tokens", "hi", {"min_tokens": -1}), ("logprobs", "hi", {"logprobs": 21}),
            ("stop", "hi", {"stop": [""]}), ("stop", "hi", {"stop": ["x" * 300]}),
            ("stop_token_ids", "hi", {"stop_token_ids": [1 << 30]}), ("logit_bias", "hi", {"logit_bias": {1: 1000.0}}),
            ("token_ids", [5, 1 << 20], {}), ("token_ids", [-1], {}),
            ("request_id", "hi", {"request_id": "x" * 129}),
            ("2048", "word " * 3000, {}),
        ]
        for field, prompt, options in wrong:
            with self.subTest(field=field, options=options):
                result = self.client.generate(prompt, timeout=10, **options)
                self.assertEqual(result.code, grpc.StatusCode.INVALID_ARGUMENT, result.error)
                self.assertIn(field, result.error.details())
                self.assertNotIn("\n", result.error.details())
        empty = self.client.inference.Generate(pb.GenerateRequest(), timeout=10)
        with self.assertRaises(grpc.RpcError) as caught:
            next(iter(empty))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.client.inference.Abort(pb.AbortRequest(request_ids=["steady"]), timeout=5)
        thread.join(60)
        self.assertEqual(steady[0].finish, "ABORT", "it ended before all of the wrong requests were answered")
        alone = self.client.generate("Once upon a time", **{**LONG, "max_tokens": len(steady[0].ids)})
        self.assertEqual(steady[0].ids, alone.ids)


class StalledReaderTest(unittest.TestCase):
    """One core for the server and one for its clients: ranks that wait for each other would feel every client."""

    def test_a_stalled_reader_costs_the_others_less_than_5_percent(self):
        """The ninth stream is read by a program of its own, or by nobody; the others are `shoal bench`."""
        with Cluster(model=slow_model(), weights="INT8", threads=1) as server:
            self.stalled(server)  # All memory touched once.
            self.read(server)
            ratios = []
            while len(ratios) < 24:  # A busy machine may spoil some: their median counts.
                ratios += paired_ratios(lambda: self.stalled(server), lambda: self.read(server), 6)
                if statistics.median(ratios) >= 0.95:
                    break
        print(f"throughput of the others, ninth stream stalled / read: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
        self.assertGreaterEqual(statistics.median(ratios), 0.95)

    def others(self, server):
        """Their tokens per second, while the ninth stream runs."""
        # Far enough that what nobody reads has filled every buffer on its way.
        ahead = server.client.loads().generation_tokens_total + 300
        self.assertIsNotNone(wait_until(lambda: server.client.loads().generation_tokens_total >= ahead, 30))
        status, out, error, _ = run_program([SHOAL, "bench", "--server", server.address, "--requests", 8, "--concurrency", 8,
                                             "--prompt-tokens", 16, "--max-tokens", 60, "--temperature", 1, "--json"])
        self.assertEqual(status, 0, error)
        self.assertEqual(server.client.loads().num_running_reqs, 1, "the ninth stream ended too soon")
        return json.loads(out)["output_throughput"]

    def wait_idle(self, server):
        """The ninth stream is gone."""
        self.assertIsNotNone(wait_until(lambda: server.client.loads().num_running_reqs == 0, 5), str(server.client.loads()))

    def stalled(self, server):
        """Nobody reads the ninth stream."""
        other = server.new_client([("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096)])
        try:
            call = other.start("Long ago", timeout=120, logprobs=20, **LONG)
            tokens_per_second = self.others(server)
            # What piled up comes in few, large chunks: nobody has read them, neither we nor the library.
            largest = 0
            for response in call:
                largest = max(largest, len(response.chunk.token_ids))
                if largest >= 100:
                    break
            self.assertGreaterEqual(largest, 100, "the reader was not stalled")
            return tokens_per_second
        finally:
            other.close()
            self.wait_idle(server)

    def read(self, server):
        """`shoal generate` reads the ninth stream."""
        reader = subprocess.Popen([str(SHOAL), "generate", "--server", server.address, "--prompt", "Long ago", "--max-tokens",
                                   str(LONG["max_tokens"]), "--temperature", "1", "--seed", "5", "--ignore-eos"],
                                  stdout=subprocess.DEVNULL)
        try:
            return self.others(server)
        finally:
            reader.terminate()
            reader.wait()
            self.wait_idle(server)


class QueueTest(unittest.TestCase):
    """A server with room for two requests and four waiting ones."""

    def test_a_full_queue_answers_at_once(self):
        # In full precision: slow enough that nothing ends during the test.
        with Cluster(model=slow_model(), weights="F32", threads=1, batch={"max_sequences": 2, "max_waiting": 4}) as server:
            calls = []
            for count, running, waiting in ((2, 2, 0), (4, 2, 4)):
                calls += [server.client.inference.Generate(request("Once", **LONG), timeout=120) for _ in range(count)]
                def settled(expected=(running, waiting)):
                    loads = server.client.loads()
                    return (loads.num_running_reqs, loads.num_waiting_reqs) == expected
                self.assertIsNotNone(wait_until(settled, 10), str(server.client.loads()))
            seconds = []
            for _ in range(5):
                result = server.client.generate("Once", max_tokens=2, timeout=2)
                self.assertEqual(result.code, grpc.StatusCode.RESOURCE_EXHAUSTED)
                seconds.append(result.seconds)
            self.assertLess(min(seconds), 0.1)
            self.assertLess(max(seconds), 1)  # A busy machine may delay some, but nothing waits for a place in the queue.
            queued = calls[5]
            queued.cancel()  # A place in the queue is free again ...
            self.assertIsNotNone(wait_until(lambda: server.client.loads().num_waiting_reqs == 3, 2))
            # ... once the cancelled call has left the front end, too; but the deadline passes in it.
            def late():
                return server.client.generate("Once", max_tokens=2, timeout=0.3).code == grpc.StatusCode.DEADLINE_EXCEEDED
            self.assertIsNotNone(wait_until(late, 2))
            for call in calls:
                call.cancel()
            self.assertIsNotNone(wait_until(lambda: server.client.loads().kv_blocks_used == 0, 2))
            self.assertEqual(server.client.generate("Once", max_tokens=2, ignore_eos=True).finish, "LENGTH")

    def test_a_reader_that_stalls_too_long_is_dropped(self):
        with Cluster(weights="INT8", threads=1, limits={"stalled_reader_seconds": 4}) as server:
            slow = server.new_client([("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096)])
            call = slow.inference.Generate(request("Once", **{**LONG, "logprobs": 20}), timeout=120)
            next(iter(call))
            time.sleep(6)  # Dropped after 4 s; after 8 s the call would be cut off without a word.
            freed = wait_until(lambda: server.client.loads().kv_blocks_used == 0, 15)
            self.assertIsNotNone(freed, str(server.client.loads()))
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in call:
                    pass
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            slow.close()

    def test_a_giant_message_is_refused(self):
        with Cluster(weights="INT8", threads=1) as server:
            for megabytes, codes in ((2, (grpc.StatusCode.INVALID_ARGUMENT,)), (40, (grpc.StatusCode.RESOURCE_EXHAUSTED,))):
                result = server.client.generate("a " * (megabytes << 19), timeout=30)
                self.assertIn(result.code, codes)
            self.assertEqual(server.client.generate("Once", max_tokens=2, ignore_eos=True).finish, "LENGTH")


if __name__ == "__main__":
    unittest.main()
