// Attention of one work item: some tokens of one sequence times the query heads that share a KV head, over paged KV.
//
// Keys are taken 16 at a time, in order of position, within KV blocks. Each (token, head) row keeps its own online
// softmax state and sees the same sequence of operations whatever else is in the item:
//   score[key] = scale * (chain of fma over d);  m' = max(m, scores);  p = exp(score - m');
//   l = l * exp(m - m') + sum of p (16 lanes, by halves);  o[d] = o[d] * exp(m - m') + chain of fma over keys.
// At the end of a partition (attention_partition.h) its m, l and o join those of the partitions before:
//   M' = max(M, m);  L = l * exp(m - M') + L * exp(M - M');  O[d] the same.
// A 16-key tile of K is transposed once for all rows, so scores need no sums across lanes; f16 stays f16 until it is
// used. Bound: K and V are read once per item from memory, the next tile while this one is worked on.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/row_kernels.h"

namespace shoal::cpu {
namespace {

constexpr int kRowsAtOnce = 8;

// Views into an item's scratch. Rows are [token][head].
struct AttentionState {
  float* keys;     // [head_dim][16], or f16 in the same place.
  float* values;   // [16][head_dim], i8 caches only.
  float* scales;   // [16][head_dim / 32], and transposed.
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
  s.scales = s.values + 16 * s.padded;
  s.scores = s.scales + 2 * s.padded;
  s.outputs = s.scores + kAttentionRows * 16;
  s.largest = s.outputs + kAttentionRows * s.padded;
  s.total = s.largest + kAttentionRows;
  s.all_outputs = s.total + kAttentionRows;
  s.all_largest = s.all_outputs + kAttentionRows * s.padded;
  s.all_total = s.all_largest + kAttentionRows;
  return s;
}

template <class L>
typename L::F LoadLanes(const float* p, int64_t n) {
  return n >= 16 ? L::Load(p) : L::LoadN(p, n);
}
template <class L>
typename L::F LoadLanes(const uint16_t* p, int64_t n) {
  return L::LoadF16(p, n);
}

// Values of a tile: T is float or uint16_t (f16).
template <class L, typename T>
struct PlainValues {
  const T* at;  // [16][head_dim]
  int64_t head_dim;

  typename L::F Load(int64_t key, int64_t d) const { return LoadLanes<L>(at + key * head_dim + d, head_dim - d); }
};

template <class L>
struct Int8Values {
  const int8_t* at;     // [16][head_dim], whole groups of 32.
  const float* scales;  // [16][head_dim / 32]
  int64_t head_dim;

  typename L::F Load(int64_t key, int64_t d) const {
    return L::Mul(L::ToFloat(L::LoadI8(at + key * head_dim + d)), L::Set(scales[(key * head_dim + d) / 32]));
  }
};

// The tile to be fetched into the second-level cache meanwhile (ADR 9); hardware does not see it coming, since keys are
// read across rows and blocks lie anywhere. Two lines of K and of V for every four dimensions of f16, and in
// proportion.
struct NextTile {
  const char* k;
  const char* v;
  int64_t lines;  // Of each, per four dimensions; 0: there is nothing to fetch.
};

// Scores of rows [row, row + N) against the transposed tile.
template <class L, int N, typename K>
void ScoreRows(const AttentionArgs& args, const AttentionItem& item, const AttentionState& s, const K* keys,
               int64_t row, NextTile next) {
  using F = typename L::F;
  const float* q[N];
  F sum[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) {
    q[i] = args.q + (item.token + (row + i) / item.heads) * args.q_stride +
           (item.head + (row + i) % item.heads) * args.head_dim;
    sum[i] = L::Set(0.0f);
  }
  const auto add = [&](int64_t d) {
    const F key = LoadLanes<L>(keys + d * 16, 16);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) sum[i] = L::Fma(L::Set(q[i][d]), key, sum[i]);
  };
  int64_t d = 0;
  for (; d + 4 <= args.head_dim; d += 4) {
    for (int64_t line = 0; line < next.lines; ++line, next.k += 64, next.v += 64) {
      __builtin_prefetch(next.k, 0, 2);
      __builtin_prefetch(next.v, 0, 2);
    }
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) add(d + j);
  }
  for (; d < args.head_dim; ++d) add(d);
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
template <class L, int N, typename Values>
void AddValues(const AttentionArgs& args, const AttentionState& s, const Values& values, int64_t row, int64_t n) {
  using F = typename L::F;
  for (int64_t d = 0; d < args.head_dim; d += 16) {
    F out[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) out[i] = L::Load(s.outputs + (row + i) * s.padded + d);
    for (int64_t key = 0; key < n; ++key) {
      const F value = values.Load(key, d);
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

// The n keys of an i8 tile from element `at` on, transposed: four bytes are moved as one float would be, then parted.
template <class L>
void TransposeInt8Keys(const AttentionArgs& args, const AttentionState& s, int64_t n, int64_t at) {
  const int64_t head_dim = args.head_dim, groups = head_dim / 32;
  for (int64_t i = 0; i < n * groups; i += 16) {
    L::Store(s.scales + i, L::LoadF16(args.k_scale + at / 32 + i, n * groups - i));
  }
  float* by_group = s.scales + 16 * groups;
  L::Transpose(s.scales, groups, n, groups, by_group);
  const int8_t* k = static_cast<const int8_t*>(args.k) + at;
  L::Transpose(reinterpret_cast<const float*>(k), head_dim / 4, n, head_dim / 4, s.values);
  for (int64_t d = 0; d < head_dim; d += 4) {
    const typename L::F scale = L::Load(by_group + d / 32 * 16);
    const typename L::I bytes = L::LoadI(reinterpret_cast<const int32_t*>(s.values + d * 4));
    L::Store(s.keys + d * 16, L::Mul(L::ToFloat(L::template SignedByte<0>(bytes)), scale));
    L::Store(s.keys + d * 16 + 16, L::Mul(L::ToFloat(L::template SignedByte<1>(bytes)), scale));
    L::Store(s.keys + d * 16 + 32, L::Mul(L::ToFloat(L::template SignedByte<2>(bytes)), scale));
    L::Store(s.keys + d * 16 + 48, L::Mul(L::ToFloat(L::template SignedByte<3>(bytes)), scale));
  }
}

// The n <= 16 keys from `position` on: their transposed keys and their values.
template <class L, typename K, typename Values>
void AttendToTile(const AttentionArgs& args, const AttentionItem& item, const AttentionState& s, int64_t position,
                  int64_t n, const K* keys, const Values& values, NextTile next) {
  // Tokens that end before this tile come first; they are done.
  const int64_t done = position - item.visible + 1;
  const int64_t first = done > 0 ? done : 0;
  const int64_t rows = item.tokens * item.heads;
  ForRows<kRowsAtOnce>(first * item.heads, rows, [&]<int N>(int64_t row) {
    ScoreRows<L, N>(args, item, s, keys, row, next);
    next.lines = 0;
  });
  const auto seen = [&](int64_t token) { return Smaller(n, item.visible + token - position); };
  for (int64_t row = first * item.heads; row < rows; ++row) SoftmaxRow<L>(s, row, seen(row / item.heads));
  // Rows that see the same keys go together: the tokens of the diagonal each on their own, then all the others.
  int64_t token = first;
  for (; token < item.tokens && seen(token) < n; ++token) {
    ForRows<kRowsAtOnce>(token * item.heads, (token + 1) * item.heads,
                         [&]<int N>(int64_t row) { AddValues<L, N>(args, s, values, row, seen(token)); });
  }
  ForRows<kRowsAtOnce>(token * item.heads, rows, [&]<int N>(int64_t row) { AddValues<L, N>(args, s, values, row, n); });
}

// The same, from element `at` of an i8 cache on.
template <class L>
void Int8Tile(const AttentionArgs& args, const AttentionItem& item, const AttentionState& s, int64_t position,
              int64_t n, int64_t at, NextTile next) {
  const int64_t elements = n * args.head_dim;
  TransposeInt8Keys<L>(args, s, n, at);
  for (int64_t i = 0; i < elements / 32; i += 16) {
    L::Store(s.scales + i, L::LoadF16(args.v_scale + at / 32 + i, elements / 32 - i));
  }
  const Int8Values<L> values = {static_cast<const int8_t*>(args.v) + at, s.scales, args.head_dim};
  if (item.tokens == 1) {
    AttendToTile<L>(args, item, s, position, n, s.keys, values, next);
    return;
  }
  // Many rows: converted once.
  for (int64_t i = 0; i < elements; i += 16) L::Store(s.values + i, values.Load(0, i));
  AttendToTile<L>(args, item, s, position, n, s.keys, PlainValues<L, float>{s.values, args.head_dim}, next);
}

template <class L>
void AttentionTile(const AttentionArgs& args, const AttentionItem& item, const AttentionState& s, int64_t position,
                   int64_t n, int64_t at, NextTile next) {
  const int64_t head_dim = args.head_dim;
  if (args.kv_type == KvType::kI8) {
    Int8Tile<L>(args, item, s, position, n, at, next);
  } else if (args.kv_type == KvType::kF16) {
    uint16_t* keys = reinterpret_cast<uint16_t*>(s.keys);
    L::TransposeF16(static_cast<const uint16_t*>(args.k) + at, head_dim, n, head_dim, keys);
    const PlainValues<L, uint16_t> values = {static_cast<const uint16_t*>(args.v) + at, head_dim};
    AttendToTile<L>(args, item, s, position, n, keys, values, next);
  } else {
    L::Transpose(static_cast<const float*>(args.k) + at, head_dim, n, head_dim, s.keys);
    const PlainValues<L, float> values = {static_cast<const float*>(args.v) + at, head_dim};
    AttendToTile<L>(args, item, s, position, n, s.keys, values, next);
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

// Where the key at `position` lies in the caches, in elements.
inline int64_t KeyAt(const AttentionArgs& args, const AttentionItem& item, int64_t position) {
  const int64_t block = position / args.block;
  return ((item.blocks[block] * args.kv_heads + item.kv_head) * args.block + position - block * args.block) *
         args.head_dim;
}

template <class L>
void Attention(const AttentionArgs& args, const AttentionItem& item, float* scratch) {
  using F = typename L::F;
  const AttentionState s = SplitScratch(scratch, args.head_dim);
  const int64_t rows = item.tokens * item.heads;
  const int64_t keys = item.visible + item.tokens - 1;
  const int64_t bytes = args.kv_type == KvType::kI8 ? 1 : args.kv_type == KvType::kF16 ? 2 : 4;
  const int64_t partition = args.blocks_per_partition * args.block;
  int64_t at = KeyAt(args, item, 0);
  for (int64_t first = 0; first < keys; first += partition) {
    ClearState(s, rows);
    const int64_t end = Smaller(first + partition, keys);
    for (int64_t position = first; position < end;) {
      const int64_t block_end = (position / args.block + 1) * args.block;
      const int64_t n = Smaller(16, Smaller(block_end, end) - position);
      NextTile next{};
      int64_t next_at = at;
      if (position + n < keys) {
        next_at = KeyAt(args, item, position + n);
        next = {static_cast<const char*>(args.k) + next_at * bytes, static_cast<const char*>(args.v) + next_at * bytes,
                bytes};
      }
      AttentionTile<L>(args, item, s, position, n, at, next);
      position += n;
      at = next_at;
    }
    MergePartition<L>(item, s, first);
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
