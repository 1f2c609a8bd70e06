// What waits is bounded, in jobs and in bytes.
#include "server/worker_pool.h"

#include <future>

#include "gtest/gtest.h"

namespace shoal {
namespace {

TEST(WorkerPoolTest, WaitingJobsAreBoundedInBytes) {
  std::promise<void> started, go;
  WorkerPool pool(1, 100, 1000);
  ASSERT_TRUE(pool.Submit([&] {
    started.set_value();
    go.get_future().wait();
  }));
  started.get_future().wait();  // What runs does not wait.
  EXPECT_TRUE(pool.Submit([] {}, 600));
  EXPECT_FALSE(pool.Submit([] {}, 401));
  EXPECT_FALSE(pool.Submit([] {}, SIZE_MAX));
  EXPECT_TRUE(pool.Submit([] {}, 400));
  EXPECT_FALSE(pool.Submit([] {}, 1));
  go.set_value();
}

TEST(WorkerPoolTest, AJobLargerThanTheQueueGetsIntoAnEmptyOne) {
  std::promise<void> done;
  WorkerPool pool(1, 100, 1000);
  EXPECT_TRUE(pool.Submit([&] { done.set_value(); }, 5000));
  done.get_future().wait();
}

}  // namespace
}  // namespace shoal
