#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_partition.h"

namespace shoal::cuda {
namespace {

void CheckDelta(const Tensor& delta, const Tensor& residual) {
  SHOAL_CHECK(delta.dtype == DType::kF64 && residual.dtype == DType::kF32);
  SHOAL_CHECK_EQ(delta.rows(), residual.rows());
  SHOAL_CHECK_EQ(delta.cols(), residual.cols());
}

QuantizedLinearArgs MakeQuantizedArgs(const Activation& x, const Weight& w) {
  SHOAL_CHECK(!x.q.empty());
  SHOAL_CHECK_EQ(x.group, w.group);
  SHOAL_CHECK_EQ(x.q.cols(), w.cols);
  SHOAL_CHECK_EQ(x.scale.cols(), w.cols / w.group);
  SHOAL_CHECK_EQ(x.sum.cols(), w.cols / kWeightGroup);
  // Kernels read 16 bytes of a row at a time.
  SHOAL_CHECK_EQ(x.q.row_stride % 16, 0);
  SHOAL_CHECK_EQ(reinterpret_cast<uintptr_t>(x.q.data) % 16, 0u);
  QuantizedLinearArgs a{};
  a.values = w.values.As<uint8_t>();
  a.group_scales = w.group_scales.As<uint8_t>();
  a.group_offsets = w.group_offsets.As<int8_t>();
  a.scales = w.scales.As<float>();
  a.bias = w.bias.As<float>();
  a.int4 = w.format == WeightFormat::kInt4;
  a.rows = Int(w.rows);
  a.cols = Int(w.cols);
  a.group = Int(w.group);
  a.q = x.q.As<int8_t>();
  a.q_stride = x.q.row_stride;
  a.x_scale = x.scale.As<float>();
  a.x_scale_stride = x.scale.row_stride;
  a.x_sum = x.sum.As<int32_t>();
  a.x_sum_stride = x.sum.row_stride;
  a.tokens = Int(x.q.rows());
  return a;
}

DenseLinearArgs MakeDenseArgs(const Activation& x, const Weight& w) {
  SHOAL_CHECK(!x.dense.empty());
  SHOAL_CHECK_EQ(x.dense.cols(), w.cols);
  DenseLinearArgs a{};
  a.values = w.values.data;
  a.bf16 = w.format == WeightFormat::kBF16;
  a.bias = w.bias.As<float>();
  a.rows = Int(w.rows);
  a.cols = Int(w.cols);
  a.group = Int(w.group);
  a.x = x.dense.As<float>();
  a.x_stride = x.dense.row_stride;
  a.tokens = Int(x.dense.rows());
  return a;
}

// Hands out parts of the workspace; null where it is too small.
class Workspace {
 public:
  Workspace(std::byte* data, int64_t bytes) : next_(data), left_(bytes) {}
  template <typename T>
  T* Take(int64_t n) {
    const int64_t bytes = (n * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    if (bytes > left_) return nullptr;
    std::byte* const part = next_;
    next_ += bytes;
    left_ -= bytes;
    return reinterpret_cast<T*>(part);
  }

 private:
  std::byte* next_;
  int64_t left_;
};

KvType KvTypeOf(const KvView& cache) {
  CheckKvView(cache);
  return cache.k.dtype == DType::kF32 ? KvType::kF32 : cache.k.dtype == DType::kF16 ? KvType::kF16 : KvType::kI8;
}

void CheckOutput(const Tensor& out, DType dtype, int64_t tokens, int64_t rows) {
  SHOAL_CHECK(out.dtype == dtype);
  SHOAL_CHECK_EQ(out.rows(), tokens);
  SHOAL_CHECK_EQ(out.cols(), rows);
}

}  // namespace

int Int(int64_t n) {
  SHOAL_CHECK(n >= 0 && n <= std::numeric_limits<int32_t>::max());
  return static_cast<int>(n);
}

RmsNormArgs MakeRmsNormArgs(Tensor x, Tensor gain, float eps, const Activation& out) {
  SHOAL_CHECK(x.dtype == DType::kF32 && gain.dtype == DType::kF32);
  SHOAL_CHECK_EQ(gain.rows(), x.cols());
  RmsNormArgs args{};
  args.x = x.As<float>();
  args.x_stride = x.row_stride;
  args.gain = gain.As<float>();
  args.eps = eps;
  args.rows = Int(x.rows());
  args.cols = Int(x.cols());
  args.out = MakeActivationOut(out, x.rows(), x.cols());
  return args;
}

void CudaOps::Embed(Tensor table, Tensor ids, Tensor out) {
  SHOAL_CHECK(out.dtype == DType::kF32 && ids.dtype == DType::kI32);
  SHOAL_CHECK(table.dtype == DType::kF32 || table.dtype == DType::kBF16);
  SHOAL_CHECK_EQ(table.cols(), out.cols());
  SHOAL_CHECK_EQ(ids.rows(), out.rows());
  if (out.rows() == 0) return;
  EmbedArgs args{};
  args.table = table.data;
  args.bf16 = table.dtype == DType::kBF16;
  args.table_stride = table.row_stride;
  args.ids = ids.As<int32_t>();
  args.out = out.As<float>();
  args.out_stride = out.row_stride;
  args.rows = Int(out.rows());
  args.cols = Int(out.cols());
  LaunchEmbed(args, stream_);
}

void CudaOps::RmsNorm(Tensor x, Tensor gain, float eps, const Activation& out) {
  if (x.rows() > 0) LaunchRmsNorm(MakeRmsNormArgs(x, gain, eps, out), stream_);
}

void CudaOps::AddRmsNorm(Tensor delta, Tensor gain, float eps, Tensor residual, const Activation& out) {
  CheckDelta(delta, residual);
  if (residual.rows() == 0) return;
  RmsNormArgs args = MakeRmsNormArgs(residual, gain, eps, out);
  args.delta = delta.As<double>();
  args.delta_stride = delta.row_stride;
  LaunchRmsNorm(args, stream_);
}

void CudaOps::AddResidual(Tensor delta, Tensor residual) {
  CheckDelta(delta, residual);
  if (residual.rows() == 0) return;
  AddResidualArgs args{};
  args.delta = delta.As<double>();
  args.delta_stride = delta.row_stride;
  args.residual = residual.As<float>();
  args.residual_stride = residual.row_stride;
  args.rows = Int(residual.rows());
  args.cols = Int(residual.cols());
  LaunchAddResidual(args, stream_);
}

void CudaOps::HeadRmsNorm(Tensor gain, float eps, Tensor heads) {
  SHOAL_CHECK(gain.dtype == DType::kF32 && heads.dtype == DType::kF32);
  SHOAL_CHECK_EQ(heads.cols() % gain.rows(), 0);
  if (heads.rows() == 0) return;
  HeadRmsNormArgs args{};
  args.gain = gain.As<float>();
  args.eps = eps;
  args.heads = heads.As<float>();
  args.stride = heads.row_stride;
  args.rows = Int(heads.rows());
  args.heads_per_row = Int(heads.cols() / gain.rows());
  args.head_dim = Int(gain.rows());
  LaunchHeadRmsNorm(args, stream_);
}

void CudaOps::Linear(const Activation& x, const Weight& weight, Tensor out) { Multiply(x, weight, out, false); }

void CudaOps::LinearPartial(const Activation& x, const Weight& weight, Tensor out) { Multiply(x, weight, out, true); }

void CudaOps::Multiply(const Activation& x, const Weight& weight, Tensor out, bool partial) {
  const bool quantized = IsQuantized(weight.format);
  CheckOutput(out, partial ? DType::kF64 : DType::kF32, quantized ? x.q.rows() : x.dense.rows(), weight.rows);
  if (out.rows() == 0) return;
  const auto set_output = [&](auto& args) {
    args.out = partial ? nullptr : out.As<float>();
    args.partial_out = partial ? out.As<double>() : nullptr;
    args.out_stride = out.row_stride;
  };
  if (quantized) {
    QuantizedLinearArgs args = MakeQuantizedArgs(x, weight);
    set_output(args);
    LaunchQuantizedLinear(args, path_, stream_);
  } else {
    DenseLinearArgs args = MakeDenseArgs(x, weight);
    set_output(args);
    LaunchDenseLinear(args, stream_);
  }
}

void CudaOps::Quantize(const float* x, int64_t stride, const ActivationOut& out, int64_t rows, int64_t cols) {
  if (out.q == nullptr) return;
  QuantizeArgs args{};
  args.x = x;
  args.x_stride = stride;
  args.rows = Int(rows);
  args.cols = Int(cols);
  args.out = out;
  LaunchQuantize(args, stream_);
}

void CudaOps::LinearSiluMul(const Activation& x, const Weight& gate_up, Tensor scratch, const Activation& out) {
  SHOAL_CHECK_EQ(gate_up.rows % 2, 0);
  const bool quantized = IsQuantized(gate_up.format);
  const int64_t tokens = quantized ? x.q.rows() : x.dense.rows(), cols = gate_up.rows / 2;
  CheckOutput(scratch, DType::kF32, tokens, gate_up.rows);
  const ActivationOut to = MakeActivationOut(out, tokens, cols);
  if (tokens == 0) return;
  if (!quantized) Linear(x, gate_up, scratch);
  // The product in float: for the caller, or in scratch until it is quantized. Dense weights use scratch themselves,
  // so that each thread reads gate and up before it overwrites gate.
  float* product = to.dense != nullptr ? to.dense : scratch.As<float>();
  const int64_t stride = to.dense != nullptr ? to.dense_stride : scratch.row_stride;
  if (quantized) {
    QuantizedLinearArgs args = MakeQuantizedArgs(x, gate_up);
    args.silu_out = product;
    args.out_stride = stride;
    LaunchQuantizedLinear(args, path_, stream_);
  } else {
    SiluMulArgs args{};
    args.gate_up = scratch.As<float>();
    args.stride = scratch.row_stride;
    args.out = product;
    args.out_stride = stride;
    args.rows = Int(tokens);
    args.cols = Int(cols);
    LaunchSiluMul(args, stream_);
  }
  Quantize(product, stride, to, tokens, cols);
}

void CudaOps::RopeTable(Tensor positions, Tensor inv_freq, float scale, Tensor out) {
  SHOAL_CHECK(positions.dtype == DType::kI32 && inv_freq.dtype == DType::kF32 && out.dtype == DType::kF32);
  SHOAL_CHECK_EQ(out.cols(), 2 * inv_freq.rows());
  SHOAL_CHECK_EQ(out.rows(), positions.rows());
  if (out.rows() == 0) return;
  RopeTableArgs args{};
  args.positions = positions.As<int32_t>();
  args.inv_freq = inv_freq.As<float>();
  args.scale = scale;
  args.out = out.As<float>();
  args.out_stride = out.row_stride;
  args.rows = Int(out.rows());
  args.half = Int(inv_freq.rows());
  LaunchRopeTable(args, stream_);
}

void CudaOps::Rope(Tensor table, Tensor heads) {
  SHOAL_CHECK(table.dtype == DType::kF32 && heads.dtype == DType::kF32);
  SHOAL_CHECK_EQ(table.rows(), heads.rows());
  SHOAL_CHECK_EQ(heads.cols() % table.cols(), 0);
  if (heads.rows() == 0) return;
  RopeArgs args{};
  args.table = table.As<float>();
  args.table_stride = table.row_stride;
  args.heads = heads.As<float>();
  args.stride = heads.row_stride;
  args.rows = Int(heads.rows());
  args.heads_per_row = Int(heads.cols() / table.cols());
  args.half = Int(table.cols() / 2);
  LaunchRope(args, stream_);
}

void CudaOps::StoreKv(Tensor k, Tensor v, Tensor slots, KvView cache) {
  SHOAL_CHECK(k.dtype == DType::kF32 && v.dtype == DType::kF32 && slots.dtype == DType::kI32);
  SHOAL_CHECK_EQ(k.cols(), cache.k.dims[1] * cache.k.dims[3]);
  SHOAL_CHECK_EQ(v.cols(), k.cols());
  SHOAL_CHECK_EQ(slots.rows(), k.rows());
  if (k.rows() == 0) return;
  StoreKvArgs args{};
  args.k = k.As<float>();
  args.v = v.As<float>();
  args.k_stride = k.row_stride;
  args.v_stride = v.row_stride;
  args.slots = slots.As<int32_t>();
  args.k_cache = cache.k.data;
  args.v_cache = cache.v.data;
  args.kv_type = KvTypeOf(cache);
  args.k_scale = cache.k_scale.As<uint16_t>();
  args.v_scale = cache.v_scale.As<uint16_t>();
  args.rows = Int(k.rows());
  args.kv_heads = Int(cache.k.dims[1]);
  args.block = Int(cache.k.dims[2]);
  args.head_dim = Int(cache.k.dims[3]);
  LaunchStoreKv(args, stream_);
}

void CudaOps::Attention(Tensor q, KvView cache, const AttentionPlan& plan, const HeadMap& heads,
                        const Activation& out) {
  const int64_t tokens = q.rows(), width = static_cast<int64_t>(heads.heads) * heads.head_dim;
  SHOAL_CHECK(q.dtype == DType::kF32);
  SHOAL_CHECK_EQ(q.cols(), width);
  SHOAL_CHECK_EQ(cache.k.dims[1], heads.kv_heads);
  SHOAL_CHECK_EQ(cache.k.dims[3], heads.head_dim);
  SHOAL_CHECK(heads.head_dim % 4 == 0 && heads.head_dim <= 256);
  SHOAL_CHECK(heads.heads_per_kv >= 1);
  const ActivationOut to = MakeActivationOut(out, tokens, width);
  if (tokens == 0) return;
  AttentionArgs args{};
  args.q = q.As<float>();
  args.q_stride = q.row_stride;
  args.k = cache.k.data;
  args.v = cache.v.data;
  args.kv_type = KvTypeOf(cache);
  args.k_scale = cache.k_scale.As<uint16_t>();
  args.v_scale = cache.v_scale.As<uint16_t>();
  args.query_start = plan.query_start.As<int32_t>();
  args.context_len = plan.context_len.As<int32_t>();
  args.block_table = plan.block_table.As<int32_t>();
  args.block_table_stride = plan.block_table.row_stride;
  args.sequences = Int(plan.context_len.rows());
  args.tokens = Int(tokens);
  args.max_blocks = Int(plan.block_table.cols());
  args.kv_heads = heads.kv_heads;
  args.block = Int(cache.k.dims[2]);
  args.blocks_per_partition = BlocksPerPartition(args.block);
  args.head_dim = heads.head_dim;
  args.heads = heads.heads;
  args.first = heads.first;
  args.kv_first = heads.kv_first;
  args.heads_per_kv = heads.heads_per_kv;
  args.scale = 1.0f / std::sqrt(static_cast<float>(heads.head_dim));
  args.out = to.dense;
  args.out_stride = to.dense_stride;
  Workspace workspace(workspace_, workspace_bytes_);
  if (args.out == nullptr) {
    args.out = workspace.Take<float>(tokens * width);
    args.out_stride = width;
    SHOAL_CHECK(args.out != nullptr);
  }
  // Two blocks for each that the GPU runs at a time, so that none waits long for the last.
  args.partition_blocks = std::max(1, 8 * multiprocessors_ / (args.sequences * args.kv_heads));
  args.workspace = workspace.Take<float>(AttentionWorkspaceFloats(args.sequences, args.max_blocks, cache.k.dims[0],
                                                                  args.block, args.heads, args.head_dim));
  if (args.workspace != nullptr) LaunchAttentionDecode(args, stream_);
  if (args.workspace == nullptr || args.tokens > args.sequences) LaunchAttentionPrefill(args, stream_);
  Quantize(args.out, args.out_stride, to, tokens, width);
}

void CudaOps::GatherRows(Tensor x, Tensor rows, Tensor out) {
  SHOAL_CHECK(x.dtype == out.dtype && rows.dtype == DType::kI32);
  SHOAL_CHECK_EQ(x.cols(), out.cols());
  SHOAL_CHECK_EQ(rows.rows(), out.rows());
  if (out.rows() == 0) return;
  const int64_t size = SizeOf(x.dtype);
  GatherRowsArgs args{};
  args.x = x.As<unsigned char>();
  args.x_stride = x.row_stride * size;
  args.ids = rows.As<int32_t>();
  args.out = out.As<unsigned char>();
  args.out_stride = out.row_stride * size;
  args.rows = Int(out.rows());
  args.row_bytes = Int(x.cols() * size);
  LaunchGatherRows(args, stream_);
}

void CudaOps::TopK(Tensor logits, Tensor values, Tensor ids) {
  const int64_t k = values.cols();
  SHOAL_CHECK(logits.dtype == DType::kF32 && values.dtype == DType::kF32 && ids.dtype == DType::kI32);
  SHOAL_CHECK(k >= 1 && k <= kTopKMax && k <= logits.cols() && ids.cols() == k);
  SHOAL_CHECK(values.rows() == logits.rows() && ids.rows() == logits.rows());
  TopKArgs args{};
  args.logits_stride = logits.row_stride;
  args.cols = Int(logits.cols());
  args.k = Int(k);
  args.values_stride = values.row_stride;
  args.ids_stride = ids.row_stride;
  args.workspace = reinterpret_cast<uint64_t*>(workspace_);
  const int64_t each = TopKWorkspaceWords(1, args.cols, args.k) * static_cast<int64_t>(sizeof(uint64_t));
  SHOAL_CHECK_LE(each, workspace_bytes_);
  for (int64_t first = 0; first < logits.rows(); first += args.rows) {
    args.rows = Int(std::min(workspace_bytes_ / each, logits.rows() - first));
    args.logits = logits.Row<float>(first);
    args.values = values.Row<float>(first);
    args.ids = ids.Row<int32_t>(first);
    LaunchTopK(args, stream_);
  }
}

}  // namespace shoal::cuda
