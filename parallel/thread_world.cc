#include "parallel/thread_world.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {

using Bytes = std::vector<std::byte>;

// All messages between the threads, in order per (sender, receiver, stream). Stream 0 is AllGather's, 1-3 are the
// channels of World, and every communicator has two of its own.
class ThreadPost {
 public:
  ThreadPost(int ranks, const WorldLimits& limits) : limits_(limits), boxes_(ranks) {}

  int size() const { return static_cast<int>(boxes_.size()); }
  const WorldLimits& limits() const { return limits_; }

  // Waits while `unread_max` messages of this stream are unread, for at most `seconds` (0: for ever).
  absl::Status Send(int from, int to, int stream, std::span<const std::byte> bytes, int unread_max, double seconds) {
    Bytes copy(bytes.begin(), bytes.end());
    std::unique_lock lock(mutex_);
    std::deque<Bytes>& queue = boxes_[to].queues[{stream, from}];
    const auto room = [&] { return !aborted_.ok() || static_cast<int>(queue.size()) < unread_max; };
    if (seconds <= 0) {
      boxes_[from].wake.wait(lock, room);
    } else if (!boxes_[from].wake.wait_for(lock, std::chrono::duration<double>(seconds), room)) {
      return absl::UnavailableError(StrCat("rank ", to, " has left ", queue.size(), " messages unread for ", seconds,
                                           " seconds; it is stuck or far too slow"));
    }
    RETURN_IF_ERROR(aborted_);
    queue.push_back(std::move(copy));
    boxes_[to].wake.notify_all();
    return absl::OkStatus();
  }

  absl::StatusOr<Bytes> Receive(int from, int to, int stream) {
    std::unique_lock lock(mutex_);
    std::deque<Bytes>& queue = boxes_[to].queues[{stream, from}];
    boxes_[to].wake.wait(lock, [&] { return !aborted_.ok() || !queue.empty(); });
    // What had arrived before the abort is still handed out: it makes the order of errors a test sees the same each
    // time.
    if (queue.empty()) return aborted_;
    return Pop(queue, from);
  }

  // The next message of any sender, taking turns.
  absl::StatusOr<std::optional<World::Message>> TryReceive(int to, int stream, int first) {
    std::unique_lock lock(mutex_);
    for (int i = 0; i < size(); ++i) {
      const int from = (first + i) % size();
      std::deque<Bytes>& queue = boxes_[to].queues[{stream, from}];
      if (!queue.empty()) return World::Message{from, Pop(queue, from)};
    }
    RETURN_IF_ERROR(aborted_);
    return std::nullopt;
  }

  void Abort(const absl::Status& reason) {
    std::unique_lock lock(mutex_);
    if (aborted_.ok()) aborted_ = absl::AbortedError(reason.message());
    for (Box& box : boxes_) box.wake.notify_all();
  }

 private:
  // A rank's mail, and what it sleeps on, be it for mail or for room in another's box.
  struct Box {
    std::map<std::pair<int, int>, std::deque<Bytes>> queues;  // By (stream, sender).
    std::condition_variable wake;
  };

  Bytes Pop(std::deque<Bytes>& queue, int from) {
    Bytes bytes = std::move(queue.front());
    queue.pop_front();
    boxes_[from].wake.notify_all();
    return bytes;
  }

  const WorldLimits limits_;
  std::mutex mutex_;
  std::deque<Box> boxes_;  // By receiver; a deque, because a Box cannot move.
  absl::Status aborted_;
};

namespace {

constexpr int kGatherStream = 0;
constexpr int kFirstCommunicatorStream = 16;
// AllGather and AllReduceSum wait for one another anyway.
constexpr int kCollectiveUnreadMax = 4;

class ThreadWorld : public World {
 public:
  ThreadWorld(std::shared_ptr<ThreadPost> post, int rank) : post_(std::move(post)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return post_->size(); }
  int local_rank() const override { return rank_; }
  int local_size() const override { return post_->size(); }

  absl::Status Send(int to, Channel channel, std::span<const std::byte> bytes) override {
    SHOAL_CHECK(to >= 0 && to < size() && to != rank_);
    if (static_cast<int64_t>(bytes.size()) > kMessageBytesMax) {
      return absl::InvalidArgumentError(
          StrCat("a message of ", bytes.size(), " bytes to rank ", to, " is longer than ", kMessageBytesMax));
    }
    const WorldLimits& limits = post_->limits();
    return post_->Send(rank_, to, static_cast<int>(channel), bytes, limits.unread_messages_max,
                       limits.unread_seconds_max);
  }

  absl::StatusOr<Bytes> Receive(int from, Channel channel) override {
    SHOAL_CHECK(from >= 0 && from < size() && from != rank_);
    return post_->Receive(from, rank_, static_cast<int>(channel));
  }

  absl::StatusOr<std::optional<Message>> TryReceive(Channel channel) override {
    turn_ = (turn_ + 1) % size();
    return post_->TryReceive(rank_, static_cast<int>(channel), turn_);
  }

  absl::StatusOr<std::vector<Bytes>> AllGather(std::span<const std::byte> bytes) override {
    std::vector<Bytes> all(size());
    for (int to = 0; to < size(); ++to) {
      if (to != rank_) RETURN_IF_ERROR(post_->Send(rank_, to, kGatherStream, bytes, kCollectiveUnreadMax, 0));
    }
    int64_t total = 0;
    absl::Status too_long;
    for (int from = 0; from < size(); ++from) {
      if (from == rank_) {
        all[from].assign(bytes.begin(), bytes.end());
      } else {
        ASSIGN_OR_RETURN(all[from], post_->Receive(from, rank_, kGatherStream));
      }
      total += static_cast<int64_t>(all[from].size());
      if (total > kMessageBytesMax && too_long.ok()) {
        too_long = absl::InvalidArgumentError(StrCat("rank ", from, " gives ", all[from].size(),
                                                     " bytes to an exchange of at most ", kMessageBytesMax, " in all"));
      }
    }
    RETURN_IF_ERROR(too_long);
    return all;
  }

 private:
  std::shared_ptr<ThreadPost> post_;
  int rank_;
  int turn_ = 0;
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadPost> post, std::vector<int> group, int rank, int stream)
      : post_(std::move(post)), group_(std::move(group)), rank_(rank), stream_(stream) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(group_.size()); }

  absl::Status AllReduceSum(Tensor inout) override {
    SHOAL_CHECK(inout.dtype == DType::kF64 && inout.contiguous());
    const ExchangeTimer timer(exchange_ns_);
    const auto mine = std::span(inout.data, static_cast<size_t>(inout.bytes()));
    for (int to = 0; to < size(); ++to) {
      if (to == rank_) continue;
      RETURN_IF_ERROR(post_->Send(group_[rank_], group_[to], stream_ + 1, mine, kCollectiveUnreadMax, 0));
    }
    std::vector<double> total(mine.size() / sizeof(double), 0.0);
    for (int from = 0; from < size(); ++from) {
      Bytes bytes;
      if (from != rank_) {
        ASSIGN_OR_RETURN(bytes, post_->Receive(group_[from], group_[rank_], stream_ + 1));
        if (bytes.size() != mine.size()) return OutOfStep(from, bytes.size(), mine.size());
      }
      const auto* part = from == rank_ ? inout.As<double>() : reinterpret_cast<const double*>(bytes.data());
      for (size_t i = 0; i < total.size(); ++i) total[i] += part[i];
    }
    if (!total.empty()) std::memcpy(inout.data, total.data(), mine.size());
    return absl::OkStatus();
  }

  absl::Status Send(Tensor in, int to) override {
    SHOAL_CHECK(in.contiguous() && to >= 0 && to < size() && to != rank_);
    const ExchangeTimer timer(exchange_ns_);
    return post_->Send(group_[rank_], group_[to], stream_, std::span(in.data, static_cast<size_t>(in.bytes())),
                       kSendsInFlight, 0);
  }

  absl::Status Receive(Tensor out, int from) override {
    SHOAL_CHECK(out.contiguous() && from >= 0 && from < size() && from != rank_);
    const ExchangeTimer timer(exchange_ns_);
    ASSIGN_OR_RETURN(const Bytes bytes, post_->Receive(group_[from], group_[rank_], stream_));
    if (static_cast<int64_t>(bytes.size()) != out.bytes()) return OutOfStep(from, bytes.size(), out.bytes());
    if (!bytes.empty()) std::memcpy(out.data, bytes.data(), bytes.size());
    return absl::OkStatus();
  }

  int64_t exchange_ns() const override { return exchange_ns_; }

 private:
  static absl::Status OutOfStep(int from, size_t got, int64_t awaited) {
    return absl::InternalError(StrCat("rank ", from, " of the group sent a tensor of ", got, " bytes where ", awaited,
                                      " were awaited; the ranks are out of step"));
  }

  std::shared_ptr<ThreadPost> post_;
  std::vector<int> group_;
  int rank_;
  int64_t exchange_ns_ = 0;
  int stream_;  // Tensors; stream_ + 1 carries the parts of sums.
};

}  // namespace

ThreadRank::ThreadRank(std::shared_ptr<ThreadPost> post, int rank)
    : post_(std::move(post)), rank_(rank), world_(std::make_unique<ThreadWorld>(post_, rank)) {}

ThreadRank::~ThreadRank() = default;

int ThreadRank::rank() const { return rank_; }
int ThreadRank::size() const { return post_->size(); }
void ThreadRank::Abort(const absl::Status& reason) { post_->Abort(reason); }

absl::StatusOr<std::unique_ptr<Communicator>> ThreadRank::CreateCommunicator(std::span<const int> group) {
  RETURN_IF_ERROR(CheckGroups(*world_, group));
  const int stream = kFirstCommunicatorStream + 2 * communicators_++;
  const int mine = static_cast<int>(std::find(group.begin(), group.end(), rank_) - group.begin());
  return std::make_unique<ThreadCommunicator>(post_, std::vector<int>(group.begin(), group.end()), mine, stream);
}

absl::Status RunRanks(int ranks, const std::function<absl::Status(ThreadRank&)>& body, const WorldLimits& limits) {
  SHOAL_CHECK_GE(ranks, 1);
  auto post = std::make_shared<ThreadPost>(ranks, limits);
  std::mutex mutex;
  absl::Status first;
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      ThreadRank rank(post, r);
      const absl::Status status = body(rank);
      if (status.ok()) return;
      const absl::Status named(status.code(), StrCat("rank ", r, ": ", status.message()));
      {
        std::lock_guard lock(mutex);
        if (first.ok()) first = named;
      }
      post->Abort(named);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return first;
}

}  // namespace shoal
