#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "base/json.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

constexpr std::array<SafetensorsType, 21> kTypes = {
    {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6},     {"F6_E3M2", 6},     kSafeU8,     kSafeI8,     {"F8_E5M2", 8},
     {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, kSafeF16,
     kSafeBF16,      {"I32", 32},    {"U32", 32},        kSafeF32,           {"C64", 64}, {"F64", 64}, {"I64", 64}}};
constexpr SafetensorsType kU64{"U64", 64};

const SafetensorsType* FindType(std::string_view name) {
  for (const SafetensorsType& type : kTypes) {
    if (type.name == name) return &type;
  }
  return name == kU64.name ? &kU64 : nullptr;
}

// Names come from the file: shown shortened and without control characters.
std::string Shown(std::string_view name) {
  std::string text(name.substr(0, 100));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = '?';
  }
  return text;
}

// Walks the header event by event and keeps only what the format has, so that memory stays in proportion to the tensors
// however the JSON is nested. The first complaint ends the parse.
class HeaderReader : public Json::json_sax_t {
 public:
  explicit HeaderReader(SafetensorsHeader* out) : out_(*out) {}
  const std::string& error() const { return error_; }

  bool null() override {
    if (level_ == 1 && key_ == "__metadata__") return true;  // The same as absent.
    return Scalar("null");
  }
  bool boolean(bool) override { return Scalar("a boolean"); }
  bool number_float(double, const std::string&) override { return Scalar("a fraction or a number beyond 64 bits"); }
  bool binary(binary_t&) override { return Scalar("binary data"); }
  bool number_integer(int64_t value) override {
    return value >= 0 ? number_unsigned(static_cast<uint64_t>(value)) : Scalar("a negative number");
  }

  bool number_unsigned(uint64_t value) override {
    if (skip_depth_ > 0) return true;
    if (list_ == nullptr) return Scalar("a number");
    if (list_ == &offsets_ && offsets_.size() == 2) return Fail(About(), " has more than two data_offsets");
    list_->push_back(value);
    return true;
  }

  bool string(std::string& value) override {
    if (skip_depth_ > 0) return true;
    if (level_ == 2 && in_metadata_) {
      if (!out_.metadata.emplace(field_, value).second) return Fail("metadata '", Shown(field_), "' appears twice");
      return true;
    }
    if (level_ == 2 && list_ == nullptr && field_ == "dtype") {
      const SafetensorsType* type = FindType(value);
      if (type == nullptr) return Fail(About(), " has the unknown dtype '", Shown(value), "'");
      tensor_.type = *type;
      return Once(kDType);
    }
    return Scalar("a string");
  }

  bool key(std::string& value) override {
    if (skip_depth_ > 0) return true;
    (level_ == 1 ? key_ : field_) = value;
    return true;
  }

  bool start_object(size_t) override {
    if (skip_depth_ > 0 || (level_ == 2 && !in_metadata_ && list_ == nullptr && !Known())) return Skip();
    if (level_ == 2) return Scalar("an object");
    if (++level_ == 2) {
      in_metadata_ = key_ == "__metadata__";
      tensor_ = {};
      tensor_.name = key_;
      offsets_.clear();
      seen_ = 0;
    }
    return true;
  }

  bool end_object() override {
    if (skip_depth_ > 0) return Unskip();
    if (level_-- == 2 && !in_metadata_) {
      if (seen_ != (kDType | kShape | kOffsets)) return Fail(About(), " lacks dtype, shape or data_offsets");
      out_.tensors.push_back(std::move(tensor_));
    }
    in_metadata_ = false;
    return true;
  }

  bool start_array(size_t) override {
    if (skip_depth_ > 0 || (level_ == 2 && !in_metadata_ && list_ == nullptr && !Known())) return Skip();
    if (level_ == 2 && !in_metadata_ && list_ == nullptr && field_ == "shape") {
      list_ = &tensor_.shape;
      return Once(kShape);
    }
    if (level_ == 2 && !in_metadata_ && list_ == nullptr && field_ == "data_offsets") {
      list_ = &offsets_;
      return Once(kOffsets);
    }
    return Scalar("a list");
  }

  bool end_array() override {
    if (skip_depth_ > 0) return Unskip();
    if (list_ == &offsets_) {
      if (offsets_.size() != 2) return Fail(About(), " must have two data_offsets");
      tensor_.begin = offsets_[0];
      tensor_.end = offsets_[1];
    }
    list_ = nullptr;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail("the header is not valid JSON near its byte ", position);
  }

 private:
  enum Field : unsigned { kDType = 1, kShape = 2, kOffsets = 4 };
  static constexpr int kDepthMax = 64;

  std::string About() const { return StrCat("tensor '", Shown(tensor_.name), "'"); }
  bool Known() const { return field_ == "dtype" || field_ == "shape" || field_ == "data_offsets"; }

  template <typename... Args>
  bool Fail(const Args&... args) {
    if (error_.empty()) error_ = StrCat(args...);
    return false;
  }
  // A value of a kind that does not belong here; unknown fields of a tensor may hold anything.
  bool Scalar(std::string_view what) {
    if (skip_depth_ > 0) return true;
    if (level_ == 0) return Fail("the header is ", what, " instead of an object");
    if (level_ == 1) return Fail("'", Shown(key_), "' is ", what, " instead of an object");
    if (in_metadata_) return Fail("metadata '", Shown(field_), "' is ", what, " instead of a string");
    if (list_ == nullptr && !Known()) return true;
    return Fail(About(), ": '", Shown(field_), "' holds ", what);
  }
  bool Once(Field field) {
    if (seen_ & field) return Fail(About(), " gives '", Shown(field_), "' twice");
    seen_ |= field;
    return true;
  }
  bool Skip() { return ++skip_depth_ <= kDepthMax || Fail("the header is nested deeper than ", kDepthMax); }
  bool Unskip() {
    --skip_depth_;
    return true;
  }

  SafetensorsHeader& out_;
  std::string error_;
  int level_ = 0;       // 1: in the header's object, 2: in a tensor's or the metadata's.
  int skip_depth_ = 0;  // > 0: inside an unknown field.
  bool in_metadata_ = false;
  std::string key_, field_;  // Current keys of level 1 and 2.
  SafetensorsTensor tensor_;
  std::vector<uint64_t> offsets_;
  std::vector<uint64_t>* list_ = nullptr;  // The list being filled.
  unsigned seen_ = 0;
};

// Bytes of shape x type, or what is wrong with them.
absl::StatusOr<uint64_t> BytesOf(const SafetensorsTensor& tensor, std::string_view where) {
  uint64_t bits = 1;
  bool overflow = false;
  for (uint64_t dim : tensor.shape) overflow |= __builtin_mul_overflow(bits, dim, &bits);
  overflow |= __builtin_mul_overflow(bits, static_cast<uint64_t>(tensor.type.bits), &bits);
  if (overflow) {
    return absl::InvalidArgumentError(StrCat(where, ": tensor '", Shown(tensor.name), "': the size of shape ",
                                             tensor.ShapeText(), " overflows 64 bits"));
  }
  if (bits % 8 != 0) {
    return absl::InvalidArgumentError(StrCat(where, ": tensor '", Shown(tensor.name), "': shape ", tensor.ShapeText(),
                                             " of ", tensor.type.name, " does not end on a whole byte"));
  }
  return bits / 8;
}

// Tensors in order of their bytes must tile [0, data_bytes) exactly.
absl::Status CheckRanges(const std::vector<SafetensorsTensor>& tensors, uint64_t data_bytes, std::string_view where) {
  std::vector<const SafetensorsTensor*> order;
  order.reserve(tensors.size());
  for (const SafetensorsTensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const SafetensorsTensor* a, const SafetensorsTensor* b) {
    return std::tie(a->begin, a->end) < std::tie(b->begin, b->end);
  });
  uint64_t next = 0;
  for (const SafetensorsTensor* tensor : order) {
    if (tensor->begin != next || tensor->end < tensor->begin) {
      return absl::InvalidArgumentError(StrCat(where, ": tensor '", Shown(tensor->name), "': data_offsets [",
                                               tensor->begin, ", ", tensor->end,
                                               "] leave a hole or overlap; the tensor before ends at ", next));
    }
    next = tensor->end;
    ASSIGN_OR_RETURN(const uint64_t bytes, BytesOf(*tensor, where));
    if (bytes != tensor->bytes()) {
      return absl::InvalidArgumentError(StrCat(where, ": tensor '", Shown(tensor->name), "': shape ",
                                               tensor->ShapeText(), " of ", tensor->type.name, " needs ", bytes,
                                               " bytes, its data_offsets give ", tensor->bytes()));
    }
  }
  if (next != data_bytes) {
    return absl::InvalidArgumentError(StrCat(where, ": the tensors of the header take ", next, " bytes, the file has ",
                                             data_bytes, " behind its header; is it incomplete? download it again"));
  }
  return absl::OkStatus();
}

}  // namespace

const SafetensorsTensor* SafetensorsHeader::Find(std::string_view name) const {
  const auto it = std::lower_bound(tensors.begin(), tensors.end(), name,
                                   [](const SafetensorsTensor& tensor, std::string_view n) { return tensor.name < n; });
  return it != tensors.end() && it->name == name ? &*it : nullptr;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t data_bytes,
                                                         std::string_view where) {
  SafetensorsHeader header;
  HeaderReader reader(&header);
  bool parsed = false;
  std::string thrown;
  try {
    parsed = Json::sax_parse(json.begin(), json.end(), &reader);
  } catch (const std::exception& e) {
    thrown = "the header is not valid JSON";
  }
  if (!parsed) {
    const std::string& reason = !reader.error().empty() ? reader.error() : thrown;
    return absl::InvalidArgumentError(StrCat(where, ": ", reason.empty() ? "the header is not valid JSON" : reason));
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const SafetensorsTensor& a, const SafetensorsTensor& b) { return a.name < b.name; });
  for (size_t i = 1; i < header.tensors.size(); ++i) {
    if (header.tensors[i].name == header.tensors[i - 1].name) {
      return absl::InvalidArgumentError(StrCat(where, ": tensor '", Shown(header.tensors[i].name), "' appears twice"));
    }
  }
  RETURN_IF_ERROR(CheckRanges(header.tensors, data_bytes, where));
  header.data_offset = 8 + json.size();
  return header;
}

absl::StatusOr<uint64_t> SafetensorsHeaderBytes(std::span<const std::byte, 8> length, uint64_t file_bytes,
                                                std::string_view where) {
  if (file_bytes < 8) {
    return absl::InvalidArgumentError(StrCat(where, ": has ", file_bytes, " bytes, too few for a safetensors header"));
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<uint64_t>(length[i]);
  if (header_bytes > kSafetensorsHeaderMax) {
    return absl::InvalidArgumentError(StrCat(where, ": claims a header of ", header_bytes,
                                             " bytes, more than the limit of ", kSafetensorsHeaderMax,
                                             "; is this a safetensors file?"));
  }
  if (header_bytes > file_bytes - 8) {
    return absl::InvalidArgumentError(
        StrCat(where, ": claims a header of ", header_bytes, " bytes, but only ", file_bytes - 8, " follow"));
  }
  return header_bytes;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensors(std::span<const std::byte> file, std::string_view where) {
  std::array<std::byte, 8> length{};
  std::copy_n(file.begin(), std::min<size_t>(file.size(), 8), length.begin());
  ASSIGN_OR_RETURN(const uint64_t header_bytes, SafetensorsHeaderBytes(length, file.size(), where));
  const std::string_view json(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  return ParseSafetensorsHeader(json, file.size() - 8 - header_bytes, where);
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& folder,
                                                                       const std::string& name) {
  ASSIGN_OR_RETURN(const int fd, OpenInFolder(folder, name));
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(StrCat(folder, "/", name), fd));
  RETURN_IF_ERROR(file->Begin());
  // The length first, then no more than it says.
  std::array<std::byte, 8> length{};
  RETURN_IF_ERROR(file->ReadAt(0, std::span(length).first(std::min<uint64_t>(file->size(), 8))));
  ASSIGN_OR_RETURN(const uint64_t header_bytes, SafetensorsHeaderBytes(length, file->size(), file->path()));
  std::string json(header_bytes, '\0');
  RETURN_IF_ERROR(file->ReadAt(8, std::as_writable_bytes(std::span(json.data(), json.size()))));
  ASSIGN_OR_RETURN(file->header_, ParseSafetensorsHeader(json, file->size() - 8 - header_bytes, file->path()));
  file->set_data_offset(file->header_.data_offset);
  return file;
}

}  // namespace shoal
