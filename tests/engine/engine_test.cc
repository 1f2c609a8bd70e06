#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/engine/fake_executor.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr double kForever = 1e9;

EngineOptions Options(const FakeOptions& fake) {
  EngineOptions options;
  options.vocab_size = fake.vocab;
  options.kv_blocks = fake.kv_blocks;
  options.kv_block_tokens = fake.block_tokens;
  options.max_context = 4096;
  return options;
}

Request Greedy(int prompt_tokens, int max_tokens, int first = 1) {
  Request request;
  for (int i = 0; i < prompt_tokens; ++i) request.prompt.push_back((first + i * 7) % 97);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  return request;
}

// A request of any kind that the toy model can serve in `tokens_max` tokens of KV cache.
Request RandomRequest(std::mt19937& random, int tokens_max) {
  const int prompt = 1 + random() % (tokens_max / 2);
  Request request = Greedy(prompt, 1 + random() % (tokens_max - prompt), random() % 97);
  request.priority = random() % 2;
  SamplingParams& sampling = request.sampling;
  sampling.seed = random();
  if (random() % 3 != 0) sampling.temperature = 0.2f + (random() % 20) / 10.0f;
  if (random() % 2 == 0) sampling.top_k = 1 + random() % 80;
  if (random() % 3 == 0) sampling.top_p = 0.8f;
  if (random() % 4 == 0) sampling.min_p = 0.05f;
  if (random() % 4 == 0) sampling.repetition_penalty = 1.3f;
  if (random() % 4 == 0) sampling.frequency_penalty = 0.5f;
  if (random() % 5 == 0) sampling.logit_bias = {{static_cast<int32_t>(random() % 97), 3.0f}};
  if (random() % 5 == 0) sampling.top_logprobs = 3;
  if (random() % 2 == 0) request.stop_ids = {static_cast<int32_t>(random() % 97), static_cast<int32_t>(random() % 97)};
  if (random() % 2 == 0) request.min_tokens = random() % 6;
  return request;
}

// What came of a request. Checks the order of its events as they come.
struct Stream {
  std::vector<int32_t> tokens;
  TokenEvent last;
  int first_position = 0;

  TokenCallback callback() {
    return [this](const TokenEvent& event) {
      EXPECT_EQ(last.finish, Finish::kNone) << "an event after the last";
      if (event.token >= 0) {
        EXPECT_EQ(event.position, first_position + static_cast<int>(tokens.size()));
        tokens.push_back(event.token);
      } else {
        EXPECT_NE(event.finish, Finish::kNone);
      }
      EXPECT_EQ(event.status.ok(), event.finish != Finish::kError);
      last = event;
    };
  }
};

struct Shape {
  int concurrent;
  int chunk;
  int depth;
  int kv_blocks;
  int step_tokens;
};

class EngineTokensTest : public ::testing::TestWithParam<Shape> {};

TEST_P(EngineTokensTest, AreThoseOfTheRequestAlone) {
  const Shape shape = GetParam();
  const FakeOptions fake{.kv_blocks = shape.kv_blocks, .depth = shape.depth};
  FakeExecutor executor(fake);
  EngineOptions options = Options(fake);
  options.max_sequences = shape.concurrent;
  options.prefill_chunk_tokens = shape.chunk;
  options.max_step_tokens = shape.step_tokens;
  const std::unique_ptr<Engine> engine = CreateEngine(options, executor);

  std::mt19937 random(17);
  std::vector<Request> requests;
  std::vector<Stream> streams(100);
  for (Stream& stream : streams) {
    requests.push_back(RandomRequest(random, std::min(shape.kv_blocks * fake.block_tokens, 80)));
    ASSERT_TRUE(engine->Submit(requests.back(), stream.callback()).ok());
  }
  engine->Drain(kForever);
  ASSERT_TRUE(engine->Run().ok());

  uint64_t tokens = 0, preemptions = 0;
  for (size_t i = 0; i < streams.size(); ++i) {
    const Request& request = requests[i];
    const Stream& stream = streams[i];
    ASSERT_EQ(stream.tokens, ExpectedOutput(request, fake.vocab)) << "request " << i;
    if (stream.last.finish == Finish::kStop) {
      EXPECT_EQ(stream.last.matched_stop_id, stream.tokens.back());
      EXPECT_GE(static_cast<int>(stream.tokens.size()), request.min_tokens);
    } else {
      EXPECT_EQ(stream.last.finish, Finish::kLength);
      EXPECT_EQ(static_cast<int>(stream.tokens.size()), request.max_tokens);
    }
    EXPECT_EQ(stream.last.logprobs.size(), request.sampling.top_logprobs < 0 ? 0u : 4u);
    tokens += stream.tokens.size();
    preemptions += stream.last.preemptions;
  }
  const EngineLoads loads = engine->loads();
  EXPECT_EQ(loads.generation_tokens, tokens);
  EXPECT_EQ(loads.requests_finished, 100u);
  EXPECT_EQ(loads.preemptions, preemptions);
  EXPECT_EQ(loads.kv_blocks_used, 0);
  EXPECT_EQ(loads.num_running + loads.num_waiting, 0);
  EXPECT_EQ(loads.steps, executor.plans.size());
  EXPECT_EQ(engine->state(), EngineState::kStopped);
  EXPECT_EQ(executor.shutdowns, 1);
  if (shape.kv_blocks <= 21 && shape.concurrent > 4) {
    EXPECT_GT(preemptions, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, EngineTokensTest,
                         ::testing::Values(Shape{1, 256, 1, 200, 512}, Shape{64, 256, 1, 2000, 512},
                                           Shape{64, 256, 2, 2000, 512}, Shape{64, 33, 3, 2000, 64},
                                           Shape{64, 7, 4, 2000, 40}, Shape{8, 5, 1, 21, 9}, Shape{16, 256, 1, 21, 512},
                                           Shape{16, 64, 2, 20, 512}, Shape{64, 16, 3, 20, 24}, Shape{64, 1, 4, 20, 3},
                                           Shape{3, 3, 4, 200, 3}),
                         [](const auto& info) {
                           const Shape& s = info.param;
                           return "concurrent" + std::to_string(s.concurrent) + "_chunk" + std::to_string(s.chunk) +
                                  "_depth" + std::to_string(s.depth) + "_blocks" + std::to_string(s.kv_blocks) +
                                  "_step" + std::to_string(s.step_tokens);
                         });

TEST(EngineTest, OutputPrefixContinuesTheStream) {
  std::mt19937 random(23);
  for (int i = 0; i < 40; ++i) {
    const FakeOptions fake;
    FakeExecutor executor(fake);
    const std::unique_ptr<Engine> engine = CreateEngine(Options(fake), executor);
    Request request = RandomRequest(random, 80);
    const std::vector<int32_t> expected = ExpectedOutput(request, fake.vocab);
    if (expected.size() < 2) continue;
    const size_t cut = 1 + random() % (expected.size() - 1);
    request.output_prefix.assign(expected.begin(), expected.begin() + cut);
    Stream stream;
    stream.first_position = static_cast<int>(cut);
    ASSERT_TRUE(engine->Submit(request, stream.callback()).ok());
    engine->Drain(kForever);
    ASSERT_TRUE(engine->Run().ok());
    EXPECT_EQ(stream.tokens, std::vector<int32_t>(expected.begin() + cut, expected.end()));
  }
}

TEST(EngineTest, TenThousandRequestsWithRandomCancelsLeakNoBlocks) {
  const FakeOptions fake{.kv_blocks = 40, .depth = 3};
  FakeExecutor executor(fake);
  EngineOptions options = Options(fake);
  options.max_waiting = 20000;
  const std::unique_ptr<Engine> engine = CreateEngine(options, executor);
  constexpr int kRequests = 10000;
  std::mt19937 random(29);
  int last_events = 0, cancelled = 0;
  std::vector<bool> done(kRequests + 1);
  for (int i = 1; i <= kRequests; ++i) {
    const auto id =
        engine->Submit(Greedy(1 + random() % 30, 1 + random() % 12, random() % 97), [&, i](const TokenEvent& event) {
          EXPECT_FALSE(done[i]);
          // Cancels anyone at any time: running, waiting, done, itself.
          if (random() % 8 == 0) engine->Cancel(std::max<int>(1, i - 20 + random() % 60));
          if (event.finish == Finish::kNone) return;
          done[i] = true;
          ++last_events;
          cancelled += event.finish == Finish::kCancelled;
        });
    ASSERT_TRUE(id.ok());
    ASSERT_EQ(*id, static_cast<RequestId>(i));
  }
  engine->Drain(kForever);
  ASSERT_TRUE(engine->Run().ok());
  EXPECT_EQ(last_events, kRequests);
  EXPECT_GT(cancelled, 100);
  const EngineLoads loads = engine->loads();
  EXPECT_EQ(loads.kv_blocks_used, 0);
  EXPECT_EQ(loads.requests_cancelled, static_cast<uint64_t>(cancelled));
  EXPECT_EQ(loads.requests_finished + loads.requests_cancelled, static_cast<uint64_t>(kRequests));
}

TEST(EngineTest, CancelledBlocksAreFreeWithinOneStep) {
  const FakeOptions fake{.depth = 2};
  FakeExecutor executor(fake);
  const std::unique_ptr<Engine> engine = CreateEngine(Options(fake), executor);
  Stream victim;
  int64_t used_after = -1;
  uint64_t cancel_step = 0;
  const auto id = engine->Submit(Greedy(40, 100), victim.callback());
  ASSERT_TRUE(id.ok());
  int tokens = 0;
  ASSERT_TRUE(engine
                  ->Submit(Greedy(4, 10),
                           [&](const TokenEvent&) {
                             if (++tokens == 3) {
                               engine->Cancel(*id);
                               cancel_step = engine->loads().steps;
                             }
                             // Loads are of the start of this step; the cancel was taken with the step before.
                             if (tokens > 3 && used_after < 0 && victim.last.finish != Finish::kNone &&
                                 engine->loads().steps > cancel_step + 2) {
                               used_after = engine->loads().kv_blocks_used;
                             }
                           })
                  .ok());
  engine->Drain(kForever);
  ASSERT_TRUE(engine->Run().ok());
  EXPECT_EQ(victim.last.finish, Finish::kCancelled);
  EXPECT_EQ(victim.last.token, -1);
  EXPECT_GT(used_after, 0);
  EXPECT_LE(used_after, 3);  // Those of the other request.
}

TEST(EngineTest, AFullQueueRefusesAndAcceptsAgain) {
  const FakeOptions fake;
  FakeExecutor executor(fake);
  EngineOptions options = Options(fake);
  options.max_waiting = 3;
  const std::unique_ptr<Engine> engine = CreateEngine(options, executor);
  Stream streams[3], refused, later;
  bool submitted_later = false;
  for (Stream& stream : streams) {
    ASSERT_TRUE(engine
                    ->Submit(Greedy(4, 2),
                             [&, record = stream.callback()](const TokenEvent& event) {
                               record(event);
                               if (submitted_later) return;
                               submitted_later = true;
                               EXPECT_TRUE(engine->Submit(Greedy(4, 2), later.callback()).ok());
                               engine->Drain(kForever);
                             })
                    .ok());
  }
  EXPECT_EQ(engine->Submit(Greedy(4, 2), refused.callback()).status().code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(engine->Run().ok());
  for (const Stream& stream : streams) EXPECT_EQ(stream.last.finish, Finish::kLength);
  EXPECT_EQ(later.last.finish, Finish::kLength);
  EXPECT_EQ(refused.last.finish, Finish::kNone);
}

TEST(EngineTest, LowerPriorityValuesRunFirst) {
  const FakeOptions fake;
  FakeExecutor executor(fake);
  EngineOptions options = Options(fake);
  options.max_sequences = 1;
  const std::unique_ptr<Engine> engine = CreateEngine(options, executor);
  std::vector<int> order;
  for (const int priority : {3, 1, 2, 1}) {
    Request request = Greedy(4, 3);
    request.priority = priority;
    ASSERT_TRUE(engine
                    ->Submit(request,
                             [&order, priority](const TokenEvent& event) {
                               if (event.finish != Finish::kNone) order.push_back(priority);
                             })
                    .ok());
  }
  engine->Drain(kForever);
  ASSERT_TRUE(engine->Run().ok());
  EXPECT_THAT(order, ::testing::ElementsAre(1, 1, 2, 3));
}

TEST(EngineTest, DrainEndsWhatIsLeftAtItsDeadline) {
  const FakeOptions fake{.depth = 2};
  FakeExecutor executor(fake);
  double now = 100;
  const std::unique_ptr<Engine> engine = CreateEngine(Options(fake), executor, [&] { return now; });
  Stream quick, slow;
  ASSERT_TRUE(engine
                  ->Submit(Greedy(4, 5),
                           [&, record = quick.callback()](const TokenEvent& event) {
                             now += 1;
                             record(event);
                           })
                  .ok());
  ASSERT_TRUE(engine->Submit(Greedy(4, 100), slow.callback()).ok());
  engine->Drain(4.5);
  EXPECT_EQ(engine->state(), EngineState::kDraining);
  EXPECT_EQ(engine->Submit(Greedy(4, 5), slow.callback()).status().code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(engine->Run().ok());
  EXPECT_EQ(quick.last.finish, Finish::kLength);
  EXPECT_EQ(slow.last.finish, Finish::kError);
  EXPECT_EQ(slow.last.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(slow.tokens.size(), 4u);
  EXPECT_EQ(engine->state(), EngineState::kStopped);
  EXPECT_EQ(engine->loads().kv_blocks_used, 0);
  EXPECT_EQ(executor.shutdowns, 1);
  EXPECT_EQ(engine->Submit(Greedy(4, 5), slow.callback()).status().code(), absl::StatusCode::kUnavailable);
}

TEST(EngineTest, TimesComeFromTheClock) {
  const FakeOptions fake;
  FakeExecutor executor(fake);
  double now = 10;
  const std::unique_ptr<Engine> engine = CreateEngine(Options(fake), executor, [&] { return now; });
  Stream stream;
  ASSERT_TRUE(engine
                  ->Submit(Greedy(4, 3),
                           [&, record = stream.callback()](const TokenEvent& event) {
                             record(event);
                             now += 1;
                           })
                  .ok());
  now = 20;
  engine->Drain(kForever);
  ASSERT_TRUE(engine->Run().ok());
  EXPECT_EQ(stream.last.times.arrival, 10);
  EXPECT_EQ(stream.last.times.first_scheduled, 20);
  EXPECT_EQ(stream.last.times.first_token, 20);
  EXPECT_EQ(stream.last.times.last_token, 22);
  EXPECT_EQ(engine->loads().prompt_tokens, 4u);
  EXPECT_GT(engine->loads().generation_tokens_per_second, 0);
}

void ExpectFailure(const FakeOptions& fake, absl::StatusCode run_code, absl::StatusCode client_code) {
  FakeExecutor executor(fake);
  const std::unique_ptr<Engine> engine = CreateEngine(Options(fake), executor);
  std::vector<Stream> streams(10);
  for (Stream& stream : streams) ASSERT_TRUE(engine->Submit(Greedy(4, 50), stream.callback()).ok());
  EXPECT_EQ(engine->Run().code(), run_code);
  for (const Stream& stream : streams) {
    EXPECT_EQ(stream.last.finish, Finish::kError);
    EXPECT_EQ(stream.last.status.code(), client_code);
    EXPECT_THAT(std::string(stream.last.status.message()), HasSubstr("rank"));
    EXPECT_FALSE(stream.tokens.empty());
  }
  EXPECT_EQ(engine->state(), EngineState::kFailed);
  EXPECT_EQ(executor.shutdowns, 0);
  EXPECT_EQ(engine->loads().requests_failed, 10u);
  EXPECT_EQ(engine->Submit(Greedy(4, 5), streams[0].callback()).status().code(), absl::StatusCode::kUnavailable);
}

TEST(EngineTest, AnExecutorErrorEndsEveryRequestAndTheEngine) {
  ExpectFailure({.depth = 1, .fail_submit_at = 7}, absl::StatusCode::kUnavailable, absl::StatusCode::kUnavailable);
  ExpectFailure({.depth = 3, .fail_submit_at = 9}, absl::StatusCode::kUnavailable, absl::StatusCode::kUnavailable);
  ExpectFailure({.depth = 1, .fail_wait_at = 7}, absl::StatusCode::kDataLoss, absl::StatusCode::kInternal);
  ExpectFailure({.depth = 4, .fail_wait_at = 9}, absl::StatusCode::kDataLoss, absl::StatusCode::kInternal);
}

TEST(EngineTest, NanEndsItsOwnRequestOnly) {
  const FakeOptions fake{.nan_token = 96};
  FakeExecutor executor(fake);
  const std::unique_ptr<Engine> engine = CreateEngine(Options(fake), executor);
  std::vector<Stream> good(8);
  std::vector<Request> requests;
  Stream bad;
  for (size_t i = 0; i < good.size(); ++i) {
    requests.push_back(Greedy(5, 10, static_cast<int>(i)));
    requests.back().sampling.logit_bias = {{96, -100.0f}};
    ASSERT_TRUE(engine->Submit(requests.back(), good[i].callback()).ok());
    if (i != 3) continue;
    Request poison = Greedy(5, 10);
    poison.prompt.back() = 96;
    ASSERT_TRUE(engine->Submit(poison, bad.callback()).ok());
  }
  engine->Drain(kForever);
  ASSERT_TRUE(engine->Run().ok());
  EXPECT_EQ(bad.last.finish, Finish::kError);
  EXPECT_EQ(bad.last.status.code(), absl::StatusCode::kInternal);
  for (size_t i = 0; i < good.size(); ++i) EXPECT_EQ(good[i].tokens, ExpectedOutput(requests[i], fake.vocab));
}

TEST(EngineTest, BadRequestsAreRefusedWithTheirField) {
  const FakeOptions fake{.kv_blocks = 10};
  FakeExecutor executor(fake);
  EngineOptions options = Options(fake);
  options.max_context = 60;
  const std::unique_ptr<Engine> engine = CreateEngine(options, executor);
  const auto expect_refused = [&](const std::string& field, void (*change)(Request&)) {
    Request request = Greedy(4, 5);
    change(request);
    const absl::Status status = engine->Submit(request, [](const TokenEvent&) { FAIL(); }).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  };
  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  static constexpr float kInf = std::numeric_limits<float>::infinity();
  expect_refused("prompt", [](Request& r) { r.prompt.clear(); });
  expect_refused("prompt[1]", [](Request& r) { r.prompt[1] = 97; });
  expect_refused("prompt[2]", [](Request& r) { r.prompt[2] = -1; });
  expect_refused("context", [](Request& r) { r.prompt.resize(60, 1); });
  expect_refused("KV blocks", [](Request& r) { r.max_tokens = 38; });
  expect_refused("max_tokens", [](Request& r) { r.max_tokens = 0; });
  expect_refused("max_tokens", [](Request& r) { r.max_tokens = -5; });
  expect_refused("min_tokens", [](Request& r) { r.min_tokens = -1; });
  expect_refused("output_prefix", [](Request& r) { r.output_prefix = {1, 2, 3, 4, 5}; });
  expect_refused("output_prefix[0]", [](Request& r) { r.output_prefix = {97}; });
  expect_refused("stop_ids[1]", [](Request& r) { r.stop_ids = {1, 1 << 30}; });
  expect_refused("temperature", [](Request& r) { r.sampling.temperature = -0.1f; });
  expect_refused("temperature", [](Request& r) { r.sampling.temperature = kNan; });
  expect_refused("temperature", [](Request& r) { r.sampling.temperature = kInf; });
  expect_refused("top_p", [](Request& r) { r.sampling.top_p = 0; });
  expect_refused("top_p", [](Request& r) { r.sampling.top_p = 1.01f; });
  expect_refused("top_p", [](Request& r) { r.sampling.top_p = kNan; });
  expect_refused("top_k", [](Request& r) { r.sampling.top_k = -2; });
  expect_refused("min_p", [](Request& r) { r.sampling.min_p = kNan; });
  expect_refused("repetition_penalty", [](Request& r) { r.sampling.repetition_penalty = 0; });
  expect_refused("presence_penalty", [](Request& r) { r.sampling.presence_penalty = 2.1f; });
  expect_refused("frequency_penalty", [](Request& r) { r.sampling.frequency_penalty = -kInf; });
  expect_refused("logit_bias[0]", [](Request& r) { r.sampling.logit_bias = {{97, 1.0f}}; });
  expect_refused("logit_bias[0]", [](Request& r) { r.sampling.logit_bias = {{1, kNan}}; });
  expect_refused("top_logprobs", [](Request& r) { r.sampling.top_logprobs = 21; });
  EXPECT_TRUE(engine->Submit(Greedy(4, 37), [](const TokenEvent&) {}).ok());  // Exactly full.
}

TEST(EngineTest, MaxTokensIsCutToTheContext) {
  const FakeOptions fake;
  FakeExecutor executor(fake);
  EngineOptions options = Options(fake);
  options.max_context = 20;
  const std::unique_ptr<Engine> engine = CreateEngine(options, executor);
  Stream stream, last;
  ASSERT_TRUE(engine->Submit(Greedy(15, 1 << 30), stream.callback()).ok());
  ASSERT_TRUE(engine->Submit(Greedy(19, 9), last.callback()).ok());
  engine->Drain(kForever);
  ASSERT_TRUE(engine->Run().ok());
  EXPECT_EQ(stream.tokens.size(), 5u);
  EXPECT_EQ(stream.last.finish, Finish::kLength);
  EXPECT_EQ(last.tokens.size(), 1u);
}

// Submits and cancels from many threads while the engine runs; ids are published under a lock held across Submit.
TEST(EngineThreadsTest, ManyClientsGetTheirOwnTokensAndEveryRequestEndsOnce) {
  const FakeOptions fake{.kv_blocks = 60, .depth = 3};
  FakeExecutor executor(fake);
  EngineOptions options = Options(fake);
  options.max_waiting = 50;
  const std::unique_ptr<Engine> engine = CreateEngine(options, executor);
  std::thread engine_thread([&] { EXPECT_TRUE(engine->Run().ok()); });

  constexpr int kThreads = 4, kRequests = 150;
  std::atomic<int> ended = 0, accepted = 0, refused = 0, wrong = 0;
  std::mutex mutex;
  std::map<RequestId, int> events;  // By id, published before any callback can look.
  const auto client = [&](int seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < kRequests; ++i) {
      const Request request = RandomRequest(random, 60);
      const bool cancel = random() % 3 == 0;
      auto tokens = std::make_shared<std::vector<int32_t>>();
      auto own_id = std::make_shared<RequestId>(0);
      absl::StatusOr<RequestId> id = absl::UnknownError("");
      {
        std::lock_guard lock(mutex);
        id = engine->Submit(request, [&, request, tokens, own_id](const TokenEvent& event) {
          std::lock_guard lock(mutex);
          if (*own_id == 0) ++wrong;
          ++events[*own_id];
          if (event.token >= 0) tokens->push_back(event.token);
          if (event.finish == Finish::kNone) return;
          ++ended;
          std::vector<int32_t> expected = ExpectedOutput(request, fake.vocab);
          if (event.finish == Finish::kCancelled) expected.resize(std::min(expected.size(), tokens->size()));
          if (*tokens != expected) ++wrong;
        });
        if (id.ok()) *own_id = *id;
      }
      if (!id.ok()) {
        EXPECT_EQ(id.status().code(), absl::StatusCode::kResourceExhausted);
        ++refused;
        std::this_thread::yield();
        continue;
      }
      ++accepted;
      if (cancel) engine->Cancel(*id);
      engine->loads();
    }
  };
  std::vector<std::thread> clients;
  for (int t = 0; t < kThreads; ++t) clients.emplace_back(client, t + 1);
  for (std::thread& thread : clients) thread.join();
  engine->Drain(kForever);
  engine_thread.join();
  EXPECT_EQ(ended, accepted);
  EXPECT_EQ(accepted + refused, kThreads * kRequests);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(engine->loads().kv_blocks_used, 0);
  EXPECT_EQ(engine->state(), EngineState::kStopped);
}

double ProcessCpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

TEST(EngineThreadsTest, AnIdleEngineUsesNoCpuAndWakesForARequest) {
  const FakeOptions fake;
  FakeExecutor executor(fake);
  const std::unique_ptr<Engine> engine = CreateEngine(Options(fake), executor);
  std::thread engine_thread([&] { EXPECT_TRUE(engine->Run().ok()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const double before = ProcessCpuSeconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(ProcessCpuSeconds() - before, 0.03);

  std::mutex mutex;
  std::condition_variable done;
  bool ended = false;
  ASSERT_TRUE(engine
                  ->Submit(Greedy(4, 5),
                           [&](const TokenEvent& event) {
                             if (event.finish == Finish::kNone) return;
                             std::lock_guard lock(mutex);
                             ended = true;
                             done.notify_one();
                           })
                  .ok());
  {
    std::unique_lock lock(mutex);
    EXPECT_TRUE(done.wait_for(lock, std::chrono::seconds(10), [&] { return ended; }));
  }
  engine->Drain(0);
  engine_thread.join();
}

TEST(EngineThreadsTest, FailureAndDrainRaceWithSubmitsWithoutLosingARequest) {
  for (int round = 0; round < 30; ++round) {
    FakeOptions fake{.depth = 2};
    if (round % 2 == 0) fake.fail_wait_at = 20;
    FakeExecutor executor(fake);
    const std::unique_ptr<Engine> engine = CreateEngine(Options(fake), executor);
    std::thread engine_thread([&] { EXPECT_EQ(engine->Run().ok(), fake.fail_wait_at == 0); });
    std::atomic<int> ended = 0;
    int accepted = 0;
    for (int i = 0; i < 1000000; ++i) {
      const auto id = engine->Submit(Greedy(4, 30), [&](const TokenEvent& event) {
        if (event.finish != Finish::kNone) ++ended;
      });
      if (id.ok()) ++accepted;
      if (id.status().code() == absl::StatusCode::kUnavailable) break;
      if (fake.fail_wait_at == 0 && i == 40) engine->Drain(round % 4 == 1 ? 0 : 0.001);
      if (id.status().code() == absl::StatusCode::kResourceExhausted) std::this_thread::yield();
    }
    engine_thread.join();
    EXPECT_EQ(ended, accepted);
    EXPECT_EQ(engine->state(), fake.fail_wait_at == 0 ? EngineState::kStopped : EngineState::kFailed);
  }
}

}  // namespace
}  // namespace shoal
