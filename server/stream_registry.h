// The open Generate streams: who uses which request id, and who has stopped reading.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"

namespace shoal {

// What the registry may ask of a stream. Called without locks of the registry.
class RegisteredStream {
 public:
  virtual ~RegisteredStream() = default;
  // Ends with finish reason ABORT.
  virtual void Abort() = 0;
  // Called a few times per second: ends the stream if its client has not read for too long.
  virtual void CheckStalled() = 0;
  // Ends with UNAVAILABLE, whatever the engine does.
  virtual void ForceEnd() = 0;
};

// Thread-safe.
class StreamRegistry {
 public:
  StreamRegistry();
  // Every stream must have been removed.
  ~StreamRegistry();
  StreamRegistry(const StreamRegistry&) = delete;
  StreamRegistry& operator=(const StreamRegistry&) = delete;

  // Errors: kAlreadyExists if the id is in use; kUnavailable after Close().
  absl::Status Add(const std::string& id, std::weak_ptr<RegisteredStream> stream);
  void Remove(const std::string& id);

  // False if no such stream is open.
  bool Abort(const std::string& id);
  // Ends all streams and refuses new ones.
  void Close();
  // "shoal-17"; never given twice.
  std::string MakeId();
  size_t size() const;

 private:
  void Watch();
  std::vector<std::shared_ptr<RegisteredStream>> Snapshot() const;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::unordered_map<std::string, std::weak_ptr<RegisteredStream>> streams_;
  uint64_t next_id_ = 1;
  bool closed_ = false;
  bool stop_ = false;
  std::thread watcher_;  // Sleeps while no stream is open.
};

}  // namespace shoal
