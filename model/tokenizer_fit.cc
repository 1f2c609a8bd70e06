#include "model/tokenizer_fit.h"

#include <algorithm>
#include <vector>

#include "base/log.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

std::string Named(const Tokenizer& tokenizer, int32_t id) {
  const absl::StatusOr<std::string_view> token = tokenizer.IdToToken(id);
  return StrCat("'", token.ok() ? token->substr(0, 64) : "", "' (", id, ")");
}

}  // namespace

absl::Status CheckTokenizerFitsModel(const Tokenizer& tokenizer, const ModelConfig& model,
                                     const std::string& model_dir) {
  const auto rows = static_cast<int32_t>(model.shape.vocab);
  const std::string where = StrCat(model_dir, ": the tokenizer and the configuration do not belong together: token ");
  const std::string has = StrCat("the model's vocabulary has ", rows, " ids");
  const std::vector<int32_t>& added = tokenizer.added_ids();
  int beyond = 0, first = 0;
  for (int32_t id = rows; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.IdToToken(id)->empty()) continue;  // No token has this id.
    if (!std::binary_search(added.begin(), added.end(), id)) {
      return absl::InvalidArgumentError(StrCat(where, Named(tokenizer, id), ", but ", has));
    }
    if (beyond++ == 0) first = id;
  }
  if (beyond == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<int32_t> around, tokenizer.Encode(""));
  for (const int32_t id : around) {
    if (id >= rows) {
      return absl::InvalidArgumentError(StrCat(where, Named(tokenizer, id), " is put around every text, but ", has));
    }
  }
  LogWarning(model_dir, ": ", beyond, " added tokens have no row in the model, the first is ", Named(tokenizer, first),
             "; ", has, ": prompts with such a token are refused");
  return absl::OkStatus();
}

void TakeEosFromTokenizer(const Tokenizer& tokenizer, ModelConfig* model) {
  const std::optional<int32_t> eos = tokenizer.eos_id();
  if (model->eos_token_ids.empty() && eos.has_value() && *eos < model->shape.vocab) model->eos_token_ids = {*eos};
}

}  // namespace shoal
