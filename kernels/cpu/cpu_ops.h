// Ops on the host CPU: shape checks and sharing of work here, inner loops in a KernelTable.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/ops.h"

namespace shoal::cpu {

class CpuOps final : public Ops {
 public:
  // Both must outlive the CpuOps.
  CpuOps(ThreadPool& pool, const KernelTable& kernels);

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
  // Splits [0, n) over the workers, at multiples of `multiple`, if all of it costs enough, in nanoseconds of one core.
  void Parallel(int64_t n, int64_t cost_each, const std::function<void(int64_t begin, int64_t end)>& work,
                int64_t multiple = 1);
  // Fills byte_bias_ for `x`.
  void SumGroups(const Activation& x);
  // Checks shapes and multiplies into `out`, f32 or (partial) f64.
  void Multiply(const Activation& x, const Weight& weight, Tensor out, bool partial);
  // Fills items_. `block` is the KV block size.
  void PlanAttention(const AttentionPlan& plan, const HeadMap& heads, int64_t tokens, int64_t block);

  ThreadPool& pool_;
  const KernelTable& kernels_;
  std::vector<AttentionItem> items_;         // Of the current Attention call.
  std::vector<std::vector<float>> scratch_;  // Per worker; grows in the first calls, then stays.
  std::vector<float> attention_rows_;        // Attention's output where only its quantized form is wanted.
  std::atomic<int64_t> next_item_{0};
  std::vector<int32_t> byte_bias_;  // QuantizedLinearArgs::byte_bias of the current product.
};

// Checks the cache's types and shapes.
KvType KvTypeOf(const KvView& cache);

}  // namespace shoal::cpu
