#include "model/detokenizer.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace shoal {

absl::StatusOr<std::string> IncrementalDecoder::Push(int32_t id) {
  ASSIGN_OR_RETURN(const std::string_view bytes, tokenizer_->TokenBytes(id));
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) return std::string();
  const DecoderSpec& decoder = tokenizer_->decoder();
  std::string text(bytes);
  if (first_token_ && !decoder.first_token_drops.empty())
    text = absl::StrReplaceAll(text, {{decoder.first_token_drops, ""}});
  first_token_ = false;
  size_t begin = 0;
  while (spaces_left_ > 0 && begin < text.size()) {
    if (text[begin] != ' ') {
      spaces_left_ = 0;
      break;
    }
    --spaces_left_;
    ++begin;
  }
  pending_.append(text, begin);
  const size_t complete = CompleteUtf8Prefix(pending_);
  std::string out = ReplaceInvalidUtf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return out;
}

std::string IncrementalDecoder::Finish() {
  std::string out = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  first_token_ = true;
  spaces_left_ = tokenizer_->decoder().strip_leading_spaces;
  return out;
}

}  // namespace shoal
