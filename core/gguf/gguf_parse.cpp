// GGUF metadata: parse (bounds and types), then validate the whole (alignment, duplicates,
// extents). Nothing is allocated from a count in the file: lists grow as entries are really found.
// Duplicates are found by sorting, so that no chosen names can make it quadratic.
#include <algorithm>
#include <cstring>

#include "core/base/checked.h"
#include "core/base/dtype.h"
#include "core/gguf/gguf.h"

namespace mica {
namespace {

constexpr uint64_t kMaxMetadataBytes = uint64_t{1} << 30;
constexpr uint64_t kMaxKeyBytes = 65535;          // the format's limit
constexpr uint64_t kMaxTensorNameBytes = 64;      // the format's limit
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;  // length, name, type, value
constexpr uint64_t kMinTensorBytes =
    8 + 1 + 4 + 8 + 4 + 8;  // length, name, rank, dim, type, offset
constexpr uint64_t kMinAlignment = 8;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
constexpr int kMaxArrayDepth = 4;
// Far above any model's; what is kept of an entry is larger than the least entry in a file.
constexpr uint64_t kMaxKeys = uint64_t{1} << 17;
constexpr uint64_t kMaxTensors = uint64_t{1} << 20;
constexpr uint64_t kBetweenLooks = 4096;  // elements between two looks at `cancel`

struct TypeName {
  uint32_t id;
  const char* name;
};
// Types of the field that dtype.def lacks: such a file is not damaged.
constexpr TypeName kOtherTypes[] = {
    {10, "Q2_K"},  {11, "Q3_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
    {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"}, {24, "I8"},
    {25, "I16"},   {28, "F64"},    {29, "IQ1_M"}, {34, "TQ1_0"},   {35, "TQ2_0"},  {39, "MXFP4"},
};

class Parser {
 public:
  Parser(mica_gguf& file, Error& error)
      : file_(file), error_(error), limit_(std::min(file.file_bytes, kMaxMetadataBytes)) {}

  mica_status parse() {
    MICA_TRY(header());
    for (uint64_t i = 0; i < n_keys_ + n_tensors_; ++i) {
      MICA_TRY(look());
      MICA_TRY(i < n_keys_ ? key(i) : tensor(i - n_keys_));
    }
    set_names();
    MICA_TRY(sort_names("key ", file_.keys, file_.keys_by_name));
    MICA_TRY(sort_names("tensor ", file_.tensors, file_.tensors_by_name));
    return place_tensors();
  }

 private:
  uint64_t left() const { return limit_ - at_; }
  mica_status look() const {
    return file_.context->cancelled() ? error_.fail(MICA_CANCELLED, "cancelled") : MICA_OK;
  }
  const char* here() const { return file_.bytes(at_); }
  template <class T>
  mica_status number(T& out) {
    MICA_TRY(need(sizeof(T)));
    std::memcpy(&out, here(), sizeof(T));
    at_ += sizeof(T);
    return MICA_OK;
  }
  template <class... Parts>
  mica_status bad(Parts... parts) {
    return error_.fail(MICA_BAD_FILE, parts...);
  }

  // Makes the next n bytes of the file readable through here().
  mica_status need(uint64_t n) {
    if (!range_fits(at_, n, file_.file_bytes))
      return bad("the file is cut off: ", n, " bytes wanted at byte ", at_, " of ",
                 file_.file_bytes);
    if (!range_fits(at_, n, limit_)) return bad("the metadata is longer than 1 GiB");
    if (file_.map != nullptr || at_ + n <= file_.head.size()) return MICA_OK;
    const uint64_t old_bytes = file_.head.size();
    const uint64_t ahead = std::min(limit_, std::max<uint64_t>(65536, old_bytes * 2));
    const uint64_t new_bytes = std::max(at_ + n, ahead);
    if (!file_.head.resize(static_cast<size_t>(new_bytes))) return error_.out_of_memory("metadata");
    return read_file(*file_.context, file_.fd, old_bytes, new_bytes - old_bytes,
                     file_.head.data() + old_bytes, error_);
  }

  mica_status name(const char* what, uint64_t i, uint64_t longest) {
    uint64_t n = 0;
    MICA_TRY(number(n));
    if (n == 0) return bad(what, i, " has an empty name");
    if (n > longest) return bad(what, i, " has a name of ", n, " bytes, more than ", longest);
    MICA_TRY(need(n));
    const Quoted text = {here(), static_cast<size_t>(n)};
    if (std::memchr(text.data, '\0', text.size) != nullptr)
      return bad(what, i, " has a NUL byte in its name ", text);
    name_ = file_.names.size();
    if (!file_.names.append(text.data, text.size) || !file_.names.push('\0'))
      return error_.out_of_memory("names");
    at_ += n;
    return MICA_OK;
  }

  mica_status header() {
    uint32_t magic = 0;
    MICA_TRY(number(magic));
    if (magic != 0x46554747u) return bad("not a GGUF file");
    MICA_TRY(number(file_.version));
    if ((file_.version & 0xffffu) == 0 && file_.version != 0)
      return error_.fail(MICA_UNSUPPORTED, "a big-endian GGUF file");
    if (file_.version == 0) return bad("GGUF version 0");
    if (file_.version != 2 && file_.version != 3)
      return error_.fail(MICA_UNSUPPORTED, "GGUF version ", file_.version, "; 2 and 3 can be read");
    MICA_TRY(number(n_tensors_));
    MICA_TRY(number(n_keys_));
    if (n_keys_ > left() / kMinKeyBytes)
      return bad(n_keys_, " keys cannot fit in ", left(), " bytes");
    if (n_tensors_ > left() / kMinTensorBytes)
      return bad(n_tensors_, " tensors cannot fit in ", left(), " bytes");
    if (n_keys_ > kMaxKeys || n_tensors_ > kMaxTensors)
      return error_.fail(MICA_UNSUPPORTED, n_keys_, " keys and ", n_tensors_, " tensors; ",
                         kMaxKeys, " and ", kMaxTensors, " can be read");
    return MICA_OK;
  }

  // Passes over a value, or an array's elements, of no other than sound bools.
  mica_status skip(uint32_t type, uint64_t bytes) {
    MICA_TRY(need(bytes));
    for (uint64_t i = 0; type == MICA_GGUF_BOOL && i < bytes; ++i)
      if (const auto byte = static_cast<uint8_t>(here()[i]); byte > 1)
        return bad("a bool is ", uint32_t{byte}, ", not 0 or 1");
    at_ += bytes;
    return MICA_OK;
  }

  // An array from its element type on; at depth 1 it is a key's value and `out` describes it.
  mica_status array(int depth, GgufKey& out) {
    uint32_t type = 0;
    uint64_t n = 0;
    MICA_TRY(look());
    MICA_TRY(number(type));
    MICA_TRY(number(n));
    if (type > MICA_GGUF_F64) return bad("array of unknown type ", type);
    const uint64_t size = gguf_value_bytes(type);
    const uint64_t least = type == MICA_GGUF_STRING ? 8 : type == MICA_GGUF_ARRAY ? 12 : size;
    if (n > left() / least)
      return bad("array of ", n, " ", gguf_type_name(type), " elements, but only ", left(),
                 " bytes are left");
    if (depth == 1) {
      out.elem_type = static_cast<uint8_t>(type);
      out.n = n;
      out.value_at = out.next_at = at_;
    }
    if (type == MICA_GGUF_STRING) {
      for (uint64_t i = 0; i < n; ++i) {
        if (i % kBetweenLooks == 0) MICA_TRY(look());
        uint64_t length = 0;
        MICA_TRY(number(length));
        MICA_TRY(skip(type, length));
      }
      return MICA_OK;
    }
    if (type == MICA_GGUF_ARRAY) {
      if (depth == kMaxArrayDepth)
        return bad("arrays are nested more than ", kMaxArrayDepth, " deep");
      for (uint64_t i = 0; i < n; ++i) MICA_TRY(array(depth + 1, out));
      return MICA_OK;
    }
    return skip(type, n * size);
  }

  mica_status value(GgufKey& key) {
    uint32_t type = 0;
    MICA_TRY(number(type));
    if (type > MICA_GGUF_F64) return bad("unknown type ", type);
    key.type = static_cast<uint8_t>(type);
    if (type == MICA_GGUF_ARRAY) return array(1, key);
    uint64_t bytes = gguf_value_bytes(type);
    if (type == MICA_GGUF_STRING) {
      MICA_TRY(number(bytes));
      key.n = bytes;
    }
    key.value_at = at_;
    return skip(type, bytes);
  }

  mica_status key(uint64_t i) {
    GgufKey key;
    key.at = at_;
    MICA_TRY(name("key ", i, kMaxKeyBytes));
    if (value(key) != MICA_OK) return error_.prefix("key ", quoted(&file_.names[name_]));
    file_.keys_end = at_;
    return file_.keys.push(key) ? MICA_OK : error_.out_of_memory("metadata keys");
  }

  mica_status tensor_body(mica_gguf_tensor& t) {
    MICA_TRY(number(t.rank));
    if (t.rank < 1 || t.rank > 4) return bad("rank is ", t.rank, ", not 1 to 4");
    for (uint32_t i = 0; i < 4; ++i) t.dim[i] = 1;
    for (uint32_t i = 0; i < t.rank; ++i) {
      uint64_t dim = 0;
      MICA_TRY(number(dim));
      if (dim > INT64_MAX) return bad("dim[", i, "] is ", dim);
      t.dim[i] = static_cast<int64_t>(dim);
    }
    uint32_t type = 0;
    MICA_TRY(number(type));
    MICA_TRY(number(t.offset));  // from the data's start; place_tensors makes it the file's
    const DtypeDef* def = find_dtype(type);
    if (def == nullptr) {
      for (const TypeName& other : kOtherTypes) {
        if (other.id != type) continue;
        return error_.fail(MICA_UNSUPPORTED, "its type ", other.name, " is not in this build");
      }
      return bad("unknown type ", type);
    }
    t.dtype = def->info.dtype;
    Error reason;
    if (!tensor_bytes(def->info, t.rank, t.dim, t.bytes, reason)) return bad(reason.text());
    return MICA_OK;
  }

  mica_status tensor(uint64_t i) {
    mica_gguf_tensor t = {};
    MICA_TRY(name("tensor ", i, kMaxTensorNameBytes));
    if (tensor_body(t) != MICA_OK) return error_.prefix("tensor ", quoted(&file_.names[name_]));
    return file_.tensors.push(t) ? MICA_OK : error_.out_of_memory("tensors");
  }

  // Once the names move no more.
  void set_names() {
    const char* next = file_.names.data();
    const auto take = [&] { return std::exchange(next, next + std::strlen(next) + 1); };
    for (GgufKey& key : file_.keys) key.name = take();
    for (mica_gguf_tensor& t : file_.tensors) t.name = take();
  }

  // Fills `order` with the indices below n, sorted.
  template <class Less>
  mica_status sort(Vec<uint32_t>& order, size_t n, const Less& less) {
    if (!order.resize(n)) return error_.out_of_memory("names");
    for (size_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(i);
    std::sort(order.begin(), order.end(), less);
    return MICA_OK;
  }

  template <class Item>
  mica_status sort_names(const char* what, const Vec<Item>& items, Vec<uint32_t>& order) {
    const auto compare = [&](uint32_t a, uint32_t b) {
      return std::strcmp(items[a].name, items[b].name);
    };
    MICA_TRY(sort(order, items.size(), [&](uint32_t a, uint32_t b) { return compare(a, b) < 0; }));
    for (size_t i = 1; i < order.size(); ++i)
      if (compare(order[i - 1], order[i]) == 0)
        return bad(what, quoted(items[order[i]].name), " occurs twice");
    return MICA_OK;
  }

  mica_status place_tensors() {
    uint32_t align = 32;  // the format's default
    if (const GgufKey* key = gguf_find(file_.keys, file_.keys_by_name, "general.alignment")) {
      if (key->type != MICA_GGUF_U32)
        return bad("key 'general.alignment' is of type ", gguf_type_name(key->type), ", not u32");
      std::memcpy(&align, file_.bytes(key->value_at), sizeof align);
      if (!is_power_of_two(align) || align < kMinAlignment || align > kMaxAlignment)
        return bad("key 'general.alignment' is ", align, ", not a power of two from ",
                   kMinAlignment, " to ", kMaxAlignment);
    }
    if (file_.tensors.empty()) return MICA_OK;
    uint64_t data_at = 0;
    if (!checked_align(at_, uint64_t{align}, data_at) || data_at > file_.file_bytes)
      return bad("the file is cut off: no tensor data");
    const uint64_t data_bytes = file_.file_bytes - data_at;
    for (mica_gguf_tensor& t : file_.tensors) {
      if (t.offset % align != 0)
        return bad("tensor ", quoted(t.name), ": offset ", t.offset, " is not a multiple of ",
                   align);
      if (!range_fits(t.offset, t.bytes, data_bytes))
        return bad("tensor ", quoted(t.name), ": ", t.bytes, " bytes at offset ", t.offset,
                   " reach past the data's end at ", data_bytes);
      t.offset += data_at;
    }
    Vec<uint32_t> order(file_.context->allocator);
    MICA_TRY(sort(order, file_.tensors.size(), [&](uint32_t a, uint32_t b) {
      return file_.tensors[a].offset < file_.tensors[b].offset;
    }));
    for (size_t i = 1; i < order.size(); ++i) {
      const mica_gguf_tensor& before = file_.tensors[order[i - 1]];
      const mica_gguf_tensor& after = file_.tensors[order[i]];
      if (after.offset - before.offset < before.bytes)
        return bad("tensors ", quoted(before.name), " and ", quoted(after.name), " overlap");
    }
    return MICA_OK;
  }

  mica_gguf& file_;
  Error& error_;
  uint64_t limit_;
  uint64_t at_ = 0;
  uint64_t n_keys_ = 0;
  uint64_t n_tensors_ = 0;
  size_t name_ = 0;  // the last one, in file_.names
};

}  // namespace

mica_status gguf_parse(mica_gguf& file, Error& error) { return Parser(file, error).parse(); }

}  // namespace mica
