#include "model/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "model/gguf_blocks.h"

namespace shoal {
namespace {

// Bounds on what a file may ask for. The largest real headers, vocabularies of 260,000 tokens, have about 15 MB.
constexpr uint64_t kHeaderBytesMax = uint64_t{256} << 20;
constexpr uint64_t kReadAhead = uint64_t{1} << 20;
constexpr uint64_t kKeyBytesMax = 65535;
constexpr uint64_t kTensorNameBytesMax = 64;
constexpr uint64_t kAlignmentMax = uint64_t{1} << 20;
constexpr uint32_t kDimensionsMax = 4;
// Of one tensor: twice what the largest published models have in all.
constexpr uint64_t kValuesMax = uint64_t{1} << 41;
// The least that a key with its value and the description of a tensor take.
constexpr uint64_t kPairBytesMin = 8 + 1 + 4 + 1;
constexpr uint64_t kTensorBytesMin = 8 + 1 + 4 + 8 + 4 + 8;

// Bytes of a value, or the least of a string.
constexpr uint64_t kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

uint64_t AlignUp(uint64_t offset, uint64_t alignment) { return (offset + alignment - 1) & ~(alignment - 1); }

}  // namespace

// Walks the header from its first byte to its last. Nothing is believed before it is known to fit into the file.
class GgufParser {
 public:
  GgufParser(uint64_t file_bytes, GgufRead read, std::string_view where)
      : file_bytes_(file_bytes), read_(read), metadata_(header_.metadata) {
    metadata_.where_ = std::string(where);
  }

  absl::StatusOr<GgufHeader> Parse() {
    uint64_t tensors = 0, pairs = 0;
    RETURN_IF_ERROR(ReadStart(&tensors, &pairs));
    metadata_.pairs_begin_ = pos_;
    for (uint64_t i = 0; i < pairs; ++i) RETURN_IF_ERROR(ReadPair());
    metadata_.pairs_end_ = pos_;
    RETURN_IF_ERROR(ReadAlignment());
    for (uint64_t i = 0; i < tensors; ++i) RETURN_IF_ERROR(ReadTensor());
    RETURN_IF_ERROR(PlaceTensors());
    metadata_.bytes_.resize(pos_);
    metadata_.bytes_.shrink_to_fit();
    return std::move(header_);
  }

 private:
  absl::Status Damaged(std::string_view what) const {
    return absl::InvalidArgumentError(
        StrCat(metadata_.where_, ": ", what, "; the file is damaged or no GGUF file: download it again"));
  }

  // Reads on, so that the next `count` bytes are at hand.
  absl::Status Need(uint64_t count, std::string_view what) {
    if (count > file_bytes_ - pos_) {
      return Damaged(
          StrCat("at byte ", pos_, ", ", what, " asks for ", count, " bytes, but ", file_bytes_ - pos_, " are left"));
    }
    const uint64_t have = metadata_.bytes_.size(), end = pos_ + count;
    if (end <= have) return absl::OkStatus();
    if (end > kHeaderBytesMax) {
      return Damaged(StrCat("at byte ", pos_, ", ", what, " makes the header longer than ", kHeaderBytesMax, " bytes"));
    }
    const uint64_t more = std::min(std::max(end - have, kReadAhead), file_bytes_ - have);
    metadata_.bytes_.resize(have + more);
    return read_(have, std::as_writable_bytes(std::span(metadata_.bytes_).subspan(have, more)));
  }

  template <typename T>
  absl::StatusOr<T> Number(std::string_view what) {
    RETURN_IF_ERROR(Need(sizeof(T), what));
    T value;
    std::memcpy(&value, metadata_.bytes_.data() + pos_, sizeof(T));
    pos_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::string> Name(std::string_view what, uint64_t bytes_max) {
    const uint64_t begin = pos_;
    ASSIGN_OR_RETURN(const uint64_t length, Number<uint64_t>(what));
    if (length == 0 || length > bytes_max) {
      return Damaged(StrCat("at byte ", begin, ", ", what, " has ", length, " bytes; it must have 1 to ", bytes_max));
    }
    RETURN_IF_ERROR(Need(length, what));
    std::string name = metadata_.bytes_.substr(pos_, length);
    if (!IsPrintable(name)) return Damaged(StrCat("at byte ", begin, ", ", what, " is not plain text"));
    pos_ += length;
    return name;
  }

  absl::Status ReadStart(uint64_t* tensors, uint64_t* pairs) {
    if (file_bytes_ < 24) return Damaged(StrCat("has ", file_bytes_, " bytes, too few for a GGUF header"));
    RETURN_IF_ERROR(Need(4, "the magic number"));
    if (metadata_.bytes_.substr(0, 4) != "GGUF") return Damaged("does not begin with 'GGUF'");
    pos_ = 4;
    ASSIGN_OR_RETURN(const uint32_t version, Number<uint32_t>("the version"));
    if (version != 2 && version != 3) {
      const bool swapped = version != 0 && (version & 0xffff) == 0;
      return absl::UnimplementedError(
          StrCat(metadata_.where_, swapped ? ": is big-endian" : StrCat(": has version ", version, " of GGUF"),
                 "; supported are versions 2 and 3, little-endian: convert the model again with a newer llama.cpp"));
    }
    ASSIGN_OR_RETURN(*tensors, Number<uint64_t>("the number of tensors"));
    ASSIGN_OR_RETURN(*pairs, Number<uint64_t>("the number of keys"));
    const uint64_t left = file_bytes_ - pos_;
    if (*pairs > left / kPairBytesMin || *tensors > left / kTensorBytesMin) {
      return Damaged(StrCat("claims ", *pairs, " keys and ", *tensors, " tensors, more than its ", file_bytes_,
                            " bytes can hold"));
    }
    return absl::OkStatus();
  }

  // Passes over a value, or over `count` of an array.
  absl::Status SkipValues(GgufValueType type, uint64_t count, std::string_view what) {
    const uint64_t size = kValueBytes[static_cast<uint32_t>(type)];
    if (count > (file_bytes_ - pos_) / size) {
      return Damaged(StrCat("at byte ", pos_, ", ", what, " claims ", count, " values, but ", file_bytes_ - pos_,
                            " bytes are left"));
    }
    if (type == GgufValueType::kString) {
      for (uint64_t i = 0; i < count; ++i) {
        ASSIGN_OR_RETURN(const uint64_t length, Number<uint64_t>(what));
        RETURN_IF_ERROR(Need(length, what));
        pos_ += length;
      }
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(Need(count * size, what));
    if (type == GgufValueType::kBool) {
      for (uint64_t i = 0; i < count; ++i) {
        const auto value = static_cast<uint8_t>(metadata_.bytes_[pos_ + i]);
        if (value > 1) return Damaged(StrCat("at byte ", pos_ + i, ", ", what, " has a bool of ", int{value}));
      }
    }
    pos_ += count * size;
    return absl::OkStatus();
  }

  absl::StatusOr<GgufValueType> ValueType(std::string_view what) {
    ASSIGN_OR_RETURN(const uint32_t type, Number<uint32_t>(what));
    if (type > static_cast<uint32_t>(GgufValueType::kFloat64)) {
      return Damaged(StrCat("at byte ", pos_ - 4, ", ", what, " has the unknown type ", type));
    }
    return static_cast<GgufValueType>(type);
  }

  absl::Status ReadPair() {
    ASSIGN_OR_RETURN(std::string key, Name("a key", kKeyBytesMax));
    const std::string what = StrCat("key '", key.substr(0, 100), "'");
    GgufMetadata::Value value;
    ASSIGN_OR_RETURN(value.type, ValueType(what));
    value.array = value.type == GgufValueType::kArray;
    if (value.array) {
      ASSIGN_OR_RETURN(value.type, ValueType(what));
      if (value.type == GgufValueType::kArray) {
        return absl::UnimplementedError(
            StrCat(metadata_.where_, ": ", what, " is an array of arrays, which no model needs; remove the key"));
      }
      ASSIGN_OR_RETURN(value.count, Number<uint64_t>(what));
    }
    value.begin = pos_;
    RETURN_IF_ERROR(SkipValues(value.type, value.count, what));
    value.end = pos_;
    if (!metadata_.values_.emplace(std::move(key), value).second) return Damaged(StrCat(what, " appears twice"));
    return absl::OkStatus();
  }

  absl::Status ReadAlignment() {
    constexpr std::string_view kKey = "general.alignment";
    if (!metadata_.Has(kKey)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const int64_t alignment, metadata_.Integer(kKey));
    const auto value = static_cast<uint64_t>(alignment);
    if (alignment < 8 || value > kAlignmentMax || (value & (value - 1)) != 0) {
      return Damaged(
          StrCat("key '", kKey, "' is ", alignment, "; it must be a power of two from 8 to ", kAlignmentMax));
    }
    header_.alignment = value;
    return absl::OkStatus();
  }

  // Its shape and type; `begin` as the file claims it.
  absl::Status ReadTensor() {
    StoredTensor tensor;
    ASSIGN_OR_RETURN(tensor.name, Name("a tensor's name", kTensorNameBytesMax));
    const std::string what = StrCat("tensor '", tensor.name, "'");
    ASSIGN_OR_RETURN(const uint32_t dimensions, Number<uint32_t>(what));
    if (dimensions < 1 || dimensions > kDimensionsMax) {
      return Damaged(StrCat(what, " has ", dimensions, " dimensions; it must have 1 to ", kDimensionsMax));
    }
    uint64_t values = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
      ASSIGN_OR_RETURN(const uint64_t size, Number<uint64_t>(what));
      if (size < 1 || size > kValuesMax / values) {
        return Damaged(
            StrCat(what, " has a dimension of ", size, ", which is 0 or makes more than ", kValuesMax, " values"));
      }
      values *= size;
      tensor.shape.insert(tensor.shape.begin(), size);  // The file begins with the contiguous one.
    }
    ASSIGN_OR_RETURN(const uint32_t type, Number<uint32_t>(what));
    ASSIGN_OR_RETURN(tensor.type, GgufTypeOf(type, StrCat(metadata_.where_, ": ", what)));
    const auto block = static_cast<uint64_t>(tensor.type.block);
    if (tensor.shape.back() % block != 0) {
      return Damaged(StrCat(what, " has rows of ", tensor.shape.back(), " values, no multiple of the ", block,
                            " that a block of ", tensor.type.name, " holds"));
    }
    ASSIGN_OR_RETURN(tensor.begin, Number<uint64_t>(what));
    tensor.end = static_cast<uint64_t>(tensor.type.Bytes(static_cast<int64_t>(values)));  // Its length, for now.
    if (!names_.insert(tensor.name).second) return Damaged(StrCat(what, " appears twice"));
    header_.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  // Tensors follow one another in the order of the list, each on the next aligned place; the file ends with the last
  // one, which may be padded. llama.cpp asks for the same.
  absl::Status PlaceTensors() {
    header_.data_offset = AlignUp(pos_, header_.alignment);
    uint64_t next = 0, end = 0;
    for (StoredTensor& tensor : header_.tensors) {
      const std::string what = StrCat("tensor '", tensor.name, "'");
      if (tensor.begin % header_.alignment != 0) {
        return Damaged(StrCat(what, " begins at byte ", tensor.begin, " of the data, no multiple of the alignment ",
                              header_.alignment));
      }
      if (tensor.begin != next) {
        return Damaged(StrCat(what, " begins at byte ", tensor.begin, " of the data, but its place is ", next,
                              tensor.begin < next ? ": it overlaps another" : ": there is a hole before it"));
      }
      end = tensor.begin + tensor.end;
      const uint64_t there = file_bytes_ - std::min(header_.data_offset, file_bytes_);
      if (end > there) {
        return Damaged(
            StrCat(what, " ends at byte ", end, " of the data, but the file has ", there, "; it is incomplete"));
      }
      tensor.end = end;
      next = AlignUp(end, header_.alignment);
    }
    const uint64_t last = header_.tensors.empty() ? header_.data_offset : header_.data_offset + next;
    if (file_bytes_ > last) {
      return Damaged(StrCat("has ", file_bytes_ - last, " bytes behind what its header lists"));
    }
    return absl::OkStatus();
  }

  const uint64_t file_bytes_;
  GgufRead read_;
  GgufHeader header_;
  GgufMetadata& metadata_;
  std::set<std::string> names_;
  uint64_t pos_ = 0;
};

const StoredTensor* GgufHeader::Find(std::string_view name) const {
  const auto it = std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) { return tensor.name == name; });
  return it == tensors.end() ? nullptr : &*it;
}

absl::StatusOr<GgufHeader> ParseGguf(uint64_t file_bytes, GgufRead read, std::string_view where) {
  return GgufParser(file_bytes, read, where).Parse();
}

absl::StatusOr<GgufHeader> ParseGguf(std::span<const std::byte> file, std::string_view where) {
  const auto read = [&](uint64_t offset, std::span<std::byte> out) {
    std::memcpy(out.data(), file.data() + offset, out.size());
    return absl::OkStatus();
  };
  return ParseGguf(file.size(), read, where);
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(const int fd, OpenRegularFile(path));
  std::unique_ptr<GgufFile> file(new GgufFile(path, fd));
  RETURN_IF_ERROR(file->Begin());
  const auto read = [&](uint64_t offset, std::span<std::byte> out) { return file->ReadAt(offset, out); };
  ASSIGN_OR_RETURN(file->header_, ParseGguf(file->size(), read, path));
  file->set_data_offset(file->header_.data_offset);
  return file;
}

}  // namespace shoal
