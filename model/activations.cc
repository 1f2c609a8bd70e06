#include "model/activations.h"

#include <map>
#include <string>

#include "base/check.h"
#include "base/status_macros.h"

namespace shoal {
namespace {

// The buffers by name, each a matrix over its part of the reserved memory.
class Table {
 public:
  Table(const std::vector<BufferSpec>& specs, std::byte* memory) {
    for (const BufferSpec& spec : specs) {
      tensors_[spec.name] = MakeTensor(memory, spec.dtype, {spec.rows, spec.cols});
      memory += spec.bytes();
    }
  }

  // Empty if this rank has no such buffer.
  Tensor Matrix(const std::string& name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? Tensor{} : it->second;
  }
  Tensor Vector(const std::string& name) const {
    const Tensor t = Matrix(name);
    return MakeTensor(t.data, t.dtype, {t.cols()});
  }
  Activation Input(const std::string& name) const {
    Activation a;
    a.dense = Matrix(name + ".dense");
    a.q = Matrix(name + ".q");
    if (!a.q.empty()) {
      a.scale = Matrix(name + ".scale");
      a.sum = Matrix(name + ".sum");
      a.group = a.q.cols() / a.scale.cols();
    }
    return a;
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

}  // namespace

Activations Activations::Rows(int64_t tokens) const {
  Activations a = *this;
  a.x = x.Rows(tokens);
  a.delta = delta.Rows(tokens);
  a.h = h.Rows(tokens);
  a.qkv = qkv.Rows(tokens);
  a.attended = attended.Rows(tokens);
  a.rope = rope.Rows(tokens);
  a.gate_up = gate_up.Rows(tokens);
  a.ffn = ffn.Rows(tokens);
  return a;
}

absl::StatusOr<OwnedActivations> AllocateActivations(const Plan& plan, const RankPlan& rank, Device& device) {
  const std::vector<BufferSpec> specs = ActivationBuffers(plan.shape, plan.formats, rank, plan.max_step_tokens,
                                                          plan.max_sequences, plan.max_context, plan.kv_block_tokens);
  int64_t bytes = 0;
  for (const BufferSpec& spec : specs) bytes += spec.bytes();
  OwnedActivations owned;
  ASSIGN_OR_RETURN(owned.buffer, device.Allocate(MemoryKind::kActivations, bytes));
  const Table table(specs, owned.buffer->data());
  Activations& a = owned.views;
  a.ids = table.Vector("ids");
  a.positions = table.Vector("positions");
  a.kv_slots = table.Vector("slots");
  a.query_start = table.Vector("query_start");
  a.context_len = table.Vector("context_len");
  a.block_table = table.Matrix("block_table");
  a.sample_rows = table.Vector("sample_rows");
  a.x = table.Matrix("x");
  a.delta = table.Matrix("delta");
  a.h = table.Input("h");
  a.qkv = table.Matrix("qkv");
  a.attended = table.Input("attended");
  a.rope = table.Matrix("rope_table");
  a.gate_up = table.Matrix("gate_up");
  a.ffn = table.Input("ffn");
  a.last_x = table.Matrix("last_x");
  a.last_delta = table.Matrix("last_delta");
  a.last_h = table.Input("last_h");
  a.logits = table.Matrix("logits");
  a.top_values = table.Matrix("candidate_values");
  a.top_ids = table.Matrix("candidate_ids");
  return owned;
}

}  // namespace shoal
