// Whether a folder's tokenizer and model belong together.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "model/config.h"
#include "model/tokenizer.h"

namespace shoal {

// Every id of the tokenizer should have a row of the embedding. Only added tokens may lack one, because real folders
// have such a pad token: that is logged as a warning, since requests whose text has that token will be refused.
// Errors: kInvalidArgument if an ordinary token lacks its row (it is another model's tokenizer) or one that is put
// around every text does.
absl::Status CheckTokenizerFitsModel(const Tokenizer& tokenizer, const ModelConfig& model,
                                     const std::string& model_dir);

// Takes the tokenizer's end-of-sequence token where neither config.json nor generation_config.json names one: without
// any, no answer would end before its limit.
void TakeEosFromTokenizer(const Tokenizer& tokenizer, ModelConfig* model);

}  // namespace shoal
