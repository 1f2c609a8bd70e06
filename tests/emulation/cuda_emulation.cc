// Fibers, barriers and warps of tests/support/cuda_emulation.h.
//
// The scheduler must be invisible to ThreadSanitizer (only kernels are under test), and every stack switch must be told
// to both sanitizers. One switch costs about 20 ns: six registers and the stack pointer.
#include "tests/support/cuda_emulation.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#define SHOAL_EMULATION_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SHOAL_EMULATION_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#define SHOAL_SCHEDULER __attribute__((no_sanitize("thread"), noinline))

#if !defined(__x86_64__)
#error "The fiber switch below is written for x86-64."
#endif

// Saves the callee-saved registers and the stack pointer in *save, then goes on with another stack.
extern "C" void shoal_fiber_switch(void** save, void* load);
asm(".text\n.type shoal_fiber_switch,@function\nshoal_fiber_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");

namespace shoal::cuda_emulation {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kThreadsMax = 1024;
// Limits of every GPU that kernels ask nothing special of.
constexpr size_t kSharedBytesMax = 48 << 10;
constexpr unsigned kGridMax = 65535;
constexpr int kPollsMax = 1 << 24;  // Rounds in which threads only poll: then the other side is gone.

enum class State : uint8_t { kRunnable, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct PendingCopy {
  void* to;
  const void* from;
  int bytes;
  int group;
};

struct Fiber {
  void* stack_pointer = nullptr;
  std::unique_ptr<char[]> stack;
  void* tsan_fiber = nullptr;
  void* asan_fake_stack = nullptr;
  Place place{};
  unsigned warp = 0;
  State state = State::kDone;
  int site = 0, line = 0;  // Of the block barrier it waits at.
  unsigned mask = 0;       // Whom it waits for at a warp barrier.
  bool orders = false;     // And whether that is __syncwarp(), which orders memory.
  std::vector<PendingCopy> copies;
  int groups_committed = 0;
};

// An address for the happens-before edges of one barrier. The next barrier has another one: a thread that is there
// already must not seem to come before those that have yet to leave this one.
struct Turns {
  char tags[2] = {};
  int turn = 0;

  SHOAL_SCHEDULER char* tag() { return &tags[turn]; }
  SHOAL_SCHEDULER void Next() { turn ^= 1; }
};

// Lanes write to `brought`; once a collective's lanes have met, their rows are copied to `seen`, from which they read.
// Each reads before its next collective, so that one cannot overwrite a value too early.
struct Warp {
  alignas(64) unsigned char brought[32][kSlotBytes];
  alignas(64) unsigned char seen[32][kSlotBytes];
  Turns order;
};

// One OS thread's emulated multiprocessor. Fibers and their stacks are kept from launch to launch.
struct Processor {
#ifdef SHOAL_EMULATION_TSAN
  ~Processor() {  // ThreadSanitizer knows some thousands of fibers at a time, and tests have many threads.
    for (const Fiber& fiber : fibers) {
      if (fiber.tsan_fiber != nullptr) __tsan_destroy_fiber(fiber.tsan_fiber);
    }
  }
#endif
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  unsigned threads = 0;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  const std::function<void()>* kernel = nullptr;
  Fiber* current = nullptr;
  bool polled = false;
  void* stack_pointer = nullptr;
  void* tsan_fiber = nullptr;
  void* asan_fake_stack = nullptr;
  const void* asan_stack = nullptr;
  size_t asan_stack_bytes = 0;
  int lane_order = 0;
  char start_tag = 0, end_tag = 0;  // Addresses for happens-before edges.
  Turns barrier;
};

thread_local Processor processor;

[[noreturn]] void Die(const char* what, const Fiber* fiber) {
  if (fiber != nullptr) {
    const Place& p = fiber->place;
    std::fprintf(stderr, "cuda emulation: %s (block %u,%u,%u thread %u)\n", what, p.block.x, p.block.y, p.block.z,
                 p.thread.x);
  } else {
    std::fprintf(stderr, "cuda emulation: %s\n", what);
  }
  std::abort();
}

// For ThreadSanitizer: all before Release(tag) happens before all after Acquire(tag).
void Release([[maybe_unused]] void* tag) {
#ifdef SHOAL_EMULATION_TSAN
  __tsan_release(tag);
#endif
}
void Acquire([[maybe_unused]] void* tag) {
#ifdef SHOAL_EMULATION_TSAN
  __tsan_acquire(tag);
#endif
}

SHOAL_SCHEDULER void SwitchToScheduler() {
  Processor& p = processor;
  Fiber* me = p.current;
#ifdef SHOAL_EMULATION_TSAN
  __tsan_switch_to_fiber(p.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef SHOAL_EMULATION_ASAN
  __sanitizer_start_switch_fiber(me->state == State::kDone ? nullptr : &me->asan_fake_stack, p.asan_stack,
                                 p.asan_stack_bytes);
#endif
  shoal_fiber_switch(&me->stack_pointer, p.stack_pointer);
#ifdef SHOAL_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(me->asan_fake_stack, &p.asan_stack, &p.asan_stack_bytes);
#endif
}

SHOAL_SCHEDULER void SwitchToFiber(Processor& p, Fiber& fiber) {
  p.current = &fiber;
#ifdef SHOAL_EMULATION_TSAN
  __tsan_switch_to_fiber(fiber.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef SHOAL_EMULATION_ASAN
  __sanitizer_start_switch_fiber(&p.asan_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  shoal_fiber_switch(&p.stack_pointer, fiber.stack_pointer);
#ifdef SHOAL_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(p.asan_fake_stack, nullptr, nullptr);
#endif
}

// First function of every fiber.
SHOAL_SCHEDULER void FiberMain() {
  Processor& p = processor;
#ifdef SHOAL_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &p.asan_stack, &p.asan_stack_bytes);
#endif
  Acquire(&p.start_tag);
  (*p.kernel)();
  if (!p.current->copies.empty()) Die("a thread ends with a cp.async that nobody waited for", p.current);
  Release(&p.end_tag);
  p.current->state = State::kDone;
  SwitchToScheduler();
  std::abort();  // A finished fiber is never resumed.
}

SHOAL_SCHEDULER void PrepareFiber(Fiber& f, unsigned i, const Place& place) {
  f.place = place;
  f.place.thread = {i % place.block_dim.x, i / place.block_dim.x % place.block_dim.y,
                    i / (place.block_dim.x * place.block_dim.y)};
  f.place.lane = i % 32;
  f.warp = i / 32;
  f.state = State::kRunnable;
  f.groups_committed = 0;
  f.copies.clear();
  if (!f.stack) f.stack.reset(new char[kStackBytes]);
#ifdef SHOAL_EMULATION_TSAN
  if (f.tsan_fiber == nullptr) f.tsan_fiber = __tsan_create_fiber(0);
#endif
#ifdef SHOAL_EMULATION_ASAN
  __asan_unpoison_memory_region(f.stack.get(), kStackBytes);  // Of the fiber that ended on it.
#endif
  const uintptr_t top = (reinterpret_cast<uintptr_t>(f.stack.get()) + kStackBytes - 64) & ~uintptr_t{15};
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;                              // Aligned as after a call.
  *--sp = reinterpret_cast<void*>(&FiberMain);  // Where the first switch returns to.
  for (int r = 0; r < 6; ++r) *--sp = nullptr;  // The callee-saved registers.
  f.stack_pointer = sp;
}

// Frees each warp barrier whose lanes have all come with the same mask. Returns whether any was freed.
SHOAL_SCHEDULER bool FreeWarpBarriers(Processor& p) {
  bool freed = false;
  for (unsigned first = 0; first < p.threads; first += 32) {
    const unsigned lanes = std::min(32u, p.threads - first);
    for (unsigned l = 0; l < lanes; ++l) {
      const Fiber& waiting = p.fibers[first + l];
      if (waiting.state != State::kAtWarpBarrier) continue;
      const unsigned mask = waiting.mask;
      bool all_here = lanes == 32 || mask >> lanes == 0;
      for (unsigned k = 0; all_here && k < lanes; ++k) {
        const Fiber& other = p.fibers[first + k];
        if (mask >> k & 1) all_here = other.state == State::kAtWarpBarrier && other.mask == mask;
      }
      if (!all_here) continue;
      Warp& warp = p.warps[first / 32];
      if (waiting.orders) warp.order.Next();
      for (unsigned k = 0; k < lanes; ++k) {
        if (!(mask >> k & 1)) continue;
        // volatile: no call of memcpy, which the sanitizer would see.
        const auto* from = reinterpret_cast<const volatile uint64_t*>(warp.brought[k]);
        auto* to = reinterpret_cast<volatile uint64_t*>(warp.seen[k]);
        for (size_t i = 0; i < kSlotBytes / 8; ++i) to[i] = from[i];
        p.fibers[first + k].state = State::kRunnable;
      }
      freed = true;
    }
  }
  return freed;
}

// Frees the block barrier if every live thread waits at it. Returns whether it did.
SHOAL_SCHEDULER bool FreeBlockBarrier(Processor& p) {
  const Fiber* first = nullptr;
  for (unsigned i = 0; i < p.threads; ++i) {
    const Fiber& f = p.fibers[i];
    if (f.state == State::kDone) continue;
    if (f.state != State::kAtBlockBarrier) return false;
    if (first == nullptr) first = &f;
    if (f.site != first->site) {
      std::fprintf(stderr, "cuda emulation: divergent __syncthreads() at lines %d and %d\n", first->line, f.line);
      std::abort();
    }
  }
  if (first == nullptr) return false;
  p.barrier.Next();
  for (unsigned i = 0; i < p.threads; ++i) {
    if (p.fibers[i].state == State::kAtBlockBarrier) p.fibers[i].state = State::kRunnable;
  }
  return true;
}

SHOAL_SCHEDULER void RunBlock(Processor& p, const Place& place) {
  std::memset(p.shared, 0xff, p.shared_bytes);  // Reads of what was never written show.
  for (unsigned i = 0; i < p.threads; ++i) PrepareFiber(p.fibers[i], i, place);
#ifdef SHOAL_EMULATION_TSAN
  p.tsan_fiber = __tsan_get_current_fiber();
#endif
  Release(&p.start_tag);
  std::vector<unsigned> order(p.threads);
  for (unsigned i = 0; i < p.threads; ++i) order[i] = p.lane_order == 1 ? p.threads - 1 - i : i;
  std::minstd_rand random(p.lane_order);
  int polls = 0;
  for (;;) {
    if (p.lane_order > 1) std::shuffle(order.begin(), order.end(), random);
    bool ran = false, all_done = true;
    p.polled = false;
    for (const unsigned i : order) {
      Fiber& f = p.fibers[i];
      if (f.state == State::kRunnable) {
        SwitchToFiber(p, f);
        ran = true;
      }
      all_done = all_done && f.state == State::kDone;
    }
    if (all_done) break;
    const bool freed_block = FreeBlockBarrier(p), freed_warp = FreeWarpBarriers(p);
    if (!ran && !freed_block && !freed_warp)
      Die("deadlock: a barrier or mask that a live thread never reaches", nullptr);
    if (p.polled) {
      sched_yield();
      if (++polls > kPollsMax) Die("a poll never ends", p.current);
    }
  }
  Acquire(&p.end_tag);
}

}  // namespace

void SetLaneOrder(int order) { processor.lane_order = order; }

const Place& Here() { return processor.current->place; }

SHOAL_SCHEDULER void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  Processor& p = processor;
  p.threads = block.x * block.y * block.z;
  if (p.threads == 0 || p.threads > kThreadsMax) Die("a block must have 1..1024 threads", nullptr);
  if (shared_bytes > kSharedBytesMax) Die("a launch may ask for 48 KiB of shared memory", nullptr);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) Die("a grid must not be empty", nullptr);
  if (grid.y > kGridMax || grid.z > kGridMax) Die("a grid's y and z may be 65535", nullptr);
  if (p.fibers.size() < p.threads) p.fibers.resize(p.threads);
  p.warps.resize(std::max<size_t>(p.warps.size(), (p.threads + 31) / 32));
  // Exactly the launch's bytes on the heap: AddressSanitizer guards both ends.
  const std::unique_ptr<unsigned char[]> shared(new unsigned char[shared_bytes]);
  p.shared = shared.get();
  p.shared_bytes = shared_bytes;
  p.kernel = &kernel;
  Place place{};
  place.block_dim = block;
  place.grid_dim = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        place.block = {x, y, z};
        RunBlock(p, place);
      }
    }
  }
  p.current = nullptr;
}

void* DynamicShared() { return processor.shared; }

SHOAL_SCHEDULER void BlockBarrier(int site, int line) {
  Fiber* me = processor.current;
  me->state = State::kAtBlockBarrier;
  me->site = site;
  me->line = line;
  char* const tag = processor.barrier.tag();
  Release(tag);
  SwitchToScheduler();
  Acquire(tag);
}

// Waits for all lanes of `mask`; orders memory only as far as the caller does.
SHOAL_SCHEDULER static void MeetWarp(unsigned mask, bool orders) {
  Fiber* me = processor.current;
  if (!(mask >> me->place.lane & 1)) Die("a lane is not in its own mask", me);
  me->state = State::kAtWarpBarrier;
  me->mask = mask;
  me->orders = orders;
  SwitchToScheduler();
}

void WarpBarrier(unsigned mask) {
  char* const tag = processor.warps[processor.current->warp].order.tag();
  Release(tag);
  MeetWarp(mask, true);
  Acquire(tag);
}

SHOAL_SCHEDULER void Yield() {
  processor.polled = true;
  SwitchToScheduler();
}

const void* ExchangeBytes(unsigned mask, const void* value, size_t bytes) {
  if (bytes > kSlotBytes) Die("a lane's value is too large", processor.current);
  const Fiber* me = processor.current;
  Warp& warp = processor.warps[me->warp];
  std::memcpy(warp.brought[me->place.lane], value, bytes);
  MeetWarp(mask, false);
  return &warp.seen[0][0];
}

void CopyAsync(void* to, const void* from, int bytes) {
  Fiber* me = processor.current;
  me->copies.push_back({to, from, bytes, me->groups_committed});
}

void CopyAsyncCommit() { ++processor.current->groups_committed; }

void CopyAsyncWait(int groups_left) {
  Fiber* me = processor.current;
  const int done = me->groups_committed - groups_left;
  size_t kept = 0;
  for (const PendingCopy& copy : me->copies) {
    if (copy.group < done) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      me->copies[kept++] = copy;
    }
  }
  me->copies.resize(kept);
}

}  // namespace shoal::cuda_emulation

namespace shoal::cuda {

uint64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace shoal::cuda
