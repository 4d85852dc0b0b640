// The reference backend with one mistake, chosen by the environment variable MICA_FAULT: the
// conformance suite must see each. The mistakes are in tests/faults/mistakes.h; without the
// variable this is ref.
#include "tests/faults/mistakes.h"

#define MICA_REF_CALL(partition, node, op, call) mica::faults::run(partition, node, op, call)
#include "backends/ref/backend.cpp"

// Gives back the last byte of what it is asked for with one bit flipped.
static mica_status unpack_with_a_wrong_bit(mica_b_device* device, const mica_b_value* w,
                                           mica_b_buffer* buffer, void* rows, uint64_t first,
                                           uint64_t n) {
  const mica_status status = mica_backend_ref()->weight_unpack(device, w, buffer, rows, first, n);
  if (n > 0) static_cast<char*>(rows)[n * weight_row_bytes(w) - 1] ^= 1;
  return status;
}

static mica_status compile_anew(mica_b_device* device, const mica_b_partition* partition,
                                mica_b_buffer* const* buffers, mica_b_plan** plan) {
  mica::faults::forget_first_runs();
  return mica_backend_ref()->compile(device, partition, buffers, plan);
}

extern "C" __attribute__((visibility("default"))) const mica_backend* mica_backend_entry(void) {
  static mica_backend table;
  table = *mica_backend_ref();
  table.compile = compile_anew;
  const mica::faults::Mistake* mistake = mica::faults::chosen();
  if (mistake != nullptr && mistake->run == mica::faults::weight_unpack_bit)
    table.weight_unpack = unpack_with_a_wrong_bit;
  return &table;
}
