#include "model/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace shoal::jinja {
namespace {

constexpr std::array<std::string_view, 25> kOperators = {"**", "//", "==", "!=", "<=", ">=", "(", ")", "[",
                                                         "]",  "{",  "}",  "|",  "~",  ".",  ",", ":", "+",
                                                         "-",  "*",  "/",  "%",  "=",  "<",  ">"};

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < source_.size()) RETURN_IF_ERROR(Text());
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(pos_); }
  bool StartsWith(std::string_view prefix) const { return Rest().substr(0, prefix.size()) == prefix; }
  void Add(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void Skip(size_t count) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(pos_),
                                         source_.begin() + static_cast<ptrdiff_t>(pos_ + count), '\n'));
    pos_ += count;
  }

  // Where the next tag begins, or the end.
  size_t FindTag(size_t from) const {
    for (size_t i = source_.find('{', from); i != std::string::npos; i = source_.find('{', i + 1)) {
      const char next = i + 1 < source_.size() ? source_[i + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return source_.size();
  }

  // The text up to the tag at `end`, as the tag's white space rules leave it.
  void EmitText(size_t end) {
    std::string_view text = std::string_view(source_).substr(pos_, end - pos_);
    if (end < source_.size()) {
      const char kind = source_[end + 1];
      const char control = end + 2 < source_.size() ? source_[end + 2] : '\0';
      if (control == '-') {
        while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
      } else if (kind != '{' && control != '+') {  // lstrip_blocks: spaces between the line's start and the tag.
        size_t keep = text.size();
        while (keep > 0 && IsSpace(text[keep - 1]) && text[keep - 1] != '\n') --keep;
        const bool line_start = keep > 0 ? text[keep - 1] == '\n' : (pos_ == 0 || source_[pos_ - 1] == '\n');
        if (line_start) text = text.substr(0, keep);
      }
    }
    if (!text.empty()) Add(Token::Kind::kText, std::string(text));
    Skip(end - pos_);
  }

  // After a tag: drops all white space ("-") or, after blocks and comments, one newline (trim_blocks).
  void AfterTag(char control, bool is_block) {
    if (control == '-') {
      size_t count = 0;
      while (pos_ + count < source_.size() && IsSpace(source_[pos_ + count])) ++count;
      Skip(count);
    } else if (is_block && control != '+' && StartsWith("\n")) {
      Skip(1);
    }
  }

  absl::Status Text() {
    const size_t tag = FindTag(pos_);
    EmitText(tag);
    if (tag == source_.size()) return absl::OkStatus();
    const char kind = source_[pos_ + 1];
    if (kind == '#') return Comment();
    const int begin_line = line_;
    Add(kind == '%' ? Token::Kind::kBlockBegin : Token::Kind::kPrintBegin, "");
    Skip(2);
    if (pos_ < source_.size() && (source_[pos_] == '-' || source_[pos_] == '+')) Skip(1);
    if (kind == '%' && IsRaw()) return Raw(begin_line);
    return Code(kind == '%', begin_line);
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", pos_ + 2);
    if (end == std::string::npos) return TemplateError(line_, "a comment '{#' is not closed");
    const char control = end > pos_ + 2 ? source_[end - 1] : '\0';
    Skip(end + 2 - pos_);
    AfterTag(control == '-' || control == '+' ? control : '\0', true);
    return absl::OkStatus();
  }

  // pos_ is after "{%"; the tag is "raw".
  bool IsRaw() const {
    std::string_view rest = Rest();
    while (!rest.empty() && IsSpace(rest[0])) rest.remove_prefix(1);
    if (rest.substr(0, 3) != "raw") return false;
    rest.remove_prefix(3);
    while (!rest.empty() && (IsSpace(rest[0]) || rest[0] == '-' || rest[0] == '+')) rest.remove_prefix(1);
    return rest.substr(0, 2) == "%}";
  }

  absl::Status Raw(int begin_line) {
    tokens_.pop_back();  // The block begin.
    const size_t open_end = source_.find("%}", pos_);
    const char control = source_[open_end - 1];
    Skip(open_end + 2 - pos_);
    AfterTag(control == '-' ? '-' : '\0', true);
    for (size_t tag = source_.find("{%", pos_); tag != std::string::npos; tag = source_.find("{%", tag + 2)) {
      size_t i = tag + 2;
      while (i < source_.size() && (IsSpace(source_[i]) || source_[i] == '-' || source_[i] == '+')) ++i;
      if (source_.compare(i, 6, "endraw") != 0) continue;
      const size_t end = source_.find("%}", i);
      if (end == std::string::npos) break;
      EmitText(tag);
      const char closing = source_[end - 1];
      Skip(end + 2 - pos_);
      AfterTag(closing == '-' ? '-' : '\0', true);
      return absl::OkStatus();
    }
    return TemplateError(begin_line, "'{% raw %}' is not closed by '{% endraw %}'");
  }

  absl::Status Code(bool is_block, int begin_line) {
    const std::string_view end = is_block ? "%}" : "}}";
    int braces = 0;
    while (true) {
      while (pos_ < source_.size() && IsSpace(source_[pos_])) Skip(1);
      if (pos_ >= source_.size()) {
        return TemplateError(begin_line, StrCat("the tag '", is_block ? "{%" : "{{", "' is not closed by '", end, "'"));
      }
      const bool controlled = (source_[pos_] == '-' || source_[pos_] == '+') && Rest().substr(1, 2) == end;
      if (controlled || (StartsWith(end) && braces == 0)) {
        const char control = controlled ? source_[pos_] : '\0';
        Add(is_block ? Token::Kind::kBlockEnd : Token::Kind::kPrintEnd, "");
        Skip(controlled ? 3 : 2);
        AfterTag(control, is_block);
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(CodeToken());
      if (tokens_.back().kind == Token::Kind::kOperator) {
        braces += tokens_.back().text == "{" ? 1 : tokens_.back().text == "}" && braces > 0 ? -1 : 0;
      }
    }
  }

  absl::Status CodeToken() {
    const char c = source_[pos_];
    if (absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_') {
      size_t end = pos_;
      while (end < source_.size() &&
             (absl::ascii_isalnum(static_cast<unsigned char>(source_[end])) || source_[end] == '_')) {
        ++end;
      }
      Add(Token::Kind::kName, source_.substr(pos_, end - pos_));
      Skip(end - pos_);
      return absl::OkStatus();
    }
    if (absl::ascii_isdigit(static_cast<unsigned char>(c))) return Number();
    if (c == '\'' || c == '"') return String(c);
    for (const std::string_view op : kOperators) {
      if (!StartsWith(op)) continue;
      Add(Token::Kind::kOperator, std::string(op));
      Skip(op.size());
      return absl::OkStatus();
    }
    size_t next = pos_;
    DecodeUtf8(source_, &next);
    return TemplateError(line_, StrCat("unexpected character '", source_.substr(pos_, next - pos_), "'"));
  }

  absl::Status Number() {
    size_t end = pos_;
    bool is_float = false;
    const auto digits = [&] {
      while (end < source_.size() &&
             (absl::ascii_isdigit(static_cast<unsigned char>(source_[end])) || source_[end] == '_')) {
        ++end;
      }
    };
    digits();
    if (end + 1 < source_.size() && source_[end] == '.' &&
        absl::ascii_isdigit(static_cast<unsigned char>(source_[end + 1]))) {
      is_float = true;
      ++end;
      digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (exponent < source_.size() && absl::ascii_isdigit(static_cast<unsigned char>(source_[exponent]))) {
        is_float = true;
        end = exponent;
        digits();
      }
    }
    std::string text = absl::StrReplaceAll(source_.substr(pos_, end - pos_), {{"_", ""}});
    if (text.size() > 18) return TemplateError(line_, StrCat("the number ", text.substr(0, 32), " is too long"));
    Add(is_float ? Token::Kind::kFloat : Token::Kind::kInt, std::move(text));
    Skip(end - pos_);
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    const int begin_line = line_;
    std::string text;
    size_t i = pos_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\') {
        text.push_back(source_[i]);
        continue;
      }
      if (++i >= source_.size()) break;
      RETURN_IF_ERROR(Escape(&i, &text));
    }
    if (i >= source_.size()) return TemplateError(begin_line, "a string is not closed");
    Add(Token::Kind::kString, std::move(text));
    Skip(i + 1 - pos_);
    return absl::OkStatus();
  }

  // Python's escapes; *i is at the character after the backslash, and at the last one of the escape afterwards.
  absl::Status Escape(size_t* i, std::string* text) {
    static constexpr std::string_view kNames = "nrtbfav0\\'\"";
    static constexpr std::string_view kValues("\n\r\t\b\f\a\v\0\\'\"", 11);
    const char c = source_[*i];
    if (c == '\n') return absl::OkStatus();  // A line continuation.
    if (const size_t known = kNames.find(c); known != std::string_view::npos) {
      text->push_back(kValues[known]);
      return absl::OkStatus();
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {  // Python keeps the backslash.
      text->push_back('\\');
      text->push_back(c);
      return absl::OkStatus();
    }
    char32_t code = 0;
    for (size_t d = 0; d < digits; ++d) {
      const char h = ++*i < source_.size() ? source_[*i] : '\0';
      if (!absl::ascii_isxdigit(static_cast<unsigned char>(h)))
        return TemplateError(line_, "a '\\x' or '\\u' escape is cut short");
      code = code * 16 + static_cast<char32_t>(h <= '9' ? h - '0' : (h | 0x20) - 'a' + 10);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
      return TemplateError(line_, "an escape is no Unicode character");
    AppendUtf8(code, text);
    return absl::OkStatus();
  }

  std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status TemplateError(int line, std::string_view what) {
  return absl::InvalidArgumentError(StrCat("template line ", line, ": ", what));
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  if (const size_t bad = FindInvalidUtf8(source); bad != std::string_view::npos) {
    return absl::InvalidArgumentError(StrCat("the template is not valid UTF-8 at byte ", bad));
  }
  std::string text = absl::StrReplaceAll(ToAbsl(source), {{"\r\n", "\n"}, {"\r", "\n"}});
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return Lexer(std::move(text)).Run();
}

}  // namespace shoal::jinja
