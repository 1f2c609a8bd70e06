#include "model/pretokenizer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

// Source: GPT-2 `encoder.py`.
constexpr std::string_view kGpt2Regex = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Part {
  size_t begin;
  size_t end;
  bool is_match;
};

// Joins and drops parts as `behavior` asks. Parts to be dropped come back empty.
void ApplyBehavior(SplitBehavior behavior, std::vector<Part>* parts) {
  auto& p = *parts;
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kRemoved:
      for (Part& part : p) {
        if (part.is_match) part.begin = part.end;
      }
      return;
    case SplitBehavior::kContiguous:
      for (size_t i = 1; i < p.size(); ++i) {
        if (p[i].is_match != p[i - 1].is_match) continue;
        p[i].begin = p[i - 1].begin;
        p[i - 1].end = p[i - 1].begin;
      }
      return;
    case SplitBehavior::kMergedWithPrevious:
      for (size_t i = 1; i < p.size(); ++i) {
        if (!p[i].is_match || p[i - 1].is_match) continue;
        p[i].begin = p[i - 1].begin;
        p[i - 1].end = p[i - 1].begin;
      }
      return;
    case SplitBehavior::kMergedWithNext:
      for (size_t i = p.size(); i-- > 1;) {
        if (!p[i - 1].is_match || p[i].is_match) continue;
        p[i - 1].end = p[i].end;
        p[i].begin = p[i].end;
      }
      return;
  }
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(const std::vector<PreTokenizerStep>& steps) {
  PreTokenizer out;
  for (size_t i = 0; i < steps.size(); ++i) {
    Step step{steps[i], {}};
    const bool needs_regex = step.spec.kind == PreTokenizerStep::Kind::kSplit ||
                             (step.spec.kind == PreTokenizerStep::Kind::kByteLevel && step.spec.use_regex);
    if (step.spec.kind == PreTokenizerStep::Kind::kByteLevel) {
      if (i + 1 != steps.size()) return absl::InvalidArgumentError("pre_tokenizer: ByteLevel must be the last step");
      step.spec.pattern = kGpt2Regex;
      step.spec.is_regex = true;
      out.byte_level_ = true;
    }
    if (needs_regex) {
      absl::StatusOr<Regex> regex = Regex::Compile(step.spec.pattern, !step.spec.is_regex);
      if (!regex.ok()) {
        return absl::InvalidArgumentError(StrCat("pre_tokenizer step ", i, ": ", regex.status().message()));
      }
      step.regex.push_back(*std::move(regex));
    }
    out.steps_.push_back(std::move(step));
  }
  return out;
}

absl::Status PreTokenizer::Run(std::string_view text, bool at_start, WordSink sink) const {
  return text.empty() ? absl::OkStatus() : RunFrom(0, text, at_start, sink);
}

absl::Status PreTokenizer::RunFrom(size_t index, std::string_view text, bool at_start, WordSink sink) const {
  if (text.empty()) return absl::OkStatus();
  if (index == steps_.size()) return sink(text);
  const PreTokenizerStep& spec = steps_[index].spec;
  switch (spec.kind) {
    case PreTokenizerStep::Kind::kSplit:
      return RunSplit(index, text, at_start, sink);
    case PreTokenizerStep::Kind::kByteLevel: {
      const bool prefix = spec.add_prefix_space && text[0] != ' ';
      const std::string prefixed = prefix ? StrCat(" ", text) : "";
      const std::string_view whole = prefix ? std::string_view(prefixed) : text;
      return spec.use_regex ? RunSplit(index, whole, at_start, sink) : sink(whole);
    }
    case PreTokenizerStep::Kind::kMetaspace: {
      std::string replaced = absl::StrReplaceAll(ToAbsl(text), {{" ", spec.replacement}});
      const bool prepend = spec.prepend == PreTokenizerStep::Prepend::kAlways ||
                           (spec.prepend == PreTokenizerStep::Prepend::kFirst && at_start);
      if (prepend && !absl::StartsWith(replaced, spec.replacement)) replaced.insert(0, spec.replacement);
      if (!spec.split) return RunFrom(index + 1, replaced, at_start, sink);
      // Every replacement begins a word (`MergedWithNext`; a run of them is cut into single ones, as there).
      for (size_t begin = 0; begin < replaced.size();) {
        size_t end = replaced.find(spec.replacement, begin + 1);
        if (end == std::string::npos) end = replaced.size();
        const auto word = std::string_view(replaced).substr(begin, end - begin);
        RETURN_IF_ERROR(RunFrom(index + 1, word, at_start && begin == 0, sink));
        begin = end;
      }
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::RunSplit(size_t index, std::string_view text, bool at_start, WordSink sink) const {
  const Step& step = steps_[index];
  const bool is_last = index + 1 == steps_.size();
  const auto next = [&](std::string_view part) -> absl::Status {
    return is_last ? sink(part) : RunFrom(index + 1, part, at_start && part.data() == text.data(), sink);
  };
  if (step.spec.behavior == SplitBehavior::kIsolated) {  // Most files: no list of parts is needed.
    return step.regex[0].ForEachPart(text, [&](std::string_view part, bool) { return next(part); });
  }
  std::vector<Part> parts;
  RETURN_IF_ERROR(step.regex[0].ForEachPart(text, [&](std::string_view part, bool is_match) {
    const size_t begin = static_cast<size_t>(part.data() - text.data());
    parts.push_back({begin, begin + part.size(), is_match != step.spec.invert});
    return absl::OkStatus();
  }));
  ApplyBehavior(step.spec.behavior, &parts);
  for (const Part& part : parts) {
    if (part.begin < part.end) RETURN_IF_ERROR(next(text.substr(part.begin, part.end - part.begin)));
  }
  return absl::OkStatus();
}

}  // namespace shoal
