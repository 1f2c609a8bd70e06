// Attention of one work item: some tokens of one sequence times the query heads that share a KV head, over paged KV.
//
// Keys are taken 16 at a time, in order of position, within KV blocks. Each (token, head) row keeps its own online
// softmax state and sees the same sequence of operations whatever else is in the item:
//   score[key] = scale * (chain of fma over d);  m' = max(m, scores);  p = exp(score - m');
//   l = l * exp(m - m') + sum of p (16 lanes, by halves);  o[d] = o[d] * exp(m - m') + chain of fma over keys.
// At the end of a partition (attention_partition.h) its m, l and o join those of the partitions before:
//   M' = max(M, m);  L = l * exp(m - M') + L * exp(M - M');  O[d] the same.
// A 16-key tile of K is transposed once for all rows, so scores need no sums across lanes.
// Bound: K and V are read once per item from memory; the transposed tile and V stay in L1.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/row_kernels.h"

namespace shoal::cpu {
namespace {

constexpr int kRowsAtOnce = 8;

// Views into an item's scratch. Rows are [token][head].
struct AttentionState {
  float* keys;     // [head_dim][16]
  float* values;   // [16][head_dim], f16 caches only.
  float* scores;   // [rows][16]
  float* outputs;  // [rows][padded]
  float* largest;  // [rows]
  float* total;    // [rows]
  // The same of the partitions before.
  float* all_outputs;
  float* all_largest;
  float* all_total;
  int64_t padded;  // head_dim up to a multiple of 16.
};

inline AttentionState SplitScratch(float* scratch, int64_t head_dim) {
  AttentionState s{};
  s.padded = (head_dim + 15) / 16 * 16;
  s.keys = scratch;
  s.values = s.keys + 16 * s.padded;
  s.scores = s.values + 16 * s.padded;
  s.outputs = s.scores + kAttentionRows * 16;
  s.largest = s.outputs + kAttentionRows * s.padded;
  s.total = s.largest + kAttentionRows;
  s.all_outputs = s.total + kAttentionRows;
  s.all_largest = s.all_outputs + kAttentionRows * s.padded;
  s.all_total = s.all_largest + kAttentionRows;
  return s;
}

// Scores of rows [row, row + N) against the transposed tile.
template <class L, int N>
void ScoreRows(const AttentionArgs& args, const AttentionItem& item, const AttentionState& s, int64_t row) {
  using F = typename L::F;
  const float* q[N];
  F sum[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
    q[i] = args.q + (item.token + (row + i) / item.heads) * args.q_stride +
           (item.head + (row + i) % item.heads) * args.head_dim;
    sum[i] = L::Set(0.0f);
  }
  for (int64_t d = 0; d < args.head_dim; ++d) {
    const F key = L::Load(s.keys + d * 16);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) sum[i] = L::Fma(L::Set(q[i][d]), key, sum[i]);
  }
  const F scale = L::Set(args.scale);
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) L::Store(s.scores + (row + i) * 16, L::Mul(sum[i], scale));
}

// Turns a row's scores of its first n keys into weights and updates the row's state for a new maximum.
template <class L>
void SoftmaxRow(const AttentionState& s, int64_t row, int64_t n) {
  using F = typename L::F;
  const F scores = L::Select(L::Load(s.scores + row * 16), L::Set(-__builtin_inff()), n);
  const float old = s.largest[row];
  const float fresh = L::MaxOf(scores);
  const float largest = fresh > old ? fresh : old;
  const F weights = L::Select(Exp<L>(L::Sub(scores, L::Set(largest))), L::Set(0.0f), n);
  L::Store(s.scores + row * 16, weights);
  if (largest != old) {  // Otherwise the factor is exactly 1.
    alignas(64) float factor[16];
    L::Store(factor, Exp<L>(L::Set(old - largest)));
    s.total[row] *= factor[0];
    const F shrink = L::Set(factor[0]);
    for (int64_t d = 0; d < s.padded; d += 16) {
      L::Store(s.outputs + row * s.padded + d, L::Mul(L::Load(s.outputs + row * s.padded + d), shrink));
    }
    s.largest[row] = largest;
  }
  s.total[row] += L::Sum(weights);
}

// o += weights * V for rows [row, row + N), which see the first n keys of the tile.
template <class L, int N>
void AddValues(const AttentionArgs& args, const AttentionState& s, const float* values, int64_t row, int64_t n) {
  using F = typename L::F;
  for (int64_t d = 0; d < args.head_dim; d += 16) {
    const int64_t left = args.head_dim - d;
    F out[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) out[i] = L::Load(s.outputs + (row + i) * s.padded + d);
    for (int64_t key = 0; key < n; ++key) {
      const float* at = values + key * args.head_dim + d;
      const F value = left >= 16 ? L::Load(at) : L::LoadN(at, left);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) out[i] = L::Fma(L::Set(s.scores[(row + i) * 16 + key]), value, out[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) L::Store(s.outputs + (row + i) * s.padded + d, out[i]);
  }
}

// Calls `work.operator()<N>(row)` for N rows at a time: as many as hide the latency of a fused multiply-add.
template <int N, typename Work>
void ForRows(int64_t begin, int64_t end, Work work) {
  for (; begin + N <= end; begin += N) work.template operator()<N>(begin);
  if constexpr (N > 1) {
    if (begin < end) ForRows<N - 1>(begin, end, work);
  }
}

// n values of a cache from element `at` on. With i8, whole groups of 32.
template <class L>
void LoadAsFloat(const AttentionArgs& args, const void* cache, const uint16_t* scales, int64_t at, int64_t n,
                 float* out) {
  if (args.kv_type == KvType::kF16) {
    const uint16_t* in = static_cast<const uint16_t*>(cache) + at;
    for (int64_t i = 0; i < n; i += 16) L::StoreN(out + i, L::LoadF16(in + i, n - i), n - i);
    return;
  }
  const int8_t* in = static_cast<const int8_t*>(cache) + at;
  for (int64_t i = 0; i < n; i += 512) {  // Sixteen scales at a time.
    alignas(64) float scale[16];
    const int64_t groups = Smaller(16, (n - i) / 32);
    L::Store(scale, L::LoadF16(scales + (at + i) / 32, groups));
    for (int64_t g = 0; g < groups; ++g) {
      const typename L::F factor = L::Set(scale[g]);
      for (int64_t j = i + 32 * g; j < i + 32 * g + 32; j += 16) {
        L::Store(out + j, L::Mul(L::ToFloat(L::LoadI8(in + j)), factor));
      }
    }
  }
}

// One tile: the n <= 16 keys from `position` on, which start at element `at` of the caches.
template <class L>
void AttentionTile(const AttentionArgs& args, const AttentionItem& item, const AttentionState& s, int64_t position,
                   int64_t n, int64_t at) {
  const int64_t head_dim = args.head_dim;
  const float* values;
  if (args.kv_type == KvType::kF32) {
    L::Transpose(static_cast<const float*>(args.k) + at, head_dim, n, head_dim, s.keys);
    values = static_cast<const float*>(args.v) + at;
  } else {
    if (args.kv_type == KvType::kF16) {
      L::TransposeF16(static_cast<const uint16_t*>(args.k) + at, head_dim, n, head_dim, s.keys);
    } else {
      // The values scratch holds the keys first: both are needed as float, one after the other.
      LoadAsFloat<L>(args, args.k, args.k_scale, at, n * head_dim, s.values);
      L::Transpose(s.values, head_dim, n, head_dim, s.keys);
    }
    LoadAsFloat<L>(args, args.v, args.v_scale, at, n * head_dim, s.values);
    values = s.values;
  }
  // Tokens that end before this tile come first; they are done.
  const int64_t done = position - item.visible + 1;
  const int64_t first = done > 0 ? done * item.heads : 0;
  const int64_t rows = item.tokens * item.heads;
  ForRows<kRowsAtOnce>(first, rows, [&]<int N>(int64_t row) { ScoreRows<L, N>(args, item, s, row); });
  for (int64_t token = first / item.heads; token < item.tokens; ++token) {
    const int64_t seen = Smaller(n, item.visible + token - position);
    const int64_t begin = token * item.heads, end = begin + item.heads;
    for (int64_t row = begin; row < end; ++row) SoftmaxRow<L>(s, row, seen);
    ForRows<kRowsAtOnce>(begin, end, [&]<int N>(int64_t row) { AddValues<L, N>(args, s, values, row, seen); });
  }
}

inline void ClearState(const AttentionState& s, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    s.largest[row] = -__builtin_inff();
    s.total[row] = 0.0f;
    for (int64_t d = 0; d < s.padded; ++d) s.outputs[row * s.padded + d] = 0.0f;
  }
}

// Adds the state of the partition that begins at `position` to that of the ones before.
template <class L>
void MergePartition(const AttentionItem& item, const AttentionState& s, int64_t position) {
  using F = typename L::F;
  for (int64_t row = 0; row < item.tokens * item.heads; ++row) {
    float* out = s.outputs + row * s.padded;
    float* all = s.all_outputs + row * s.padded;
    if (item.visible + row / item.heads <= position) continue;  // The row sees none of its keys.
    if (position == 0) {
      s.all_largest[row] = s.largest[row];
      s.all_total[row] = s.total[row];
      for (int64_t d = 0; d < s.padded; d += 16) L::Store(all + d, L::Load(out + d));
      continue;
    }
    const float mine = s.all_largest[row], theirs = s.largest[row];
    const float top = mine > theirs ? mine : theirs;
    alignas(64) float factor[16];
    L::Store(factor, Exp<L>(L::Set(mine - top)));
    const F all_factor = L::Set(factor[0]);
    L::Store(factor, Exp<L>(L::Set(theirs - top)));
    const F out_factor = L::Set(factor[0]);
    const F total = L::Fma(L::Set(s.total[row]), out_factor, L::Mul(L::Set(s.all_total[row]), all_factor));
    L::Store(factor, total);
    s.all_total[row] = factor[0];
    s.all_largest[row] = top;
    for (int64_t d = 0; d < s.padded; d += 16) {
      L::Store(all + d, L::Fma(L::Load(out + d), out_factor, L::Mul(L::Load(all + d), all_factor)));
    }
  }
}

template <class L>
void Attention(const AttentionArgs& args, const AttentionItem& item, float* scratch) {
  using F = typename L::F;
  const AttentionState s = SplitScratch(scratch, args.head_dim);
  const int64_t rows = item.tokens * item.heads;
  const int64_t keys = item.visible + item.tokens - 1;
  for (int64_t first = 0; first * args.block < keys; first += args.blocks_per_partition) {
    ClearState(s, rows);
    const int64_t end = first + args.blocks_per_partition;
    for (int64_t block = first; block < end && block * args.block < keys; ++block) {
      const int64_t in_block = Smaller(args.block, keys - block * args.block);
      const int64_t base = (item.blocks[block] * args.kv_heads + item.kv_head) * args.block * args.head_dim;
      for (int64_t offset = 0; offset < in_block; offset += 16) {
        AttentionTile<L>(args, item, s, block * args.block + offset, Smaller(16, in_block - offset),
                         base + offset * args.head_dim);
      }
    }
    MergePartition<L>(item, s, first * args.block);
  }
  for (int64_t row = 0; row < rows; ++row) {
    float* out =
        args.out + (item.token + row / item.heads) * args.out_stride + (item.head + row % item.heads) * args.head_dim;
    const F inverse = L::Set(1.0f / s.all_total[row]);
    for (int64_t d = 0; d < args.head_dim; d += 16) {
      L::StoreN(out + d, L::Mul(L::Load(s.all_outputs + row * s.padded + d), inverse), args.head_dim - d);
    }
  }
}

}  // namespace
}  // namespace shoal::cpu
