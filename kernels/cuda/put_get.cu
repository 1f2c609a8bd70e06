// Tensors from the device of one rank to that of another, for the pipeline. Bound: the link, which carries twice the
// payload, since every 4 bytes travel with the number of their piece.
//
// A tensor travels in pieces of at most kLinkLanes * lane_words words, each cut evenly over the lanes. A lane is one
// block of the putting kernel and the same block of the getting kernel, with a ring of slots; a slot is written again
// once its credit, in the sender's mailbox, is the number of the piece that it held. Pieces are numbered from 1; after
// 2^32 - 1 comes kLinkSlots, so that numbers keep walking round the ring and 0 stays that of the zeroed start.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/peer_link.cuh"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ uint32_t NextPiece(uint32_t piece) {
  return piece == 0xffffffffu ? uint32_t{kLinkSlots} : piece + 1;
}

// This block's slot for piece `piece` of `sender`, from the start of the receiver's mailbox, and its credit, from the
// start of the sender's.
__device__ __forceinline__ int64_t SlotOffset(const MailboxLayout& layout, int sender, uint32_t piece) {
  return layout.puts +
         ((int64_t{sender} * kLinkLanes + blockIdx.x) * kLinkSlots + piece % kLinkSlots) * layout.slot_words;
}
__device__ __forceinline__ int64_t CreditOffset(const MailboxLayout& layout, int receiver, uint32_t piece) {
  return layout.credits + (int64_t{receiver} * kLinkLanes + blockIdx.x) * kLinkSlots + piece % kLinkSlots;
}

// This block's words of the piece that begins at word `begin` of a tensor of `words`.
struct Share {
  int64_t begin;
  int64_t count;
};
__device__ __forceinline__ Share ShareOf(const MailboxLayout& layout, int64_t begin, int64_t words) {
  const int64_t left = words - begin, most = kLinkLanes * layout.lane_words;
  const int64_t piece = left < most ? left : most, share = (piece + kLinkLanes - 1) / kLinkLanes;
  const int64_t first = blockIdx.x * share, rest = piece - first;
  return {begin + first, rest < 0 ? 0 : rest < share ? rest : share};
}

// Word i of a tensor of `bytes`, whose last word may be cut short.
__device__ __forceinline__ uint32_t ReadWord(const unsigned char* data, int64_t bytes, int64_t i) {
  if (4 * i + 4 <= bytes) return reinterpret_cast<const uint32_t*>(data)[i];
  uint32_t word = 0;
  for (int64_t b = 4 * i; b < bytes; ++b) word |= static_cast<uint32_t>(data[b]) << 8 * (b - 4 * i);
  return word;
}
__device__ __forceinline__ void WriteWord(unsigned char* data, int64_t bytes, int64_t i, uint32_t word) {
  if (4 * i + 4 <= bytes) {
    reinterpret_cast<uint32_t*>(data)[i] = word;
    return;
  }
  for (int64_t b = 4 * i; b < bytes; ++b) data[b] = static_cast<unsigned char>(word >> 8 * (b - 4 * i));
}

__global__ void __launch_bounds__(kThreads) Put(PutArgs a) {
  const LinkArgs& link = a.link;
  const KernelTimer timer(link);
  Waiter waiter(link, LinkWait::kCredit);
  const int64_t words = (a.bytes + 3) / 4;
  uint32_t piece = link.state->sent[a.peer][blockIdx.x];
  int64_t begin = 0;
  do {
    piece = NextPiece(piece);
    uint32_t* const in_slot = &link.state->in_slot[a.peer][blockIdx.x][piece % kLinkSlots];
    if (threadIdx.x == 0) {
      waiter.Await(link.mailbox[link.rank] + CreditOffset(link.layout, a.peer, piece), *in_slot, a.peer);
      *in_slot = piece;
    }
    __syncthreads();
    uint64_t* const slot = link.mailbox[a.peer] + SlotOffset(link.layout, link.rank, piece);
    const uint64_t tag = static_cast<uint64_t>(piece) << 32;
    if (threadIdx.x == 0) StoreSystem(slot, tag | static_cast<uint32_t>(a.bytes));
    const Share share = ShareOf(link.layout, begin, words);
    for (int64_t i = threadIdx.x; i < share.count; i += blockDim.x) {
      StoreSystem(slot + 1 + i, tag | ReadWord(a.data, a.bytes, share.begin + i));
    }
    begin += kLinkLanes * link.layout.lane_words;
  } while (begin < words);
  if (threadIdx.x == 0) link.state->sent[a.peer][blockIdx.x] = piece;  // All have read it: a barrier is between.
  timer.Stop();
}

__global__ void __launch_bounds__(kThreads, 4) Get(GetArgs a) {
  __shared__ int64_t bytes_sent;
  const LinkArgs& link = a.link;
  const KernelTimer timer(link);
  Waiter waiter(link, LinkWait::kPut);
  uint32_t piece = link.state->received[a.peer][blockIdx.x];
  int64_t begin = 0, words = 0;
  bool wanted = true;
  do {
    piece = NextPiece(piece);
    const uint64_t* const slot = link.mailbox[link.rank] + SlotOffset(link.layout, a.peer, piece);
    if (threadIdx.x == 0) {
      // Also of pieces without words for this lane: a credit must not come before its piece.
      const uint32_t sent = waiter.Await(slot, piece, a.peer);
      if (begin == 0) bytes_sent = waiter.failed() ? a.bytes : int64_t{sent};
    }
    if (begin == 0) {  // The tensor's size is what its sender says.
      __syncthreads();
      words = (bytes_sent + 3) / 4;
      wanted = bytes_sent == a.bytes;
    }
    const Share share = ShareOf(link.layout, begin, words);
    for (int64_t i = threadIdx.x; i < share.count; i += blockDim.x) {
      const uint32_t word = waiter.Await(slot + 1 + i, piece, a.peer);
      if (wanted) WriteWord(a.data, a.bytes, share.begin + i, word);
    }
    __syncthreads();  // All words are read.
    if (threadIdx.x == 0) {
      StoreSystem(link.mailbox[a.peer] + CreditOffset(link.layout, link.rank, piece), static_cast<uint64_t>(piece)
                                                                                          << 32);
    }
    begin += kLinkLanes * link.layout.lane_words;
  } while (begin < words);
  if (threadIdx.x == 0) {
    link.state->received[a.peer][blockIdx.x] = piece;
    if (!wanted && blockIdx.x == 0) {
      StoreSystem(&link.report->awaited, static_cast<uint64_t>(a.bytes));
      StoreSystem(&link.report->wrong_size,
                  uint64_t{1} << 63 | static_cast<uint64_t>(a.peer) << 32 | static_cast<uint32_t>(bytes_sent));
    }
  }
  timer.Stop();
}

}  // namespace

void LaunchPut(const PutArgs& args, Stream stream) {
  SHOAL_LAUNCH(Put, dim3(kLinkLanes), dim3(kThreads), 0, stream, args);
}

void LaunchGet(const GetArgs& args, Stream stream) {
  SHOAL_LAUNCH(Get, dim3(kLinkLanes), dim3(kThreads), 0, stream, args);
}

}  // namespace shoal::cuda
