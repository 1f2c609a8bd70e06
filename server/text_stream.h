// The tokens of one stream become text: whole characters only, cut at stop strings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/detokenizer.h"
#include "model/tokenizer.h"

namespace shoal {

// Finds the first of several stop strings in a text that comes in pieces. The outcome does not depend on where the
// pieces are cut: the match that ends first wins; of those that end at the same byte the first in the list.
class StopMatcher {
 public:
  // Stops are not empty. `include_stop`: the text keeps the stop string at its end.
  StopMatcher(std::vector<std::string> stops, bool include_stop);

  // Returns the text that is now sure to be sent. What could be the start of a stop string is held back. After a match
  // all further text is dropped. With `may_stop` false the piece passes unlooked at, and no later match reaches back
  // into it.
  std::string Push(std::string_view piece, bool may_stop);

  // The text held back; nothing after a match.
  std::string Finish();

  bool matched() const { return matched_ >= 0; }
  // The stop string that was found.
  const std::string& match() const { return stops_[matched_]; }

 private:
  struct Automaton {
    std::vector<size_t> fall_back;  // Of Knuth, Morris, Pratt: longest border of each prefix.
    size_t length = 0;              // Bytes of the stop string that the text ends with.
  };

  const std::vector<std::string> stops_;
  const bool include_stop_;
  std::vector<Automaton> automata_;
  std::string held_;
  int matched_ = -1;
};

struct TextStreamOptions {
  std::vector<std::string> stops;
  bool include_stop = false;
  bool skip_special_tokens = true;
  int min_tokens = 0;  // No stop string is looked for in the text of the first min_tokens tokens.
};

// Used by one thread at a time.
class TextStream {
 public:
  // `tokenizer` must outlive the stream.
  TextStream(const Tokenizer* tokenizer, TextStreamOptions options);

  // Takes the next token; returns the text that is now sure to be sent, perhaps none. Ids that the tokenizer does not
  // know (padding of the vocabulary) have no text. Not to be called once stopped().
  std::string Push(int32_t token);

  // Takes a token that is not to be shown: the stop id at the end.
  void Skip() { ++tokens_; }

  // The rest of the text, an unfinished character as U+FFFD. Nothing comes after.
  std::string Finish();

  bool stopped() const { return matcher_.matched(); }
  const std::string& matched_stop() const { return matcher_.match(); }
  int64_t tokens() const { return tokens_; }
  bool include_stop() const { return include_stop_; }

 private:
  IncrementalDecoder decoder_;
  StopMatcher matcher_;
  const bool include_stop_;
  const int min_tokens_;
  int64_t tokens_ = 0;
};

}  // namespace shoal
