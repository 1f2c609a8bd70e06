#include "parallel/single_world.h"

#include "base/str_cat.h"

namespace shoal {
namespace {

class SingleWorld : public World {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }

  absl::Status Send(int to, Channel, std::span<const std::byte>) override { return NoSuchRank(to); }
  absl::StatusOr<std::vector<std::byte>> Receive(int from, Channel) override { return NoSuchRank(from); }
  absl::StatusOr<std::optional<Message>> TryReceive(Channel) override { return std::nullopt; }

  absl::StatusOr<std::vector<std::vector<std::byte>>> AllGather(std::span<const std::byte> bytes) override {
    if (static_cast<int64_t>(bytes.size()) > kMessageBytesMax) {
      return absl::InvalidArgumentError(
          StrCat("rank 0 gives ", bytes.size(), " bytes to an exchange of at most ", kMessageBytesMax, " in all"));
    }
    return std::vector<std::vector<std::byte>>{{bytes.begin(), bytes.end()}};
  }

 private:
  static absl::Status NoSuchRank(int rank) {
    return absl::InternalError(StrCat("rank ", rank, " does not exist: this process is alone"));
  }
};

}  // namespace

std::unique_ptr<World> CreateSingleWorld() { return std::make_unique<SingleWorld>(); }

}  // namespace shoal
