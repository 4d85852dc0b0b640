// Described weights: names, shapes, places in one device buffer.
#pragma once
#include <algorithm>
#include <atomic>

#include "core/base/device.h"
#include "core/base/name_map.h"
#include "core/graph/op.h"
#include "mica/weights.h"

namespace mica {
struct WeightEntry {
  explicit WeightEntry(const mica_allocator& a) : name(a) {}
  Text name;
  Desc desc;
  mica_b_value value{};  // with layout and offset in the buffer
  uint64_t plain_bytes = 0;
  uint32_t granule_rows = 1;

  uint64_t rows() const { return static_cast<uint64_t>(desc.dim[1] * desc.dim[2] * desc.dim[3]); }
  uint64_t row_bytes() const { return plain_bytes / rows(); }
  // Staged at a time: all, or whole granules, of about 4 MiB, which hide the costs of calls.
  uint64_t chunk_rows(uint64_t granule) const {
    const uint64_t wanted = (uint64_t{4} << 20) / row_bytes() / granule * granule;
    return std::min(rows(), std::max(wanted, granule));
  }
};
}  // namespace mica

struct mica_weights {
  explicit mica_weights(mica_device* d)
      : device(mica::retain(d)), entries(d->allocator()), names(d->allocator()) {}
  ~mica_weights() {
    buffer.reset();
    mica_device_release(device);
  }
  mica_device* device;
  mica::Vec<mica::WeightEntry> entries;
  mica::NameMap names;
  mica::Buffer buffer;
  uint64_t bytes = 0;  // of the buffer, known before it exists
  bool loaded = false;
  std::atomic<uint32_t> references{1};
};

namespace mica {
// Index of a weight, or MICA_B_NONE.
uint32_t find_weight(const mica_weights* weights, const char* name);
}  // namespace mica
