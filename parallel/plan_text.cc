#include "parallel/plan_text.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

std::string RangeText(const Range& range) {
  return range.size() == 0 ? "-" : StrCat(range.begin, "-", range.end - 1, " (", range.size(), ")");
}

Json RangeJson(const Range& range) { return Json::array({range.begin, range.end}); }

std::string FormatText(WeightFormat format) { return std::string(WeightFormatName(format)); }

const char* KvText(DType type) { return type == DType::kI8 ? "int8" : type == DType::kF16 ? "f16" : "f32"; }

std::vector<std::string> RankCells(const RankPlan& rank) {
  const RankMemory& m = rank.memory;
  return {StrCat(rank.rank),      StrCat(rank.stage),       StrCat(rank.tp_rank, "/", rank.tp_size),
          RangeText(rank.layers), RangeText(rank.heads),    RangeText(rank.kv_heads),
          RangeText(rank.ffn),    RangeText(rank.vocab),    BytesText(m.weights),
          BytesText(m.kv),        BytesText(m.activations), BytesText(m.communication),
          BytesText(m.reserved),  BytesText(m.total()),     m.budget == 0 ? "none" : BytesText(m.budget)};
}

// Columns as wide as their widest cell, two blanks apart.
std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace

std::string BytesText(int64_t bytes) {
  constexpr std::array<std::string_view, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  // 999.5 would be printed as four digits.
  while ((value >= 999.5 || value <= -999.5) && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return StrCat(absl::StrFormat("%.*f", decimals, value), " ", kUnits[unit]);
}

std::string PlanToText(const Plan& plan) {
  const ModelShape& shape = plan.shape;
  const FormatPlan& formats = plan.formats;
  std::string text = StrCat("plan: ", plan.ranks.size(), plan.ranks.size() == 1 ? " rank" : " ranks", ", ",
                            plan.stages.size(), plan.stages.size() == 1 ? " stage (" : " stages (");
  for (size_t i = 0; i < plan.stages.size(); ++i) text += StrCat(i == 0 ? "" : " + ", plan.stages[i].size());
  text += StrCat(" tensor-parallel), ", plan.automatic ? "chosen automatically" : "as configured", "\n");
  text +=
      StrCat("model: ", shape.layers, " layers, hidden ", shape.hidden, ", ", shape.heads, " heads, ", shape.kv_heads,
             " KV heads of ", shape.head_dim, ", FFN ", shape.ffn, ", vocabulary ", shape.vocab, "\n");
  text += StrCat("formats: qkv ", WeightFormatName(formats.qkv), ", attention_out ",
                 WeightFormatName(formats.attention_out), ", gate_up ", WeightFormatName(formats.gate_up), ", down ",
                 WeightFormatName(formats.down), ", lm_head ", WeightFormatName(formats.lm_head), ", embedding ",
                 WeightFormatName(formats.embedding), ", KV ", KvText(formats.kv), "\n");
  std::vector<std::vector<std::string>> rows = {{"rank", "stage", "tp", "layers", "heads", "KV heads", "FFN columns",
                                                 "vocabulary", "weights", "KV", "activations", "communication",
                                                 "reserved", "total", "budget"}};
  for (const RankPlan& rank : plan.ranks) rows.push_back(RankCells(rank));
  text += Table(rows);
  text += StrCat("KV capacity: ", plan.kv_tokens(), " tokens (", plan.kv_blocks, " blocks of ", plan.kv_block_tokens,
                 "); at most ", plan.max_sequences, " sequences of ", plan.max_context, " tokens, steps of ",
                 plan.max_step_tokens, "\n");
  return text;
}

Json PlanToJson(const Plan& plan) {
  Json ranks = Json::array();
  for (const RankPlan& rank : plan.ranks) {
    const RankMemory& m = rank.memory;
    ranks.push_back({{"rank", rank.rank},
                     {"stage", rank.stage},
                     {"tp_rank", rank.tp_rank},
                     {"tp_size", rank.tp_size},
                     {"layers", RangeJson(rank.layers)},
                     {"heads", RangeJson(rank.heads)},
                     {"kv_heads", RangeJson(rank.kv_heads)},
                     {"ffn", RangeJson(rank.ffn)},
                     {"vocab", RangeJson(rank.vocab)},
                     {"has_embedding", rank.has_embedding},
                     {"cost", rank.cost},
                     {"memory",
                      {{"weights", m.weights},
                       {"kv", m.kv},
                       {"activations", m.activations},
                       {"communication", m.communication},
                       {"reserved", m.reserved},
                       {"total", m.total()},
                       {"budget", m.budget}}}});
  }
  const FormatPlan& formats = plan.formats;
  return {{"automatic", plan.automatic},
          {"stages", plan.stages},
          {"kv", {{"block_tokens", plan.kv_block_tokens}, {"blocks", plan.kv_blocks}, {"tokens", plan.kv_tokens()}}},
          {"max_step_tokens", plan.max_step_tokens},
          {"max_sequences", plan.max_sequences},
          {"max_context", plan.max_context},
          {"formats",
           {{"qkv", FormatText(formats.qkv)},
            {"attention_out", FormatText(formats.attention_out)},
            {"gate_up", FormatText(formats.gate_up)},
            {"down", FormatText(formats.down)},
            {"lm_head", FormatText(formats.lm_head)},
            {"embedding", FormatText(formats.embedding)},
            {"kv", KvText(formats.kv)}}},
          {"ranks", ranks}};
}

}  // namespace shoal
