// The files of a Hugging Face tokenizer.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/tokenizer_spec.h"

namespace shoal {

inline constexpr size_t kTokenizerFileBytesMax = size_t{64} << 20;
inline constexpr size_t kTokenizerConfigBytesMax = size_t{8} << 20;

// Reads tokenizer.json and, if it exists, tokenizer_config.json of `model_dir`.
// Errors: kNotFound without tokenizer.json; kInvalidArgument with file, field and reason.
absl::StatusOr<TokenizerSpec> ReadTokenizerFiles(const std::string& model_dir);

// The text of a tokenizer.json. `where` starts every message. Errors: kInvalidArgument.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view text, std::string_view where);

// Adds what a tokenizer_config.json says: named and added tokens, and BOS and EOS where its class adds them.
// Errors: kInvalidArgument.
absl::Status ApplyTokenizerConfig(const Json& config, std::string_view where, TokenizerSpec* spec);

// An AddedToken object of either file; `id` is set by the caller. Errors: kInvalidArgument.
absl::StatusOr<AddedToken> ParseAddedToken(const Json& json, std::string_view where);

// The steps of tokenizer.json's `normalizer`, `pre_tokenizer` and `decoder`. Null is no step.
absl::Status ParseNormalizer(const Json& json, std::string_view where, std::vector<NormalizerStep>* steps);
absl::Status ParsePreTokenizer(const Json& json, std::string_view where, std::vector<PreTokenizerStep>* steps);
absl::Status ParseDecoder(const Json& json, std::string_view where, DecoderSpec* decoder);

// An optional boolean field. Errors: kInvalidArgument if it is there and no boolean.
absl::StatusOr<bool> JsonBoolOr(const Json& object, std::string_view key, bool otherwise, std::string_view where);

}  // namespace shoal
