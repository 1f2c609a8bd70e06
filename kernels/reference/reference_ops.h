// Ops as their comments in ops.h say, in the plainest loops: integers exact, floating point in double.
//
// The oracle of the conformance suite; slow. Weights stay in canonical row-major form. Where ops.h fixes the float
// operations (quantization, quantized Linear and LinearPartial, Rope's angle) the same operations are used here, so
// that results must agree bit for bit.
#pragma once

#include "kernels/ops.h"

namespace shoal {

class ReferenceOps final : public Ops {
 public:
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
};

// Puts a row of floats into every form that `out` has.
void ReferenceEmit(const float* values, int64_t row, int64_t cols, const Activation& out);

}  // namespace shoal
