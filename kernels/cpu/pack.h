// The CPU back end's weight layout. All rows are padded to blocks of 16 with zeros.
//   f32, bf16:      [rows / 16][cols][16 rows]
//   int8:           [rows / 16][cols / 4][16 rows][4 cols] bytes, each w8 + 128: unsigned for vpdpbusd and tdpbsud
//   int4:           [rows / 16][cols / 32][4][16 rows][4] bytes; byte (v, row, j) holds q of column 8v + j in its low
//                   and 8v + 4 + j in its high half
//     group_scales  [rows / 16][cols / 32][8] bytes: n - 1 of row i in the low, of row i + 8 in the high half of byte i
//     group_offsets [rows / 16][cols / 32][16] bytes: m
#pragma once

#include "absl/status/status.h"
#include "base/thread_pool.h"
#include "kernels/weight_source.h"

namespace shoal::cpu {

// Reads `source` into `weight`, whose tensors already point at zeroed memory of the right sizes, through some hundred
// kilobytes for each worker. Errors: those of the source.
absl::Status PackWeight(const WeightSource& source, ThreadPool& pool, Weight& weight);

}  // namespace shoal::cpu
