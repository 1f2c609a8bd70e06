// Token ids to text while they are being generated.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "model/tokenizer.h"

namespace shoal {

// The pieces joined are the text of all ids. Not shared by threads.
class IncrementalDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  IncrementalDecoder(const Tokenizer* tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer),
        skip_special_tokens_(skip_special_tokens),
        spaces_left_(tokenizer->decoder().strip_leading_spaces) {}

  // Text that became complete with `id`: valid UTF-8, perhaps empty. At most 3 bytes are kept back.
  // Errors: kInvalidArgument for an id outside of the vocabulary; the decoder is as before then.
  absl::StatusOr<std::string> Push(int32_t id);

  // What is left, an unfinished character as U+FFFD. The decoder is then at its beginning again.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  int spaces_left_;          // Leading spaces that may still be dropped.
  bool first_token_ = true;  // No token has been taken yet.
  std::string pending_;      // An unfinished character.
};

}  // namespace shoal
