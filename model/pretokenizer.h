// Cuts text into the words within which BPE merges. Source of every step: Hugging Face tokenizers, `pre_tokenizers`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/pretokenizer_regex.h"
#include "model/tokenizer_spec.h"

namespace shoal {

class PreTokenizer {
 public:
  using WordSink = absl::FunctionRef<absl::Status(std::string_view word)>;

  // Errors: kInvalidArgument if an expression does not compile or the byte-level step is not the last.
  static absl::StatusOr<PreTokenizer> Create(const std::vector<PreTokenizerStep>& steps);

  // Calls `sink` for every word, in order; words are never empty. `text` must be valid UTF-8; `at_start` says that it
  // begins the whole input (Metaspace "first"). Stops at the first error.
  absl::Status Run(std::string_view text, bool at_start, WordSink sink) const;

  // Words are bytes to be looked up one by one, not characters.
  bool byte_level() const { return byte_level_; }

 private:
  struct Step {
    PreTokenizerStep spec;
    std::vector<Regex> regex;  // None or one.
  };

  absl::Status RunFrom(size_t step, std::string_view text, bool at_start, WordSink sink) const;
  absl::Status RunSplit(size_t index, std::string_view text, bool at_start, WordSink sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace shoal
