#include "server/prompt.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace shoal {
namespace {

// Unicode noncharacters that no text may carry stand for control tokens in message contents while the template runs.
constexpr char32_t kMarkBegin = 0xFDD0;
constexpr char32_t kMarkEnd = 0xFDEF;

struct ControlToken {
  std::string text;
  int32_t id;
};

// What an assistant's turn says came from the model, its control tokens ("</think>") included; other turns are from
// outside.
bool IsFromOutside(const PromptMessage& message) { return message.role != "assistant"; }

// All added tokens: real files flag some control tokens (DeepSeek's "<｜User｜>") as ordinary ones.
// Longest first, so that a token which starts with another one is found.
std::vector<ControlToken> ControlTokens(const Tokenizer& tokenizer) {
  std::vector<ControlToken> tokens;
  for (const int32_t id : tokenizer.added_ids()) {
    const absl::StatusOr<std::string_view> text = tokenizer.IdToToken(id);
    if (text.ok() && !text->empty()) tokens.push_back({std::string(*text), id});
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const ControlToken& a, const ControlToken& b) { return a.text.size() > b.text.size(); });
  return tokens;
}

const ControlToken* TokenAt(std::string_view text, size_t pos, const std::vector<ControlToken>& tokens) {
  for (const ControlToken& token : tokens) {
    if (text.substr(pos, token.text.size()) == token.text) return &token;
  }
  return nullptr;
}

// The first byte of a control token written by a user becomes `mark` + that byte, so the template's output shows which
// control tokens are its own.
std::string MarkControlTokens(std::string_view content, const std::vector<ControlToken>& tokens,
                              std::string_view mark) {
  std::string out;
  for (size_t pos = 0; pos < content.size(); ++pos) {
    if (TokenAt(content, pos, tokens) != nullptr) out += mark;
    out += content[pos];
  }
  return out;
}

// Says which field of the request it was. What is beyond a limit now would be so the next time: the request is wrong,
// not the moment.
absl::Status InField(std::string_view field, const absl::Status& status) {
  const absl::StatusCode code = absl::IsResourceExhausted(status) ? absl::StatusCode::kInvalidArgument : status.code();
  return absl::Status(code, StrCat(field, ": ", std::string(status.message())));
}

// Splits at the template's own control tokens; everything between them is plain text once the marks are gone.
absl::StatusOr<std::vector<int32_t>> EncodeMarked(std::string_view rendered, const Tokenizer& tokenizer,
                                                  const std::vector<ControlToken>& tokens, std::string_view mark) {
  std::vector<int32_t> ids;
  std::string plain;
  const auto flush = [&]() -> absl::Status {
    if (plain.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::vector<int32_t> part,
                     tokenizer.Encode(plain, {.add_special_tokens = false, .parse_special = false}));
    ids.insert(ids.end(), part.begin(), part.end());
    plain.clear();
    return absl::OkStatus();
  };
  for (size_t pos = 0; pos < rendered.size();) {
    if (rendered.substr(pos, mark.size()) == mark) {
      pos += mark.size();
      if (pos < rendered.size()) plain += rendered[pos++];
    } else if (const ControlToken* token = TokenAt(rendered, pos, tokens)) {
      RETURN_IF_ERROR(flush());
      ids.push_back(token->id);
      pos += token->text.size();
    } else {
      plain += rendered[pos++];
    }
  }
  RETURN_IF_ERROR(flush());
  return ids;
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const PromptChat& chat, const Tokenizer& tokenizer,
                                                const ChatRenderer& render) {
  if (!render) {
    return absl::InvalidArgumentError("the model has no chat template; send text or token_ids instead");
  }
  const std::vector<ControlToken> tokens = ControlTokens(tokenizer);
  bool hostile = false;
  for (const PromptMessage& message : chat.messages) {
    if (!IsFromOutside(message)) continue;
    for (const ControlToken& token : tokens) hostile = hostile || absl::StrContains(message.content, token.text);
  }
  if (!hostile) {
    ASSIGN_OR_RETURN(const std::string rendered, render(chat));
    return tokenizer.Encode(rendered, {.add_special_tokens = false, .parse_special = true});
  }
  // A mark that no message has itself.
  std::string mark;
  for (char32_t code = kMarkBegin; code <= kMarkEnd && mark.empty(); ++code) {
    AppendUtf8(code, &mark);
    for (const PromptMessage& message : chat.messages) {
      if (absl::StrContains(message.content, mark)) {
        mark.clear();
        break;
      }
    }
  }
  if (mark.empty()) {
    return absl::InvalidArgumentError("content uses every Unicode noncharacter; remove U+FDD0 to U+FDEF");
  }
  PromptChat marked = chat;
  for (PromptMessage& message : marked.messages) {
    if (IsFromOutside(message)) message.content = MarkControlTokens(message.content, tokens, mark);
  }
  ASSIGN_OR_RETURN(const std::string rendered, render(marked));
  return EncodeMarked(rendered, tokenizer, tokens, mark);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const PromptInput& input, const Tokenizer& tokenizer,
                                                  const ChatRenderer& render) {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&input)) return *ids;
  if (const auto* chat = std::get_if<PromptChat>(&input)) {
    absl::StatusOr<std::vector<int32_t>> ids = EncodeChat(*chat, tokenizer, render);
    if (!ids.ok()) return InField("messages", ids.status());
    return ids;
  }
  const auto& text = std::get<PromptText>(input);
  absl::StatusOr<std::vector<int32_t>> ids =
      tokenizer.Encode(text.text, {.add_special_tokens = text.add_special_tokens, .parse_special = true});
  if (!ids.ok()) return InField("text", ids.status());
  return ids;
}

}  // namespace shoal
