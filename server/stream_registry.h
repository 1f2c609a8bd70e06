// The open Generate calls: who uses which request id, and who has stopped reading.
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
#include "absl/status/statusor.h"

namespace shoal {

// What the registry may ask of a stream. Called without locks of the registry.
class RegisteredStream {
 public:
  virtual ~RegisteredStream() = default;
  // Ends with finish reason ABORT.
  virtual void Abort() = 0;
  // Called a few times per second: ends the stream if its client has not read for too long, and cuts the call off if
  // the client does not even read the end.
  virtual void CheckStalled() = 0;
  // Ends with UNAVAILABLE, whatever the engine does.
  virtual void ForceEnd() = 0;
};

// Thread-safe. A stream takes a place until EngineDone, has its id until Finish, and is an open call until Remove: its
// client may be slow to read the end, or never do so.
class StreamRegistry {
 public:
  StreamRegistry();
  // Every stream must have been removed.
  ~StreamRegistry();
  StreamRegistry(const StreamRegistry&) = delete;
  StreamRegistry& operator=(const StreamRegistry&) = delete;

  // Returns the id; an empty one becomes "shoal-1f3a9c02-17": the middle is drawn once per registry, so that a client
  // does not hit such an id by accident, and an id in use is passed over.
  // Errors: kAlreadyExists if the id is in use; kResourceExhausted if `places` are taken or very many streams wait for
  // their clients to read the end; kUnavailable after Close().
  absl::StatusOr<std::string> Add(const std::string& id, std::weak_ptr<RegisteredStream> stream, size_t places);
  // The engine needs nothing more for it: its place is free.
  void EngineDone(const std::string& id);
  // The id is free again.
  void Finish(const std::string& id);
  // gRPC is done with the call. A stream that was never added is ignored.
  void Remove(const RegisteredStream* stream);

  // False if no such stream is running.
  bool Abort(const std::string& id);
  // Ends all streams and refuses new ones.
  void Close();
  // Open calls.
  size_t size() const;

 private:
  struct Running {
    std::weak_ptr<RegisteredStream> stream;
    bool has_place = true;
  };

  void Watch();
  std::string FreeId();
  void FreePlace(Running& running);
  std::vector<std::shared_ptr<RegisteredStream>> Snapshot() const;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Keys of closing_ are never dereferenced: while a stream is destroyed its weak_ptr is of no use any more.
  std::unordered_map<std::string, Running> running_;  // By id.
  size_t places_taken_ = 0;
  std::unordered_map<const RegisteredStream*, std::weak_ptr<RegisteredStream>> closing_;
  const std::string id_prefix_;
  uint64_t next_id_ = 1;
  bool closed_ = false;
  bool stop_ = false;
  std::thread watcher_;  // Sleeps while no stream is open.
};

}  // namespace shoal
