// The reference backend with one mistake, chosen by the environment variable MICA_FAULT: the
// conformance suite must see each. The mistakes are in tests/faults/mistakes.h; without the
// variable this is ref.
#include "tests/faults/mistakes.h"

#define MICA_REF_CALL(partition, node, op, call) mica::faults::run(partition, node, op, call)
#include "backends/ref/backend.cpp"

extern "C" __attribute__((visibility("default"))) const mica_backend* mica_backend_entry(void) {
  return mica_backend_ref();
}
