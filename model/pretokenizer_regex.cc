#include "model/pretokenizer_regex.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

constexpr size_t kPatternBytesMax = 1 << 16;

// White_Space, which is what `\s` means to Oniguruma; PCRE2's also has U+180E.
constexpr std::string_view kSpaces =
    R"(\x{09}-\x{0d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpaces =
    R"(\x{00}-\x{08}\x{0e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view kWordChars = R"(\p{L}\p{M}\p{N}\p{Pc})";

absl::Status Unsupported(std::string_view construct, size_t offset) {
  return absl::InvalidArgumentError(
      StrCat("expression uses ", construct, " at offset ", offset, ", which is not supported"));
}

// Walks an expression once, copying it with the rewrites.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (pos_ < pattern_.size()) {
      const char c = pattern_[pos_];
      if (c == '\\') {
        RETURN_IF_ERROR(Escape());
      } else if (in_class_) {
        RETURN_IF_ERROR(ClassChar(c));
      } else {
        RETURN_IF_ERROR(PlainChar(c));
      }
    }
    return std::move(out_);
  }

 private:
  char At(size_t i) const { return i < pattern_.size() ? pattern_[i] : '\0'; }

  void Copy(size_t count) {
    out_.append(pattern_.substr(pos_, count));
    pos_ += count;
  }

  absl::Status PlainChar(char c) {
    if (c == '[') {
      in_class_ = true;
      Copy(1);
      if (At(pos_) == '^') Copy(1);
      if (At(pos_) == ']') Copy(1);
      return absl::OkStatus();
    }
    if (c == '(' && At(pos_ + 1) == '?') return Group();
    if (c == '(' && At(pos_ + 1) == '*') return Unsupported("a verb '(*'", pos_);
    // In Ruby syntax a '+' after a counted repeat repeats it, in PCRE2 it makes it possessive.
    if (c == '}' && At(pos_ + 1) == '+') return Unsupported("'{n,m}+'", pos_);
    Copy(1);
    return absl::OkStatus();
  }

  // "(?:", "(?=" and the like are the same to both; options are not. Ruby's `m` lets '.' match a newline, which is `s`
  // here; options without a group, as in "a(?i)b|c", reach over the '|' there and not here.
  absl::Status Group() {
    const size_t begin = pos_;
    Copy(2);
    if (std::string_view(":=!><").find(At(pos_)) != std::string_view::npos) return absl::OkStatus();
    std::string seen;
    for (; At(pos_) != ':' && At(pos_) != ')'; ++pos_) {
      const char c = At(pos_);
      const bool is_known = c == 'i' || c == 'm' || c == 'x' || c == '-';
      if (!is_known || seen.find(c) != std::string::npos) {  // "xx" is more than "x" here.
        return Unsupported(StrCat("'(?", pattern_.substr(begin + 2, pos_ + 1 - begin - 2), "'"), begin);
      }
      seen += c;
      out_ += c == 'm' ? 's' : c;
    }
    if (At(pos_) == ')' && begin != 0) return Unsupported("options without a group", begin);
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status ClassChar(char c) {
    if (c == '[' && At(pos_ + 1) != ':') return Unsupported("a class within a class", pos_);
    if (c == '&' && At(pos_ + 1) == '&') return Unsupported("class intersection '&&'", pos_);
    if (c == '[') {  // [:name:]
      const size_t end = pattern_.find(":]", pos_ + 2);
      if (end == std::string_view::npos) return Unsupported("an unclosed '[:'", pos_);
      Copy(end + 2 - pos_);
      return absl::OkStatus();
    }
    if (c == ']') in_class_ = false;
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Escape() {
    const char c = At(pos_ + 1);
    switch (c) {
      case 's':
        return Replace(in_class_ ? std::string(kSpaces) : StrCat("[", kSpaces, "]"));
      case 'S':
        return Replace(in_class_ ? std::string(kNotSpaces) : StrCat("[^", kSpaces, "]"));
      case 'w':
        return Replace(in_class_ ? std::string(kWordChars) : StrCat("[", kWordChars, "]"));
      case 'W':
        if (in_class_) return Unsupported("'\\W' within a class", pos_);
        return Replace(StrCat("[^", kWordChars, "]"));
      case 'p':
      case 'P':
        return Property();
      case '\0':
        return Unsupported("a lone '\\'", pos_);
      default:
        break;
    }
    if (std::string_view("hHRXKGOyYgkNcCQEM").find(c) != std::string_view::npos) {
      return Unsupported(StrCat("'\\", std::string(1, c), "'"), pos_);
    }
    Copy(2);
    return absl::OkStatus();
  }

  absl::Status Replace(std::string with) {
    out_ += with;
    pos_ += 2;
    return absl::OkStatus();
  }

  // \p{Han} is a script to Oniguruma and script extensions to PCRE2. One or two letters are a general category.
  absl::Status Property() {
    const size_t end = pattern_.find('}', pos_);
    if (At(pos_ + 2) != '{' || end == std::string_view::npos) return Unsupported("'\\p' without '{...}'", pos_);
    std::string_view name = pattern_.substr(pos_ + 3, end - pos_ - 3);
    const bool negated = !name.empty() && name[0] == '^';
    if (negated) name.remove_prefix(1);
    const bool is_script = name.size() > 2 && name != "Any";
    out_ +=
        StrCat("\\", std::string(1, pattern_[pos_ + 1]), "{", negated ? "^" : "", is_script ? "sc:" : "", name, "}");
    pos_ = end + 1;
    return absl::OkStatus();
  }

  std::string_view pattern_;
  size_t pos_ = 0;
  bool in_class_ = false;
  std::string out_;
};

std::string Pcre2Message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// Stops an expression that is slow at every position without reaching the limit of one match. Counts the time of
// matches only, not that of the words' receiver.
class TimeBound {
 public:
  explicit TimeBound(size_t text_bytes)
      : left_(std::min<Clock::duration>(std::chrono::seconds(5),
                                        std::chrono::seconds(1) + std::chrono::microseconds(20 * text_bytes))) {}
  void Start() { start_ = Clock::now(); }
  // Ends what Start began.
  bool Exceeded() {
    left_ -= Clock::now() - start_;
    return left_ < Clock::duration::zero();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::duration left_;
  Clock::time_point start_;
};

// The state of one scan; a match context and its stack are not shared by threads.
struct Scan {
  explicit Scan(const pcre2_code* code, size_t text_bytes)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)), context(pcre2_match_context_create(nullptr)) {
    if (data == nullptr || context == nullptr) return;
    pcre2_set_match_limit(context, static_cast<uint32_t>(10'000'000 + 8 * text_bytes));
    pcre2_set_heap_limit(context, 64 << 10);  // KiB; used without JIT only.
    if (text_bytes > 4096) {                  // The 32 KiB that JIT code takes from our stack are enough for less.
      stack = pcre2_jit_stack_create(64 << 10, 16 << 20, nullptr);
      if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
    }
  }
  Scan(const Scan&) = delete;
  Scan& operator=(const Scan&) = delete;
  ~Scan() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack = nullptr;
};

size_t NextCharacter(std::string_view text, size_t pos) {
  do ++pos;
  while (pos < text.size() && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

}  // namespace

absl::StatusOr<std::string> TranslateRegex(std::string_view pattern) {
  if (pattern.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(StrCat("expression is longer than ", kPatternBytesMax, " bytes"));
  }
  return Translator(pattern).Run();
}

struct Regex::Impl {
  explicit Impl(pcre2_code* compiled) : code(compiled) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { pcre2_code_free(code); }
  pcre2_code* code;
};

Regex::Regex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern, bool is_literal) {
  std::string translated(pattern);
  if (!is_literal) {
    ASSIGN_OR_RETURN(translated, TranslateRegex(pattern));
  }
  // Ruby's '^' and '$' are those of lines.
  const uint32_t options =
      PCRE2_UTF | (is_literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), options, &error,
                                   &offset, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(StrCat("expression is not valid: ", Pcre2Message(error), " at offset ", offset,
                                             " of '", translated.substr(0, 200), "'"));
  }
  // Where the system forbids code generation this fails and matching is interpreted: slower, and the same.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return Regex(std::make_unique<Impl>(code));
}

absl::Status Regex::ForEachPart(std::string_view text,
                                absl::FunctionRef<absl::Status(std::string_view, bool)> on_part) const {
  Scan scan(impl_->code, text.size());
  if (scan.data == nullptr || scan.context == nullptr) return absl::ResourceExhaustedError("out of memory for a match");
  TimeBound time(text.size());
  size_t done = 0;   // Everything before has been handed out.
  size_t start = 0;  // Where the next search begins.
  while (start <= text.size()) {
    time.Start();
    const int count = pcre2_match(impl_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                                  PCRE2_NO_UTF_CHECK, scan.data, scan.context);
    const bool too_slow = time.Exceeded();
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0 || too_slow) {
      return absl::ResourceExhaustedError(StrCat("the tokenizer's expression takes too long on this text near byte ",
                                                 start, " (", count < 0 ? Pcre2Message(count) : "time limit", ")"));
    }
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scan.data);
    const size_t first = offsets[0];
    const size_t last = offsets[1];
    if (first >= last) {  // Empty (or, with \K, backwards): it splits where it is, but not right after a match.
      if (first > done) {
        RETURN_IF_ERROR(on_part(text.substr(done, first - done), false));
        done = first;
      }
      start = NextCharacter(text, std::max(first, start));
      continue;
    }
    if (first > done) RETURN_IF_ERROR(on_part(text.substr(done, first - done), false));
    RETURN_IF_ERROR(on_part(text.substr(first, last - first), true));
    done = start = last;
  }
  return done < text.size() ? on_part(text.substr(done), false) : absl::OkStatus();
}

}  // namespace shoal
