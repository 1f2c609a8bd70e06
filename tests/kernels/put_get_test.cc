// The getting kernel against a sender that is played by the test; tests of both ends together are in peer_link_test.cc.
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {
namespace {

constexpr int64_t kPieceBytes = 256;
constexpr int kPieceWords = kPieceBytes / 4;

// Rank 0 gets from rank 1.
struct Receiver {
  MailboxLayout layout = LayOutMailbox(2, 0, kPieceBytes);
  std::vector<uint64_t> mailboxes[2] = {std::vector<uint64_t>(layout.words), std::vector<uint64_t>(layout.words)};
  LinkState state{};
  LinkReport report{};

  void Put(int lane, uint32_t piece, int word, uint32_t data) {
    const int64_t slot = layout.puts + ((kLinkLanes + lane) * kLinkSlots + piece % kLinkSlots) * layout.slot_words;
    mailboxes[0][slot + word] = uint64_t{piece} << 32 | data;
  }
  uint64_t Credit(int lane, uint32_t piece) {
    return mailboxes[1][layout.credits + lane * kLinkSlots + piece % kLinkSlots] >> 32;
  }
  void Get(std::vector<uint32_t>& out) {
    GetArgs args{};
    args.link.mailbox[0] = mailboxes[0].data();
    args.link.mailbox[1] = mailboxes[1].data();
    args.link.state = &state;
    args.link.report = &report;
    args.link.layout = layout;
    args.link.ranks = 2;
    args.link.limit_ns = 50'000'000;
    args.data = reinterpret_cast<unsigned char*>(out.data());
    args.bytes = static_cast<int64_t>(out.size() * 4);
    args.peer = 1;
    LaunchGet(args, nullptr);
  }
};

// A whole piece, then one word, which is lane 0's. A lane without words once gave the credit of the second piece before
// that had come; the sender then waited for the credit before it for ever.
TEST(PutGetTest, ACreditWaitsForItsPiece) {
  Receiver r;
  std::vector<uint32_t> out(kPieceWords + 1);
  const auto bytes = static_cast<uint32_t>(out.size() * 4);
  constexpr int kShare = kPieceWords / kLinkLanes;
  for (int lane = 0; lane < kLinkLanes; ++lane) {
    r.Put(lane, 1, 0, bytes);
    for (int i = 0; i < kShare; ++i) r.Put(lane, 1, 1 + i, 100 + lane * kShare + i);
    if (lane != 3) r.Put(lane, 2, 0, bytes);
  }
  r.Put(0, 2, 1, 100 + kPieceWords);
  r.Get(out);
  for (int i = 0; i <= kPieceWords; ++i) EXPECT_EQ(out[i], 100u + i);
  for (int lane = 0; lane < kLinkLanes; ++lane) EXPECT_EQ(r.Credit(lane, 1), 1u);
  EXPECT_EQ(r.Credit(2, 2), 2u);
  EXPECT_EQ(r.report.fault, static_cast<uint64_t>(LinkWait::kPut) << 32 | 1) << "lane 3 waits";
}

}  // namespace
}  // namespace shoal::cuda
