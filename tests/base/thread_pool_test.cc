#include "base/thread_pool.h"

#include <sys/resource.h>
#include <sys/time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

double ProcessCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(ThreadPoolTest, RunCallsEveryWorkerOnceAndWaitsForAll) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    std::vector<int> calls(threads);  // Each worker writes its own element: no atomics, so TSan sees a missing wait.
    for (int round = 0; round < 200; ++round) pool.Run([&](int worker) { ++calls[worker]; });
    for (int worker = 0; worker < threads; ++worker) EXPECT_EQ(calls[worker], 200) << worker << " of " << threads;
  }
}

TEST(ThreadPoolTest, TheCallerIsWorkerZero) {
  ThreadPool pool(2);
  std::vector<std::thread::id> ids(2);
  pool.Run([&](int worker) { ids[worker] = std::this_thread::get_id(); });
  EXPECT_EQ(ids[0], std::this_thread::get_id());
  EXPECT_NE(ids[1], std::this_thread::get_id());
}

TEST(ThreadPoolTest, WorkSeesWhatTheCallerWroteBefore) {
  ThreadPool pool(4);
  std::vector<int> values(4);
  for (int round = 1; round < 300; ++round) {
    std::iota(values.begin(), values.end(), round);
    std::vector<int> seen(4);
    pool.Run([&](int worker) { seen[worker] = values[worker]; });
    ASSERT_EQ(seen, values);
  }
}

TEST(ThreadPoolTest, ParallelForCoversTheRangeOnceInWholeGrains) {
  for (int threads : {1, 3, 5}) {
    ThreadPool pool(threads);
    for (int64_t n : {0, 1, 15, 16, 17, 64, 1000}) {
      for (int64_t grain : {1, 16, 48}) {
        std::vector<int> hits(n);
        std::atomic<int> ranges{0};
        pool.ParallelFor(n, grain, [&](int64_t begin, int64_t end, int worker) {
          EXPECT_LT(worker, threads);
          EXPECT_LT(begin, end);
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end % grain == 0 || end == n);
          for (int64_t i = begin; i < end; ++i) ++hits[i];
          ++ranges;
        });
        EXPECT_EQ(hits, std::vector<int>(n, 1)) << n << " by " << grain << " on " << threads;
        EXPECT_LE(ranges, threads);
      }
    }
  }
}

TEST(ThreadPoolTest, BalancedForCoversTheRangeOnceInPieces) {
  for (int threads : {1, 3, 5}) {
    ThreadPool pool(threads);
    for (int64_t n : {0, 1, 15, 16, 17, 64, 1000}) {
      for (int64_t grain : {1, 16, 48}) {
        std::vector<std::atomic<int>> hits(n);
        pool.BalancedFor(n, grain, [&](int64_t begin, int64_t end, int worker) {
          EXPECT_LT(worker, threads);
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(threads == 1 || n <= grain || end - begin <= grain);
          for (int64_t i = begin; i < end; ++i) ++hits[i];
        });
        for (int64_t i = 0; i < n; ++i) EXPECT_EQ(hits[i], 1) << i << " of " << n << " by " << grain;
      }
    }
  }
}

TEST(ThreadPoolTest, BalancedForLetsTheOthersFinishASlowWorkersShare) {
  ThreadPool pool(2);
  std::vector<int> by(64, -1);  // Who did each piece.
  pool.BalancedFor(64, 1, [&](int64_t begin, int64_t, int worker) {
    by[begin] = worker;
    if (begin == 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  });
  // The caller sleeps in the first piece of its share; the other worker has long done the rest by then.
  EXPECT_EQ(by[0], 0);
  EXPECT_GT(std::count(by.begin(), by.begin() + 32, 1), 16);
}

TEST(ThreadPoolTest, WorksAgainAfterTheWorkersFellAsleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> calls{0};
    pool.Run([&](int) { ++calls; });
    ASSERT_EQ(calls, 3);
  }
}

TEST(ThreadPoolTest, AnIdlePoolUsesNoCpu) {
  ThreadPool pool(4);
  pool.Run([](int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = ProcessCpuSeconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(ProcessCpuSeconds() - before, 0.03);
}

TEST(ThreadPoolTest, ASlowWorkerIsWaitedForWithoutBurningTheCallersCore) {
  ThreadPool pool(2);
  const double before = ProcessCpuSeconds();
  std::atomic<bool> done{false};
  pool.Run([&](int worker) {
    if (worker == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    done = true;
  });
  EXPECT_TRUE(done);
  EXPECT_LT(ProcessCpuSeconds() - before, 0.05);
}

TEST(ThreadPoolTest, ManyMoreThreadsThanCoresStillMakeProgress) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> callers;
  std::atomic<int64_t> calls{0};
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      ThreadPool pool(8);
      for (int round = 0; round < 50; ++round) pool.Run([&](int) { ++calls; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(calls, 4 * 8 * 50);
  // A pool that only spins needs a scheduler time slice per waiting thread and round: minutes.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(ThreadPoolTest, MayBeDestroyedUnused) {
  for (int i = 0; i < 20; ++i) ThreadPool pool(3);
}

}  // namespace
}  // namespace shoal
