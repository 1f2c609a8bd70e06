// A whole safetensors file as bytes. What is accepted must hold together.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto header = shoal::ParseSafetensors(std::as_bytes(std::span(data, size)), "fuzz");
  if (!header.ok()) return 0;
  uint64_t total = 0;
  for (const shoal::SafetensorsTensor& tensor : header->tensors) {
    if (tensor.end < tensor.begin || header->data_offset + tensor.end > size) std::abort();
    if (header->Find(tensor.name) != &tensor) std::abort();
    total += tensor.bytes();
  }
  if (header->data_offset + total != size) std::abort();
  return 0;
}
