#include "server/stream_registry.h"

#include <chrono>
#include <utility>

#include "base/str_cat.h"

namespace shoal {
namespace {

constexpr auto kWatchPeriod = std::chrono::milliseconds(100);

}  // namespace

StreamRegistry::StreamRegistry() : watcher_([this] { Watch(); }) {}

StreamRegistry::~StreamRegistry() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  watcher_.join();
}

absl::Status StreamRegistry::Add(const std::string& id, std::weak_ptr<RegisteredStream> stream) {
  bool first = false;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return absl::UnavailableError("the server is shutting down");
    if (!streams_.try_emplace(id, std::move(stream)).second) {
      return absl::AlreadyExistsError(StrCat("request_id '", id, "' is in use by a running request; use another id"));
    }
    first = streams_.size() == 1;
  }
  if (first) wake_.notify_one();
  return absl::OkStatus();
}

void StreamRegistry::Remove(const std::string& id) {
  std::lock_guard lock(mutex_);
  streams_.erase(id);
}

bool StreamRegistry::Abort(const std::string& id) {
  std::shared_ptr<RegisteredStream> stream;
  {
    std::lock_guard lock(mutex_);
    const auto found = streams_.find(id);
    if (found != streams_.end()) stream = found->second.lock();
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

std::string StreamRegistry::MakeId() {
  std::lock_guard lock(mutex_);
  return StrCat("shoal-", next_id_++);
}

size_t StreamRegistry::size() const {
  std::lock_guard lock(mutex_);
  return streams_.size();
}

std::vector<std::shared_ptr<RegisteredStream>> StreamRegistry::Snapshot() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<RegisteredStream>> all;
  all.reserve(streams_.size());
  for (const auto& [id, weak] : streams_) {
    if (auto stream = weak.lock()) all.push_back(std::move(stream));
  }
  return all;
}

void StreamRegistry::Watch() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    wake_.wait(lock, [this] { return stop_ || !streams_.empty(); });
    wake_.wait_for(lock, kWatchPeriod, [this] { return stop_; });
    lock.unlock();
    for (const auto& stream : Snapshot()) stream->CheckStalled();
    lock.lock();
  }
}

}  // namespace shoal
