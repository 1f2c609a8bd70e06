#include "parallel/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

constexpr int64_t kPage = 4096;

// How the other ranks find the segment. `key` is also its first word.
struct Ticket {
  uint64_t key = 0;
  int64_t bytes = 0;
  int32_t process = 0;
};

std::string NameOf(const Ticket& ticket) {
  char name[64];
  std::snprintf(name, sizeof(name), "/shoal-%d-%016llx", ticket.process, static_cast<unsigned long long>(ticket.key));
  return name;
}

std::string Reason(const char* what) { return StrCat(what, ": ", std::strerror(errno)); }

class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

// Removes a name at the end, whatever happens in between.
class Unlinker {
 public:
  Unlinker() = default;
  ~Unlinker() {
    if (!name_.empty()) shm_unlink(name_.c_str());
  }
  Unlinker(const Unlinker&) = delete;
  Unlinker& operator=(const Unlinker&) = delete;
  void Take(std::string name) { name_ = std::move(name); }

 private:
  std::string name_;
};

// A new file of `bytes` whose memory is really there: without that a full /dev/shm would kill the rank later.
absl::StatusOr<int> MakeFile(const std::string& name, int64_t bytes, Unlinker& unlinker) {
  const int descriptor = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  if (descriptor < 0) return absl::UnavailableError(Reason("cannot create shared memory"));
  unlinker.Take(name);
  int error = EINTR;
  for (int tries = 0; error == EINTR && tries < 100; ++tries) error = posix_fallocate(descriptor, 0, bytes);
  if (error == 0) return descriptor;
  close(descriptor);
  return absl::ResourceExhaustedError(
      StrCat("no room for ", bytes, " bytes of shared memory (", std::strerror(error), "); make /dev/shm larger"));
}

}  // namespace

absl::Status SharedSegment::Map(int file) {
  struct stat info {};
  if (fstat(file, &info) != 0) return absl::UnavailableError(Reason("cannot look at shared memory"));
  if (info.st_size != bytes_ + kPage) {
    return absl::UnavailableError(StrCat("shared memory has ", info.st_size, " bytes instead of ", bytes_ + kPage));
  }
  // Populated: its pages are there, and the first step should not have to map them one by one.
  void* const memory = mmap(nullptr, bytes_ + kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
  if (memory == MAP_FAILED) return absl::UnavailableError(Reason("cannot map shared memory"));
  mapping_ = static_cast<std::byte*>(memory);
  return absl::OkStatus();
}

SharedSegment::~SharedSegment() {
  if (mapping_ != nullptr) munmap(mapping_, bytes_ + kPage);
}

std::span<std::byte> SharedSegment::memory() const {
  return {mapping_ == nullptr ? nullptr : mapping_ + kPage, static_cast<size_t>(bytes_)};
}

absl::StatusOr<std::unique_ptr<SharedSegment>> SharedSegment::Create(World& world, std::span<const int> group,
                                                                     int64_t bytes) {
  SHOAL_CHECK(bytes >= 0 && bytes <= kSegmentBytesMax && bytes % kPage == 0);
  std::unique_ptr<SharedSegment> segment(new SharedSegment(bytes));
  Unlinker unlinker;
  Ticket ticket{.key = 0, .bytes = bytes, .process = getpid()};
  const bool first = world.rank() == group[0], wanted = bytes > 0;
  const auto make = [&]() -> absl::Status {
    if (getrandom(&ticket.key, sizeof(ticket.key), 0) != sizeof(ticket.key)) {
      return absl::UnavailableError(Reason("cannot draw a name for shared memory"));
    }
    ASSIGN_OR_RETURN(const int descriptor, MakeFile(NameOf(ticket), bytes + kPage, unlinker));
    const File file(descriptor);
    RETURN_IF_ERROR(segment->Map(file.get()));
    std::memcpy(segment->mapping_, &ticket.key, sizeof(ticket.key));
    return absl::OkStatus();
  };
  const absl::Status made = first && wanted ? make() : absl::OkStatus();
  ASSIGN_OR_RETURN(const auto tickets, world.AllGather(std::as_bytes(std::span(&ticket, 1))));
  const absl::Status all_made = AgreeInGroup(world, group, absl::OkStatus(), made);

  const auto attach = [&]() -> absl::Status {
    const std::vector<std::byte>& from = tickets[group[0]];
    if (from.size() != sizeof(ticket)) return absl::InternalError("shared memory: a ticket of the wrong size");
    std::memcpy(&ticket, from.data(), sizeof(ticket));
    if (ticket.bytes != bytes) {
      return absl::InternalError(StrCat("shared memory of ", ticket.bytes, " bytes where ", bytes, " were awaited"));
    }
    const File file(shm_open(NameOf(ticket).c_str(), O_RDWR, 0));
    if (file.get() < 0) return absl::UnavailableError(Reason("shared memory of its group is not on this host"));
    RETURN_IF_ERROR(segment->Map(file.get()));
    if (std::memcmp(segment->mapping_, &ticket.key, sizeof(ticket.key)) != 0) {
      return absl::UnavailableError("shared memory of its group is not on this host, but another of its name");
    }
    return absl::OkStatus();
  };
  const absl::Status attached = all_made.ok() && !first && wanted ? attach() : absl::OkStatus();
  RETURN_IF_ERROR(AgreeInGroup(world, group, all_made, attached));
  return segment;
}

}  // namespace shoal
