// Ops on a GPU: shape checks and arguments here, kernels in the .cu files.
#pragma once

#include "kernels/cuda/kernels.h"
#include "kernels/ops.h"

namespace shoal::cuda {

// Kernels count rows and columns in int (CHECK).
int Int(int64_t n);

// Arguments of RmsNorm, with shapes checked; `delta` is left to the caller.
RmsNormArgs MakeRmsNormArgs(Tensor x, Tensor gain, float eps, const Activation& out);

class CudaOps final : public Ops {
 public:
  // `workspace`: device memory for what an op hands from one of its kernels to the next. With little of it attention
  // is slower, and TopK works in several turns.
  CudaOps(Stream stream, Path path, int multiprocessors, std::byte* workspace, int64_t workspace_bytes)
      : stream_(stream),
        path_(path),
        multiprocessors_(multiprocessors),
        workspace_(workspace),
        workspace_bytes_(workspace_bytes) {}

  void Embed(Tensor table, Tensor ids, Tensor out) override;
  void RmsNorm(Tensor x, Tensor gain, float eps, const Activation& out) override;
  void AddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out) override;
  void AddResidual(Tensor delta, Tensor residual) override;
  void HeadRmsNorm(Tensor gain, float eps, Tensor heads) override;
  void Linear(const Activation& x, const Weight& weight, Tensor out) override;
  void LinearPartial(const Activation& x, const Weight& weight, Tensor out) override;
  void LinearSiluMul(const Activation& x, const Weight& gate_up, Tensor scratch, const Activation& out) override;
  void RopeTable(Tensor positions, Tensor inv_freq, float scale, Tensor out) override;
  void Rope(Tensor table, Tensor heads) override;
  void StoreKv(Tensor k, Tensor v, Tensor slots, KvView cache) override;
  void Attention(Tensor q, KvView cache, const AttentionPlan& plan, const HeadMap& heads,
                 const Activation& out) override;
  void GatherRows(Tensor x, Tensor rows, Tensor out) override;
  void TopK(Tensor logits, Tensor values, Tensor ids) override;

 private:
  void Multiply(const Activation& x, const Weight& weight, Tensor out, bool partial);
  void Quantize(const float* x, int64_t stride, const ActivationOut& out, int64_t rows, int64_t cols);

  Stream stream_;
  Path path_;
  int multiprocessors_;
  std::byte* workspace_;
  int64_t workspace_bytes_;
};

}  // namespace shoal::cuda
