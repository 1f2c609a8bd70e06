// Linear layers cut over tensor-parallel ranks: the only places of a forward pass that talk to the ranks of a stage.
#pragma once

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace shoal {

// y = x W^T with W's rows (output features) split over ranks; each rank gets its slice of y. No traffic.
inline void ColumnParallelLinear(Ops& ops, const Activation& x, const Weight& weight, Tensor out) {
  ops.Linear(x, weight, out);
}

// y = x W^T with W's columns (input features) split over ranks; every rank gets all of y, with the same bits for every
// number of ranks (ADR 2). out: [T, out] f64.
inline absl::Status RowParallelLinear(Ops& ops, Communicator& tp, const Activation& x, const Weight& weight,
                                      Tensor out) {
  ops.LinearPartial(x, weight, out);
  return tp.AllReduceSum(out);
}

// RowParallelLinear, then Ops::AddRmsNorm of its result, in as few steps as the communicator can, with the same bits.
// delta: [T, out] f64, whose values are lost; residual: [T, out]; out: of the norm.
inline absl::Status RowParallelLinearAddRmsNorm(Ops& ops, Communicator& tp, const Activation& x, const Weight& weight,
                                                Tensor delta, Tensor gain, float eps, Tensor residual,
                                                const Activation& out) {
  ops.LinearPartial(x, weight, delta);
  ASSIGN_OR_RETURN(const bool fused, tp.AllReduceAddRmsNorm(delta, gain, eps, residual, out));
  if (fused) return absl::OkStatus();
  RETURN_IF_ERROR(tp.AllReduceSum(delta));
  ops.AddRmsNorm(delta, gain, eps, residual, out);
  return absl::OkStatus();
}

}  // namespace shoal
