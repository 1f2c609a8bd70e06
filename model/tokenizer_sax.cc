#include "model/tokenizer_sax.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/str_cat.h"

namespace shoal {
namespace {

constexpr size_t kDepthMax = 64;
constexpr size_t kTreeValuesMax = 2'000'000;
constexpr size_t kMergesMax = size_t{1} << 22;

// The callbacks of nlohmann::json::sax_parse; false stops the parse, with `error_` set.
class TokenizerSax : public Json::json_sax_t {
 public:
  explicit TokenizerSax(TokenizerJson* out) : out_(out) {}
  const std::string& error() const { return error_; }

  bool null() override { return Value(nullptr); }
  bool boolean(bool value) override { return Value(value); }
  bool number_integer(number_integer_t value) override { return mode_ == Mode::kVocab ? Token(value) : Value(value); }
  bool number_unsigned(number_unsigned_t value) override {
    return mode_ == Mode::kVocab ? Token(static_cast<int64_t>(std::min<uint64_t>(value, INT64_MAX))) : Value(value);
  }
  bool number_float(number_float_t value, const string_t&) override { return Value(value); }
  bool string(string_t& value) override {
    if (mode_ == Mode::kMerges) return MergeString(value);
    if (mode_ == Mode::kMergePair) return MergePart(std::move(value));
    return Value(std::move(value));
  }
  bool binary(binary_t&) override { return Fail("has binary data"); }

  bool start_object(std::size_t) override {
    if (mode_ != Mode::kTree) return Misplaced();
    if (At("vocab")) {
      if (out_->has_vocab) return Fail("key 'model.vocab' appears twice");
      out_->has_vocab = true;
      mode_ = Mode::kVocab;
      return true;
    }
    return Open(Json::object());
  }
  bool key(string_t& name) override {
    key_ = std::move(name);
    if (mode_ == Mode::kVocab) return true;
    if (stack_.back()->contains(key_)) return Fail(StrCat("key '", key_.substr(0, 64), "' appears twice"));
    return true;
  }
  bool end_object() override { return Close(Mode::kVocab); }
  bool start_array(std::size_t) override {
    if (mode_ == Mode::kMerges) {
      mode_ = Mode::kMergePair;
      parts_.clear();
      return true;
    }
    if (mode_ != Mode::kTree) return Misplaced();
    if (At("merges")) {
      if (has_merges_) return Fail("key 'model.merges' appears twice");
      has_merges_ = true;
      mode_ = Mode::kMerges;
      return true;
    }
    return Open(Json::array());
  }
  bool end_array() override {
    if (mode_ == Mode::kMergePair) {
      mode_ = Mode::kMerges;
      if (parts_.size() != 2) return BadMerge();
      return AddMerge(std::move(parts_[0]), std::move(parts_[1]));
    }
    return Close(Mode::kMerges);
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(StrCat("is not valid JSON near byte ", position));
  }

 private:
  enum class Mode { kTree, kVocab, kMerges, kMergePair };

  bool Fail(std::string message) {
    if (error_.empty()) error_ = std::move(message);
    return false;
  }
  bool BadMerge() {
    return Fail(StrCat("model.merges[", out_->spec.merges.size(), "] must be two tokens, \"a b\" or [\"a\", \"b\"]"));
  }
  bool Misplaced() {
    if (mode_ == Mode::kVocab)
      return Fail(StrCat("model.vocab: the id of '", key_.substr(0, 64), "' must be an integer"));
    return BadMerge();
  }
  // The value about to come is model.`name`.
  bool At(std::string_view name) const {
    return stack_.size() == 2 && key_ == name && stack_[0]->is_object() && in_model_;
  }

  template <typename T>
  bool Value(T&& value) {
    if (mode_ != Mode::kTree) return Misplaced();
    return Insert(Json(std::forward<T>(value))) != nullptr;
  }

  Json* Insert(Json value) {
    if (++values_ > kTreeValuesMax) {
      Fail(StrCat("has more than ", kTreeValuesMax, " values outside of the vocabulary"));
      return nullptr;
    }
    if (stack_.empty()) {
      out_->rest = std::move(value);
      return &out_->rest;
    }
    Json* parent = stack_.back();
    if (parent->is_array()) {
      parent->push_back(std::move(value));
      return &parent->back();
    }
    return &(*parent)[key_].operator=(std::move(value));
  }

  bool Open(Json empty) {
    if (stack_.size() >= kDepthMax) return Fail(StrCat("nesting is deeper than ", kDepthMax));
    if (stack_.size() == 1) in_model_ = stack_[0]->is_object() && key_ == "model";
    Json* opened = Insert(std::move(empty));
    if (opened == nullptr) return false;
    stack_.push_back(opened);
    return true;
  }
  bool Close(Mode closes) {
    if (mode_ == closes) {
      mode_ = Mode::kTree;
      return true;
    }
    stack_.pop_back();
    return true;
  }

  bool Token(int64_t id) {
    auto& tokens = out_->spec.tokens;
    if (id < 0 || id > kTokenIdMax) {
      return Fail(StrCat("model.vocab: the id of '", key_.substr(0, 64), "' must be in 0..", kTokenIdMax));
    }
    const auto index = static_cast<size_t>(id);
    if (index >= tokens.size()) {
      if (index >= tokens.capacity()) tokens.reserve(std::max<size_t>(2 * tokens.capacity(), index + 1024));
      tokens.resize(index + 1);
    }
    if (!tokens[index].empty()) {
      return Fail(StrCat("model.vocab: id ", id, " belongs to '", tokens[index].substr(0, 64), "' and to '",
                         key_.substr(0, 64), "'"));
    }
    tokens[index] = std::move(key_);
    return true;
  }

  bool MergeString(const std::string& text) {
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return BadMerge();
    return AddMerge(text.substr(0, space), text.substr(space + 1));
  }
  bool MergePart(std::string part) {
    if (parts_.size() >= 2) return BadMerge();
    parts_.push_back(std::move(part));
    return true;
  }
  bool AddMerge(std::string left, std::string right) {
    auto& merges = out_->spec.merges;
    if (left.empty() || right.empty()) return BadMerge();
    if (merges.size() >= kMergesMax) return Fail(StrCat("model.merges has more than ", kMergesMax, " entries"));
    if (merges.empty()) merges.reserve(1 << 17);
    merges.emplace_back(std::move(left), std::move(right));
    return true;
  }

  TokenizerJson* out_;
  std::string error_;
  Mode mode_ = Mode::kTree;
  bool in_model_ = false;
  bool has_merges_ = false;
  size_t values_ = 0;
  std::string key_;           // The last key seen.
  std::vector<Json*> stack_;  // Open objects and arrays. A parent does not change while its child is open.
  std::vector<std::string> parts_;
};

}  // namespace

absl::StatusOr<TokenizerJson> ParseTokenizerJsonText(std::string_view text, std::string_view where) {
  TokenizerJson out;
  out.spec.where = std::string(where);
  TokenizerSax sax(&out);
  bool parsed = false;
  try {
    parsed = Json::sax_parse(text.begin(), text.end(), &sax);
  } catch (const Json::exception&) {
    parsed = false;
  }
  if (!parsed) {
    return absl::InvalidArgumentError(StrCat(where, ": ", sax.error().empty() ? "is not valid JSON" : sax.error()));
  }
  return out;
}

}  // namespace shoal
