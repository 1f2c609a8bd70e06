#include "server/text_stream.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace shoal {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop)
    : stops_(std::move(stops)), include_stop_(include_stop) {
  for (const std::string& stop : stops_) {
    SHOAL_CHECK(!stop.empty());
    Automaton automaton;
    automaton.fall_back.assign(stop.size() + 1, 0);
    for (size_t i = 1, border = 0; i < stop.size(); ++i) {
      while (border > 0 && stop[i] != stop[border]) border = automaton.fall_back[border];
      if (stop[i] == stop[border]) ++border;
      automaton.fall_back[i + 1] = border;
    }
    automata_.push_back(std::move(automaton));
  }
}

std::string StopMatcher::Push(std::string_view piece, bool may_stop) {
  if (matched()) return "";
  if (!may_stop) {
    SHOAL_CHECK(held_.empty());  // Text that may stop never comes before text that may not.
    return std::string(piece);
  }
  const size_t before = held_.size();
  held_.append(piece);
  for (size_t i = before; i < held_.size() && !matched(); ++i) {
    for (size_t s = 0; s < stops_.size(); ++s) {
      const std::string& stop = stops_[s];
      Automaton& automaton = automata_[s];
      while (automaton.length > 0 && held_[i] != stop[automaton.length]) {
        automaton.length = automaton.fall_back[automaton.length];
      }
      if (held_[i] == stop[automaton.length]) ++automaton.length;
      if (automaton.length == stop.size()) {
        matched_ = static_cast<int>(s);
        held_.resize(include_stop_ ? i + 1 : i + 1 - stop.size());
        return std::exchange(held_, "");
      }
    }
  }
  size_t hold = 0;
  for (const Automaton& automaton : automata_) hold = std::max(hold, automaton.length);
  std::string sure = held_.substr(0, held_.size() - hold);
  held_.erase(0, sure.size());
  return sure;
}

std::string StopMatcher::Finish() {
  for (Automaton& automaton : automata_) automaton.length = 0;
  return std::exchange(held_, "");
}

TextStream::TextStream(const Tokenizer* tokenizer, TextStreamOptions options)
    : decoder_(tokenizer, options.skip_special_tokens),
      matcher_(std::move(options.stops), options.include_stop),
      include_stop_(options.include_stop),
      min_tokens_(options.min_tokens) {}

std::string TextStream::Push(int32_t token) {
  SHOAL_CHECK(!stopped());
  ++tokens_;
  const absl::StatusOr<std::string> piece = decoder_.Push(token);
  if (!piece.ok()) return "";
  return matcher_.Push(*piece, tokens_ > min_tokens_);
}

std::string TextStream::Finish() {
  if (stopped()) return "";
  std::string text = matcher_.Push(decoder_.Finish(), tokens_ > min_tokens_);
  text += matcher_.Finish();
  return text;
}

}  // namespace shoal
