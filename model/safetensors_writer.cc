#include "model/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/check.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/checkpoint.h"

namespace shoal {
namespace {

absl::Status ErrnoStatus(const std::string& path, int error) {
  const std::string text = StrCat(path, ": ", strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return absl::ResourceExhaustedError(StrCat(text, "; free some space or choose another place"));
  }
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(text);
  if (error == EEXIST) return absl::AlreadyExistsError(StrCat(text, "; choose a new folder"));
  if (error == EACCES || error == EPERM || error == EROFS) return absl::PermissionDeniedError(text);
  return absl::InternalError(text);
}

absl::Status WriteAt(int fd, const std::string& path, uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(path, errno);
    offset += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> CreateFile(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(path, errno);
  return fd;
}

absl::Status SyncAndClose(int fd, const std::string& path) {
  const int error = fsync(fd) == 0 ? 0 : errno;
  if (close(fd) != 0 && error == 0) return ErrnoStatus(path, errno);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(path, error);
}

// Tensor ranges [begin, end) of the shards.
std::vector<std::pair<size_t, size_t>> DealShards(const std::vector<TensorToWrite>& tensors, uint64_t bytes_max) {
  std::vector<std::pair<size_t, size_t>> shards;
  size_t begin = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (i > begin && bytes + tensors[i].bytes() > bytes_max) {
      shards.emplace_back(begin, i);
      begin = i;
      bytes = 0;
    }
    bytes += tensors[i].bytes();
  }
  shards.emplace_back(begin, tensors.size());
  return shards;
}

std::string Padded(size_t number) {
  const std::string digits = StrCat(number);
  return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

}  // namespace

uint64_t TensorToWrite::bytes() const {
  uint64_t n = static_cast<uint64_t>(type.bits / 8);
  for (uint64_t dim : shape) n *= dim;
  return n;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& folder, std::vector<TensorToWrite> tensors, const std::map<std::string, std::string>& metadata,
    uint64_t shard_bytes_max) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(folder));
  writer->tensors_ = std::move(tensors);
  const auto shards = DealShards(writer->tensors_, shard_bytes_max);
  for (size_t i = 0; i < shards.size(); ++i) {
    std::string name(kWeightsFile);
    if (shards.size() > 1) name = StrCat("model-", Padded(i + 1), "-of-", Padded(shards.size()), ".safetensors");
    writer->shards_.push_back({std::move(name), -1});
    RETURN_IF_ERROR(writer->CreateShard(shards[i].first, shards[i].second, metadata));
  }
  return writer;
}

absl::Status SafetensorsWriter::CreateShard(size_t begin, size_t end,
                                            const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (size_t i = begin; i < end; ++i) {
    const TensorToWrite& tensor = tensors_[i];
    header[tensor.name] = {
        {"dtype", tensor.type.name}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  std::string text = header.dump();
  text.resize((8 + text.size() + 63) / 64 * 64 - 8, ' ');  // Data begins at a multiple of 64.
  const uint64_t length = text.size();
  for (size_t i = begin; i < end; ++i) {
    const uint64_t at = i == begin ? 8 + length : places_.back().offset + tensors_[i - 1].bytes();
    places_.push_back({shards_.size() - 1, at});
  }
  const std::string path = StrCat(folder_, "/", shards_.back().name);
  ASSIGN_OR_RETURN(const int fd, CreateFile(path));
  shards_.back().fd = fd;
  RETURN_IF_ERROR(WriteAt(fd, path, 0, std::as_bytes(std::span(&length, 1))));
  RETURN_IF_ERROR(WriteAt(fd, path, 8, std::as_bytes(std::span(text.data(), text.size()))));
  if (ftruncate(fd, static_cast<off_t>(8 + length + offset)) != 0) return ErrnoStatus(path, errno);
  return absl::OkStatus();
}

SafetensorsWriter::~SafetensorsWriter() {
  for (const Shard& shard : shards_) {
    if (shard.fd >= 0) close(shard.fd);
  }
}

absl::Status SafetensorsWriter::Write(size_t index, uint64_t offset, std::span<const std::byte> bytes) {
  SHOAL_CHECK_LT(index, tensors_.size());
  SHOAL_CHECK_LE(offset + bytes.size(), tensors_[index].bytes());
  const Shard& shard = shards_[places_[index].shard];
  return WriteAt(shard.fd, StrCat(folder_, "/", shard.name), places_[index].offset + offset, bytes);
}

absl::Status SafetensorsWriter::Finish() {
  for (Shard& shard : shards_)
    RETURN_IF_ERROR(SyncAndClose(std::exchange(shard.fd, -1), StrCat(folder_, "/", shard.name)));
  if (shards_.size() == 1) return absl::OkStatus();
  Json index = {{"metadata", Json::object()}, {"weight_map", Json::object()}};
  uint64_t total = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    index["weight_map"][tensors_[i].name] = shards_[places_[i].shard].name;
    total += tensors_[i].bytes();
  }
  index["metadata"]["total_size"] = total;
  return WriteSmallFile(StrCat(folder_, "/", kWeightsIndexFile), index.dump(2) + "\n");
}

absl::Status WriteSmallFile(const std::string& path, std::string_view text) {
  ASSIGN_OR_RETURN(const int fd, CreateFile(path));
  absl::Status written = WriteAt(fd, path, 0, std::as_bytes(std::span(text.data(), text.size())));
  absl::Status synced = SyncAndClose(fd, path);
  return written.ok() ? synced : written;
}

absl::StatusOr<std::unique_ptr<PendingFolder>> PendingFolder::Create(const std::string& given) {
  std::string path = given;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0) {
    return absl::AlreadyExistsError(StrCat(path, ": already exists; choose a new folder"));
  }
  std::string temporary = StrCat(path, ".partial-", getpid());
  if (mkdir(temporary.c_str(), 0755) != 0) return ErrnoStatus(temporary, errno);
  return std::unique_ptr<PendingFolder>(new PendingFolder(std::move(path), std::move(temporary)));
}

PendingFolder::~PendingFolder() {
  if (committed_) return;
  std::error_code ignored;  // A left-over is harmless: its name says what it is.
  std::filesystem::remove_all(temporary_, ignored);
}

absl::Status PendingFolder::Commit() {
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno == ENOTEMPTY ? EEXIST : errno;
    return ErrnoStatus(path_, error);
  }
  committed_ = true;
  // The new name must survive a crash, too.
  std::string above = std::filesystem::path(path_).parent_path().string();
  const int fd = open(above.empty() ? "." : above.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  if (fd < 0) return ErrnoStatus(above, errno);
  return SyncAndClose(fd, above);
}

}  // namespace shoal
