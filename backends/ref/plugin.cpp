// The reference backend as a plug-in: proves that the boundary is real.
#include "mica/backend.h"
#include "mica/device.h"

extern "C" __attribute__((visibility("default"))) const mica_backend* mica_backend_entry(void) {
  return mica_backend_ref();
}
