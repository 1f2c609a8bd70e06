#include "parallel/link_probe.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "parallel/selecting_communicator.h"
#include "parallel/single_communicator.h"

namespace shoal {
namespace {

// Sums are timed at these sizes, as far as the self-test goes.
constexpr int64_t kSizes[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20};

// A transport that passed, with the times of the slowest rank.
struct Candidate {
  size_t transport;
  LinkTimes times;
};

// Which candidate does what.
struct Choice {
  struct Route {
    int64_t bytes_max;
    size_t candidate;
  };
  std::vector<Route> sums;
  size_t tensors = 0;
};

std::string Us(double us) {
  char text[32];
  std::snprintf(text, sizeof(text), us < 100 ? "%.1f us" : "%.0f us", us);
  return text;
}

class Probe {
 public:
  Probe(World& world, std::span<const int> group, const std::vector<Transport>& transports,
        const LinkProbeOptions& options, absl::StatusOr<LinkScratch> scratch)
      : world_(world), group_(group), transports_(transports), options_(options), scratch_(std::move(scratch)) {
    for (const int64_t bytes : kSizes) {
      if (bytes <= options.test.bytes_max) sizes_.push_back(bytes);
    }
    if (sizes_.empty()) sizes_.push_back(options.test.bytes_max / 8 * 8);
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Run() {
    std::vector<Candidate> candidates;
    absl::Status failure;
    for (size_t i = 0; i < transports_.size(); ++i) {
      if (!options_.demanded.empty() && transports_[i].name != options_.demanded) continue;
      absl::StatusOr<LinkTimes> times = Try(transports_[i]);
      if (times.ok()) {
        candidates.push_back({i, *std::move(times)});
        continue;
      }
      failure = absl::Status(times.status().code(),
                             StrCat("transport '", transports_[i].name, "': ", times.status().message()));
      if (Leads() && options_.demanded.empty()) LogWarning(Ranks(), " do without ", failure.message());
    }
    const Choice choice = candidates.empty() ? Choice{} : Choose(candidates);
    if (Leads() && !candidates.empty() && group_.size() > 1) LogInfo(Describe(candidates, choice));
    return Make(candidates, choice, failure);
  }

 private:
  bool Leads() const { return world_.rank() == group_[0]; }
  std::string Ranks() const { return StrCat("ranks ", absl::StrJoin(group_, ",")); }

  // The times of a transport if it passes on all ranks of the group.
  absl::StatusOr<LinkTimes> Try(const Transport& transport) {
    absl::StatusOr<std::unique_ptr<Communicator>> made = transport.create(options_.test_seconds, /*testing=*/true);
    const bool alone = group_.size() == 1;
    const absl::Status created =
        AgreeInGroup(world_, group_, absl::OkStatus(), scratch_.ok() ? made.status() : scratch_.status());
    absl::Status tested;
    if (created.ok() && !alone) tested = TestLink(**made, *scratch_, options_.test);
    tested = AgreeInGroup(world_, group_, created, tested);

    absl::StatusOr<LinkTimes> times(LinkTimes{.sum_us = std::vector<double>(sizes_.size())});
    if (tested.ok() && !alone) times = TimeLink(**made, *scratch_, sizes_, options_.test);
    const absl::Status timed = AgreeInGroup(world_, group_, tested, times.status());
    std::vector<double> mine(sizes_.size() + 1, 0.0);
    if (times.ok()) {
      mine = times->sum_us;
      mine.push_back(times->tensor_us);
    }
    ASSIGN_OR_RETURN(const auto all, world_.AllGather(std::as_bytes(std::span(mine))));
    RETURN_IF_ERROR(timed);
    for (const int rank : group_) {
      std::vector<double> theirs(mine.size());
      if (all[rank].size() != theirs.size() * sizeof(double)) {
        return absl::InternalError(StrCat("rank ", rank, " has timed other sizes"));
      }
      std::memcpy(theirs.data(), all[rank].data(), all[rank].size());
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = std::max(mine[i], theirs[i]);
    }
    times->tensor_us = mine.back();
    mine.pop_back();
    times->sum_us = std::move(mine);
    return times;
  }

  Choice Choose(const std::vector<Candidate>& candidates) const {
    Choice choice;
    const auto fastest = [&](auto us) {
      size_t best = 0;
      for (size_t c = 1; c < candidates.size(); ++c) {
        if (us(candidates[c].times) < us(candidates[best].times)) best = c;
      }
      return best;
    };
    for (size_t i = 0; i < sizes_.size(); ++i) {
      const size_t best = fastest([i](const LinkTimes& times) { return times.sum_us[i]; });
      if (!choice.sums.empty() && choice.sums.back().candidate == best) choice.sums.pop_back();
      choice.sums.push_back({sizes_[i], best});
    }
    choice.tensors = fastest([](const LinkTimes& times) { return times.tensor_us; });
    return choice;
  }

  // "ranks 0,1: sums by host-ll up to 65536 bytes (7.1 us at 4096), then by mpi-host (900 us at 1048576); tensors ..."
  std::string Describe(const std::vector<Candidate>& candidates, const Choice& choice) const {
    const auto name = [&](size_t c) { return transports_[candidates[c].transport].name; };
    std::string text = StrCat(Ranks(), ":");
    for (size_t r = 0; options_.test.sums && r < choice.sums.size(); ++r) {
      const auto [bytes_max, c] = choice.sums[r];
      const bool last = r + 1 == choice.sums.size();
      // A small size says what a step costs, the largest what a prompt costs.
      const size_t at = last && r > 0 ? sizes_.size() - 1 : 0;
      text += StrCat(r == 0 ? " sums by " : ", then by ", name(c));
      if (!last) text += StrCat(" up to ", bytes_max, " bytes");
      text += StrCat(" (", Us(candidates[c].times.sum_us[at]), " at ", sizes_[at], ")");
    }
    if (options_.test.tensors) {
      text += StrCat(options_.test.sums ? ";" : "", " tensors by ", name(choice.tensors), " (",
                     Us(candidates[choice.tensors].times.tensor_us), " at ", LinkTimes::kTensorBytes, ")");
    }
    return text;
  }

  // Makes the chosen communicators anew, to serve. Every rank takes part in all that any group needs.
  absl::StatusOr<std::unique_ptr<Communicator>> Make(const std::vector<Candidate>& candidates, const Choice& choice,
                                                     const absl::Status& failure) {
    const bool alone = group_.size() == 1;
    std::vector<uint8_t> needed(transports_.size(), 0);
    if (!candidates.empty() && !alone) {
      for (const Choice::Route& route : choice.sums) {
        if (options_.test.sums) needed[candidates[route.candidate].transport] = 1;
      }
      if (options_.test.tensors || !options_.test.sums) needed[candidates[choice.tensors].transport] = 1;
    }
    ASSIGN_OR_RETURN(const auto all, world_.AllGather(std::as_bytes(std::span(needed))));
    std::vector<std::unique_ptr<Communicator>> members;
    std::vector<size_t> member_of(transports_.size(), 0);
    absl::Status agreed = candidates.empty() ? failure : absl::OkStatus();
    for (size_t i = 0; i < transports_.size(); ++i) {
      const auto needs = [i](const std::vector<std::byte>& theirs) {
        return i < theirs.size() && theirs[i] != std::byte{0};
      };
      if (std::none_of(all.begin(), all.end(), needs)) continue;
      absl::StatusOr<std::unique_ptr<Communicator>> made = transports_[i].create(options_.serve_seconds, false);
      agreed = AgreeInGroup(world_, group_, agreed, needed[i] != 0 ? made.status() : absl::OkStatus());
      if (!made.ok() || needed[i] == 0) continue;
      member_of[i] = members.size();
      members.push_back(*std::move(made));
    }
    RETURN_IF_ERROR(agreed);
    if (alone) return CreateSingleCommunicator();
    if (members.size() == 1) return std::move(members[0]);
    std::vector<SumRoute> routes;
    for (const Choice::Route& route : choice.sums) {
      routes.push_back({route.bytes_max, member_of[candidates[route.candidate].transport]});
    }
    const size_t tensors = member_of[candidates[choice.tensors].transport];
    return CreateSelectingCommunicator(std::move(members), std::move(routes), tensors);
  }

  World& world_;
  std::span<const int> group_;
  const std::vector<Transport>& transports_;
  const LinkProbeOptions& options_;
  absl::StatusOr<LinkScratch> scratch_;
  std::vector<int64_t> sizes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ChooseCommunicator(World& world, Device& device,
                                                                 std::span<const int> group,
                                                                 const std::vector<Transport>& transports,
                                                                 const LinkProbeOptions& options) {
  RETURN_IF_ERROR(CheckGroups(world, group));
  const auto is_demanded = [&](const Transport& t) { return t.name == options.demanded; };
  if (transports.empty() ||
      (!options.demanded.empty() && std::none_of(transports.begin(), transports.end(), is_demanded))) {
    std::vector<std::string> names;
    for (const Transport& transport : transports) names.push_back(transport.name);
    return absl::InvalidArgumentError(
        StrCat("transport '", options.demanded, "' is none of: ", absl::StrJoin(names, ", ")));
  }
  return Probe(world, group, transports, options, LinkScratch::Create(device, options.test.bytes_max)).Run();
}

}  // namespace shoal
