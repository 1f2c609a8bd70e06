// Copies chosen rows of any type. Bound: reads and writes each row once.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 128;

template <typename Word>
__global__ void __launch_bounds__(kThreads) GatherRows(GatherRowsArgs a) {
  const auto* from = reinterpret_cast<const Word*>(a.x + a.ids[blockIdx.x] * a.x_stride);
  auto* to = reinterpret_cast<Word*>(a.out + blockIdx.x * a.out_stride);
  for (int j = threadIdx.x; j < a.row_bytes / static_cast<int>(sizeof(Word)); j += kThreads) to[j] = from[j];
}

}  // namespace

void LaunchGatherRows(const GatherRowsArgs& args, Stream stream) {
  const int64_t all = args.x_stride | args.out_stride | args.row_bytes | reinterpret_cast<intptr_t>(args.x) |
                      reinterpret_cast<intptr_t>(args.out);
  if (all % 4 == 0) {
    SHOAL_LAUNCH(GatherRows<uint32_t>, dim3(args.rows), dim3(kThreads), 0, stream, args);
  } else {
    SHOAL_LAUNCH(GatherRows<uint8_t>, dim3(args.rows), dim3(kThreads), 0, stream, args);
  }
}

}  // namespace shoal::cuda
