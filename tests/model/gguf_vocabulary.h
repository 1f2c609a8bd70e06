// The vocabulary of a GGUF file with byte-level BPE, for the test vectors that llama.cpp has for such files.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer_spec.h"

namespace shoal {

// Walks the metadata of a GGUF file in memory. Every length is checked against what is left of the file.
class GgufReader {
 public:
  explicit GgufReader(std::string_view file) : rest_(file) {}

  // Tokens, token types and merges. The pre-tokenizer is left to the caller: the file has only its name.
  absl::StatusOr<TokenizerSpec> ReadVocabulary() {
    uint64_t tensors = 0, entries = 0;
    uint32_t version = 0;
    if (rest_.substr(0, 4) != "GGUF") return absl::InvalidArgumentError("is no GGUF file");
    rest_.remove_prefix(4);
    RETURN_IF_ERROR(Number(&version));
    RETURN_IF_ERROR(Number(&tensors));
    RETURN_IF_ERROR(Number(&entries));
    TokenizerSpec spec;
    std::vector<uint32_t> types;
    for (uint64_t i = 0; i < entries; ++i) RETURN_IF_ERROR(Entry(&spec, &types));
    if (types.size() != spec.tokens.size()) return absl::InvalidArgumentError("token types do not match the tokens");
    for (size_t id = 0; id < types.size(); ++id) {
      constexpr uint32_t kControl = 3, kUserDefined = 4;
      if (types[id] != kControl && types[id] != kUserDefined) continue;
      AddedToken added;
      added.id = static_cast<int32_t>(id);
      added.content = spec.tokens[id];
      added.special = types[id] == kControl;
      spec.added_tokens.push_back(added);
    }
    return spec;
  }

 private:
  enum Type : uint32_t { kInt32 = 5, kString = 8, kArray = 9 };

  template <typename T>
  absl::Status Number(T* out) {
    if (rest_.size() < sizeof(T)) return absl::InvalidArgumentError("ends within its metadata");
    std::memcpy(out, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return absl::OkStatus();
  }

  absl::Status String(std::string* out) {
    uint64_t length = 0;
    RETURN_IF_ERROR(Number(&length));
    if (length > rest_.size()) return absl::InvalidArgumentError("has a string that is longer than the file");
    *out = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return absl::OkStatus();
  }

  absl::Status Skip(uint32_t type) {
    static constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    std::string ignored;
    if (type == kString) return String(&ignored);
    if (type >= std::size(kBytes) || type == kArray || kBytes[type] > rest_.size()) {
      return absl::InvalidArgumentError(absl::StrCat("has a value of type ", type));
    }
    rest_.remove_prefix(kBytes[type]);
    return absl::OkStatus();
  }

  // One key and its value.
  absl::Status Entry(TokenizerSpec* spec, std::vector<uint32_t>* types) {
    std::string key, text;
    uint32_t type = 0;
    RETURN_IF_ERROR(String(&key));
    RETURN_IF_ERROR(Number(&type));
    if (type != kArray) return Skip(type);
    uint64_t count = 0;
    RETURN_IF_ERROR(Number(&type));
    RETURN_IF_ERROR(Number(&count));
    for (uint64_t i = 0; i < count; ++i) {
      if (key == "tokenizer.ggml.token_type" && type == kInt32) {
        RETURN_IF_ERROR(Number(&types->emplace_back()));
      } else if (key == "tokenizer.ggml.tokens" && type == kString) {
        RETURN_IF_ERROR(String(&spec->tokens.emplace_back()));
      } else if (key == "tokenizer.ggml.merges" && type == kString) {
        RETURN_IF_ERROR(String(&text));
        const size_t space = text.find(' ', 1);  // No part is empty, and a blank is another character here.
        if (space == std::string::npos) return absl::InvalidArgumentError("has a merge without a blank");
        spec->merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else {
        RETURN_IF_ERROR(Skip(type));
      }
    }
    return absl::OkStatus();
  }

  std::string_view rest_;
};

}  // namespace shoal
