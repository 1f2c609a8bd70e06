// Where things are in a mailbox, for the host and the kernels. All in 8-byte words of 4 bytes of data (low) and a tag
// (high): the epoch of a sum, or the number of a piece.
#pragma once

#include <cstdint>

namespace shoal::cuda {

constexpr int kLinkPeersMax = 8;  // kPeersMax and
constexpr int kLinkSlots = 8;     // kPutSlots of peer_link.h.
// Blocks of every launch, whatever its shape: few enough to run all at once on any GPU that a few ranks may share,
// since blocks of one rank wait for those of another. A block keeps its own epoch, and all of them stay equal.
constexpr int kLinkBlocks = 8;
// Blocks of a put or get. Each is a lane of its own, with its own slots, pieces and credits.
constexpr int kLinkLanes = 4;

// In words from the start of a mailbox.
//   sums: [2 parities][sender][low halves, high halves][sum_elements], the parities a fixed distance apart
//   puts: [sender][lane][slot][header, then lane_words]
//   credits: [receiver][lane][slot], of this rank's own puts: the number of the last piece that was read
struct MailboxLayout {
  int64_t parity_stride;
  int64_t sum_elements;
  int64_t puts;
  int64_t slot_words;
  int64_t lane_words;
  int64_t credits;
  int64_t words;
};

constexpr MailboxLayout LayOutMailbox(int64_t ranks, int64_t sum_elements, int64_t put_bytes) {
  constexpr int64_t kUnit = 16;  // Words of a 128-byte line.
  const auto up = [](int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; };
  MailboxLayout layout{};
  layout.sum_elements = up(sum_elements, kUnit);
  layout.parity_stride = ranks * 2 * layout.sum_elements;
  layout.puts = 2 * layout.parity_stride;
  layout.lane_words = up(put_bytes, 4 * kLinkLanes) / 4 / kLinkLanes;
  layout.slot_words = put_bytes == 0 ? 0 : up(1 + layout.lane_words, kUnit);
  layout.credits = layout.puts + ranks * kLinkLanes * kLinkSlots * layout.slot_words;
  layout.words = layout.credits + ranks * kLinkLanes * kLinkSlots;
  return layout;
}

// Device memory of a link: what a replayed graph finds where the last launch left it. Zeroed, but for the epochs.
struct LinkState {
  uint64_t fault;                            // As in LinkReport: nothing waits any more.
  uint64_t exchange_ns;                      // As in LinkReport.
  uint32_t epoch[kLinkBlocks];               // Of the last sum.
  uint32_t sent[kLinkPeersMax][kLinkLanes];  // Number of the last piece, by receiver.
  uint32_t received[kLinkPeersMax][kLinkLanes];
  uint32_t in_slot[kLinkPeersMax][kLinkLanes][kLinkSlots];  // Last piece put there, by receiver.
};

enum class LinkWait : uint32_t { kSum = 1, kCredit = 2, kPut = 3 };

// Host memory that kernels write and the host looks at.
struct LinkReport {
  uint64_t fault;        // 0, or LinkWait << 32 | the rank that was awaited.
  uint64_t wrong_size;   // 0, or 1 << 63 | sender << 32 | bytes that came.
  uint64_t awaited;      // Bytes that should have come then.
  uint64_t exchange_ns;  // Time in kernels.
};

}  // namespace shoal::cuda
