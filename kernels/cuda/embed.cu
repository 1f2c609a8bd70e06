// Embedding lookup. Bound: reads and writes each row once.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) Embed(EmbedArgs a) {
  const int64_t id = a.ids[blockIdx.x];
  float* out = a.out + blockIdx.x * a.out_stride;
  const int64_t base = id * a.table_stride;
  for (int j = threadIdx.x; j < a.cols; j += kThreads) {
    out[j] = a.bf16 ? __uint_as_float(static_cast<unsigned>(static_cast<const uint16_t*>(a.table)[base + j]) << 16)
                    : static_cast<const float*>(a.table)[base + j];
  }
}

}  // namespace

void LaunchEmbed(const EmbedArgs& args, Stream stream) {
  SHOAL_LAUNCH(Embed, dim3(args.rows), dim3(kThreads), 0, stream, args);
}

}  // namespace shoal::cuda
