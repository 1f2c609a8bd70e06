// Protobuf text format, read so that a person can mend a file in one go: every error is reported, not only the first.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "google/protobuf/message.h"

namespace shoal {

// A place in a text, from 1.
struct TextPlace {
  int line = 1;
  int column = 1;
};

struct TextError {
  TextPlace place;
  std::string message;
};

// Reports stop after this many.
inline constexpr size_t kTextErrorsMax = 50;

struct TextConfig {
  std::vector<TextError> errors;            // Empty: the whole text was understood. In order of place.
  std::map<std::string, TextPlace> places;  // Of every field that was set, by path: "plan.stages[1].ranks".
};

// Fills `out` from `text`. Fields that are wrong stay unset, the others are set. Unknown names come with the nearest
// known one. Understood: `name: value`, `name { ... }`, `name: [a, b]`, comments from # to the end of the line,
// adjacent strings.
TextConfig ParseTextConfig(std::string_view text, google::protobuf::Message* out);

// "; did you mean 'x'?" for the candidate nearest to `word`, or nothing if none is near.
std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace shoal
