#include "server/prompt.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace shoal {
namespace {

// Unicode noncharacters stand beside control tokens in message contents while the template runs. A control token that
// has `before` in front of it or `after` behind it is text.
constexpr char32_t kMarkFirst = 0xFDD0;
constexpr char32_t kMarkLast = 0xFDEF;
struct Marks {
  std::string before;
  std::string after;
};

bool IsBlank(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }

// What an assistant's turn says came from the model, its control tokens ("</think>") included; other turns are from
// outside.
bool IsFromOutside(const PromptMessage& message) { return message.role != "assistant"; }

// Bytes of the control token that begins at `pos`; 0: there is none. Tokens that a file does not flag special count,
// too: DeepSeek's "<｜User｜>" is such a one. Not so blanks and single letters (deepseek-coder has "ö"): anybody may
// write them, and a mark beside a blank would stop a template's trim.
size_t ControlTokenAt(std::string_view text, size_t pos, const Tokenizer& tokenizer) {
  const AddedTokenMatch match = tokenizer.AddedTokenAt(text, pos);
  if (match.id < 0 || tokenizer.IsSpecial(match.id)) return match.length;
  const std::string_view token = text.substr(pos, match.length);
  size_t first_end = 0;
  DecodeUtf8(token, &first_end);
  return first_end == token.size() || std::all_of(token.begin(), token.end(), IsBlank) ? 0 : token.size();
}

bool HasControlToken(std::string_view text, const Tokenizer& tokenizer) {
  for (size_t pos = 0; pos < text.size(); ++pos) {
    if (ControlTokenAt(text, pos, tokenizer) > 0) return true;
  }
  return false;
}

// Marks that no message has itself.
absl::StatusOr<Marks> ChooseMarks(const PromptChat& chat) {
  Marks marks;
  for (char32_t code = kMarkFirst; code <= kMarkLast; ++code) {
    std::string mark;
    AppendUtf8(code, &mark);
    const auto has_it = [&](const PromptMessage& message) { return absl::StrContains(message.content, mark); };
    if (std::any_of(chat.messages.begin(), chat.messages.end(), has_it)) continue;
    if (!marks.before.empty()) {
      marks.after = mark;
      return marks;
    }
    marks.before = mark;
  }
  return absl::InvalidArgumentError("content uses all Unicode noncharacters U+FDD0 to U+FDEF; remove some");
}

// Tokens stay whole and keep their place at the beginning or end, because templates look there: Qwen3's asks for
// content.startswith('<tool_response>') and content.endswith('</tool_response>'). So a token that begins the content
// has its mark behind it, all others in front.
std::string MarkControlTokens(std::string_view content, const Tokenizer& tokenizer, const Marks& marks) {
  std::string out;
  bool at_start = true;
  for (size_t pos = 0; pos < content.size();) {
    const size_t length = ControlTokenAt(content, pos, tokenizer);
    if (length == 0) {
      at_start = at_start && IsBlank(content[pos]);
      out += content[pos++];
      continue;
    }
    if (!at_start) out += marks.before;
    out += content.substr(pos, length);
    if (at_start) out += marks.after;
    at_start = false;
    pos += length;
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
                                                  const Marks& marks) {
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
  bool is_text = false;  // What is next, because of a mark in front of it.
  for (size_t pos = 0; pos < rendered.size();) {
    const std::string_view rest = rendered.substr(pos);
    if (rest.starts_with(marks.before) || rest.starts_with(marks.after)) {
      is_text = rest.starts_with(marks.before);
      pos += marks.before.size();  // Both have three bytes.
      continue;
    }
    const AddedTokenMatch token = tokenizer.AddedTokenAt(rendered, pos);
    if (token.id >= 0 && !is_text && !rest.substr(token.length).starts_with(marks.after)) {
      RETURN_IF_ERROR(flush());
      ids.push_back(token.id);
    } else {
      plain += rest.substr(0, std::max<size_t>(token.length, 1));
    }
    pos += std::max<size_t>(token.length, 1);
    is_text = false;
  }
  RETURN_IF_ERROR(flush());
  return ids;
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const PromptChat& chat, const Tokenizer& tokenizer,
                                                const ChatRenderer& render) {
  if (!render) {
    return absl::InvalidArgumentError("the model has no chat template; send text or token_ids instead");
  }
  const bool hostile = std::any_of(chat.messages.begin(), chat.messages.end(), [&](const PromptMessage& message) {
    return IsFromOutside(message) && HasControlToken(message.content, tokenizer);
  });
  if (!hostile) {
    ASSIGN_OR_RETURN(const std::string rendered, render(chat));
    return tokenizer.Encode(rendered, {.add_special_tokens = false, .parse_special = true});
  }
  ASSIGN_OR_RETURN(const Marks marks, ChooseMarks(chat));
  PromptChat marked = chat;
  for (PromptMessage& message : marked.messages) {
    if (IsFromOutside(message)) message.content = MarkControlTokens(message.content, tokenizer, marks);
  }
  ASSIGN_OR_RETURN(const std::string rendered, render(marked));
  return EncodeMarked(rendered, tokenizer, marks);
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
