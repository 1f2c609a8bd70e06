// A whole GGUF file as bytes: header, configuration, tokenizer, blocks. What is accepted must hold together.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "model/config.h"
#include "model/gguf.h"
#include "model/gguf_blocks.h"
#include "model/gguf_config.h"
#include "model/tokenizer.h"
#include "model/tokenizer_gguf.h"

namespace {

void CheckTensors(const shoal::GgufHeader& header, const uint8_t* data, size_t size) {
  uint64_t next = 0;
  for (const shoal::StoredTensor& tensor : header.tensors) {
    if (tensor.begin < next || tensor.end <= tensor.begin || tensor.begin % header.alignment != 0) std::abort();
    if (header.data_offset + tensor.end > size) std::abort();
    if (header.Find(tensor.name) != &tensor) std::abort();
    next = tensor.end;
    uint64_t count = 1;
    for (const uint64_t length : tensor.shape) count *= length;
    if (static_cast<uint64_t>(tensor.type.Bytes(static_cast<int64_t>(count))) != tensor.bytes()) std::abort();
    if (!shoal::IsGgufBlockType(tensor.type)) continue;
    std::vector<float> floats(count);
    const auto* blocks = reinterpret_cast<const std::byte*>(data + header.data_offset + tensor.begin);
    shoal::DecodeBlocks(tensor.type, blocks, static_cast<int64_t>(count), floats.data());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto header = shoal::ParseGguf(std::as_bytes(std::span(data, size)), "fuzz");
  if (!header.ok()) return 0;
  CheckTensors(*header, data, size);
  const auto find = [&](std::string_view name) { return header->Find(name); };
  const auto read = [&](const shoal::StoredTensor& tensor, std::span<std::byte> out) {
    if (out.size() != tensor.bytes()) std::abort();
    std::memcpy(out.data(), data + header->data_offset + tensor.begin, out.size());
    return absl::OkStatus();
  };
  if (const auto config = shoal::ReadGgufConfig(header->metadata, find, read); config.ok()) {
    const auto model = shoal::ParseModelConfig(config->config.dump(), config->generation.dump(), "fuzz");
    if (model.ok() && (model->shape.layers < 1 || model->shape.head_dim % 2 != 0)) std::abort();
  }
  if (const auto paired = shoal::GgufPairedHeadSize(header->metadata); paired.ok() && *paired % 2 != 0) std::abort();
  if (auto spec = shoal::ReadGgufTokenizer(header->metadata); spec.ok()) {
    const auto tokenizer = shoal::Tokenizer::Create(*std::move(spec));
    if (tokenizer.ok()) (void)(*tokenizer)->Encode("Hello, 12 words <s>\n");
  }
  const auto copy_bytes = header->metadata.FileWithoutTensors();
  if (!shoal::ParseGguf(std::as_bytes(std::span(copy_bytes)), "copy").ok()) std::abort();
  return 0;
}
