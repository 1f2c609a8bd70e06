#include "server/stream_registry.h"

#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

// Each holds up to about 150 KiB that its client has not read.
constexpr size_t kUnreadMax = 1024;
constexpr auto kWatchPeriod = std::chrono::milliseconds(100);

std::string MakePrefix() {
  std::random_device device;
  return absl::StrFormat("shoal-%08x-", static_cast<uint32_t>(device()));
}

}  // namespace

StreamRegistry::StreamRegistry() : id_prefix_(MakePrefix()), watcher_([this] { Watch(); }) {}

StreamRegistry::~StreamRegistry() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  watcher_.join();
}

absl::StatusOr<std::string> StreamRegistry::Add(const std::string& id, std::weak_ptr<RegisteredStream> stream,
                                                size_t places) {
  bool first = false;
  std::string taken = id;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return absl::UnavailableError("the server is shutting down");
    if (places_taken_ >= places) {
      return absl::ResourceExhaustedError(StrCat("the queue is full with ", places, " requests; retry later"));
    }
    // Not part of the limit above, so that a client which sends its next request at once does not count twice.
    const size_t unread = running_.size() - places_taken_ + closing_.size();
    if (unread >= kUnreadMax) {
      return absl::ResourceExhaustedError(
          StrCat(unread, " ended streams wait for their clients to read them; retry later"));
    }
    if (taken.empty()) taken = FreeId();
    if (!running_.try_emplace(taken, Running{.stream = std::move(stream)}).second) {
      return absl::AlreadyExistsError(StrCat("request_id '", id, "' is in use by a running request; use another id"));
    }
    ++places_taken_;
    first = running_.size() + closing_.size() == 1;
  }
  if (first) wake_.notify_one();
  return taken;
}

// With mutex_ held.
void StreamRegistry::FreePlace(Running& running) {
  if (std::exchange(running.has_place, false)) --places_taken_;
}

void StreamRegistry::EngineDone(const std::string& id) {
  std::lock_guard lock(mutex_);
  if (const auto found = running_.find(id); found != running_.end()) FreePlace(found->second);
}

void StreamRegistry::Finish(const std::string& id) {
  std::lock_guard lock(mutex_);
  const auto found = running_.find(id);
  if (found == running_.end()) return;
  // Null if the stream is gone already; then nobody would call Remove.
  if (const auto stream = found->second.stream.lock()) closing_.emplace(stream.get(), found->second.stream);
  FreePlace(found->second);
  running_.erase(found);
}

void StreamRegistry::Remove(const RegisteredStream* stream) {
  std::lock_guard lock(mutex_);
  closing_.erase(stream);
}

bool StreamRegistry::Abort(const std::string& id) {
  std::shared_ptr<RegisteredStream> stream;
  {
    std::lock_guard lock(mutex_);
    const auto found = running_.find(id);
    if (found != running_.end()) stream = found->second.stream.lock();
  }
  if (stream == nullptr) return false;
  stream->Abort();
  return true;
}

void StreamRegistry::Close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  for (const auto& stream : Snapshot()) stream->ForceEnd();
}

// With mutex_ held. Ends: more numbers than running streams.
std::string StreamRegistry::FreeId() {
  std::string id;
  do {
    id = StrCat(id_prefix_, next_id_++);
  } while (running_.contains(id));
  return id;
}

size_t StreamRegistry::size() const {
  std::lock_guard lock(mutex_);
  return running_.size() + closing_.size();
}

std::vector<std::shared_ptr<RegisteredStream>> StreamRegistry::Snapshot() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<RegisteredStream>> all;
  all.reserve(running_.size() + closing_.size());
  const auto add = [&all](const std::weak_ptr<RegisteredStream>& weak) {
    if (auto stream = weak.lock()) all.push_back(std::move(stream));
  };
  for (const auto& [id, running] : running_) add(running.stream);
  for (const auto& [key, weak] : closing_) add(weak);
  return all;
}

void StreamRegistry::Watch() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    wake_.wait(lock, [this] { return stop_ || !running_.empty() || !closing_.empty(); });
    wake_.wait_for(lock, kWatchPeriod, [this] { return stop_; });
    lock.unlock();
    for (const auto& stream : Snapshot()) stream->CheckStalled();
    lock.lock();
  }
}

}  // namespace shoal
