// Sums over ranks in one exchange ("one shot"): every rank pushes its part to all others and adds what arrives. Bound:
// the latency of one store over the link, some microseconds, up to about 16 KB; beyond, the link carries twice the
// payload times ranks - 1. Alone, or with the residual sum, norm and quantization that follow in a decoder.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/peer_link.cuh"
#include "kernels/cuda/rms_norm.cuh"

namespace shoal::cuda {
namespace {

constexpr int kThreadsMax = 256;

__global__ void __launch_bounds__(kThreadsMax) AllReduce(AllReduceArgs a) {
  const KernelTimer timer(a.link);
  SumExchange exchange(a.link);
  const int first = blockIdx.x * blockDim.x + threadIdx.x, stride = gridDim.x * blockDim.x;
  for (int i = first; i < a.count; i += stride) exchange.Push(i, a.inout[i]);
  for (int i = first; i < a.count; i += stride) a.inout[i] = exchange.Sum(i, a.inout[i]);
  exchange.End();
  timer.Stop();
}

// A block takes whole rows, every kLinkBlocks-th.
__global__ void __launch_bounds__(kNormThreadsMax, 4) AllReduceRmsNorm(LinkArgs link, RmsNormArgs a) {
  SHOAL_DYNAMIC_SHARED(float, staged);
  const KernelTimer timer(link);
  SumExchange exchange(link);
  for (int row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const double* delta = a.delta + row * a.delta_stride;
    for (int j = threadIdx.x; j < a.cols; j += blockDim.x) exchange.Push(int64_t{row} * a.cols + j, delta[j]);
  }
  for (int row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const double* delta = a.delta + row * a.delta_stride;
    float* x = a.x + row * a.x_stride;
    RmsNormRow(a, row, staged, [&](int j) {
      const float value = x[j] + static_cast<float>(exchange.Sum(int64_t{row} * a.cols + j, delta[j]));
      x[j] = value;
      return value;
    });
    __syncthreads();  // The next row is staged in the same place.
  }
  exchange.End();
  timer.Stop();
}

}  // namespace

void LaunchAllReduce(const AllReduceArgs& args, Stream stream) {
  const int each = (args.count / kLinkBlocks + 32) / 32 * 32, threads = each < kThreadsMax ? each : kThreadsMax;
  SHOAL_LAUNCH(AllReduce, dim3(kLinkBlocks), dim3(threads), 0, stream, args);
}

void LaunchAllReduceRmsNorm(const LinkArgs& link, const RmsNormArgs& args, Stream stream) {
  SHOAL_LAUNCH(AllReduceRmsNorm, dim3(kLinkBlocks), dim3(NormThreads(args.cols)), NormSharedBytes(args.cols), stream,
               link, args);
}

}  // namespace shoal::cuda
