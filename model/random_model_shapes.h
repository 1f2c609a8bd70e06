// The configurations behind WriteRandomModel.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

// The files of one shape, beside the weights.
struct RandomModelFiles {
  std::string config;            // config.json
  std::string generation;        // generation_config.json
  std::string tokenizer;         // tokenizer.json
  std::string tokenizer_config;  // tokenizer_config.json
};

// Names in the order of size.
std::vector<std::string_view> RandomModelShapeNames();

// Nothing for an unknown name. `dtype` as config.json spells it: "bfloat16" or "float32".
std::optional<RandomModelFiles> MakeRandomModelFiles(std::string_view shape, std::string_view dtype);

}  // namespace shoal
