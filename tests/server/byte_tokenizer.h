// A tokenizer whose ids below 256 are bytes, with three control tokens and one very long token.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"
#include "model/tokenizer.h"
#include "model/unicode.h"

namespace shoal::testing {

inline constexpr int32_t kStartId = 256;  // "<|im_start|>"
inline constexpr int32_t kEndId = 257;    // "<|im_end|>"
inline constexpr int32_t kEosId = 258;    // "<|endoftext|>"
inline constexpr int32_t kLongId = 259;   // 16,000 times 'x'.
inline constexpr size_t kLongBytes = 16000;
inline constexpr int32_t kByteVocab = 260;

// `more`: further added tokens, with ids from kByteVocab.
inline std::unique_ptr<Tokenizer> MakeByteTokenizer(const std::vector<std::string>& more = {}) {
  TokenizerSpec spec;
  spec.where = "byte tokenizer";
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendUtf8(ByteToCodePoint(static_cast<uint8_t>(byte)), &token);
    spec.tokens.push_back(token);
  }
  const char* control[] = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"};
  for (int i = 0; i < 3; ++i) {
    spec.tokens.emplace_back(control[i]);
    AddedToken added;
    added.id = kStartId + i;
    added.content = control[i];
    added.special = true;
    spec.added_tokens.push_back(added);
  }
  spec.tokens.emplace_back(kLongBytes, 'x');
  for (const std::string& content : more) {
    AddedToken added;
    added.id = static_cast<int32_t>(spec.tokens.size());
    added.content = content;
    spec.tokens.push_back(content);
    spec.added_tokens.push_back(added);
  }
  PreTokenizerStep bytes;
  bytes.kind = PreTokenizerStep::Kind::kByteLevel;
  bytes.add_prefix_space = false;
  bytes.use_regex = false;
  spec.pre_tokenizer.push_back(bytes);
  spec.decoder.byte_level = true;
  spec.eos_id = kEosId;
  auto tokenizer = Tokenizer::Create(spec);
  if (!tokenizer.ok())
    internal::CheckFailed(__FILE__, __LINE__, "MakeByteTokenizer", std::string(tokenizer.status().message()));
  return *std::move(tokenizer);
}

}  // namespace shoal::testing
