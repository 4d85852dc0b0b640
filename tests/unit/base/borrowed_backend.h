// Backends for tests: ref's table with some functions replaced. One static state a kind, reset by
// the test that uses it.
#pragma once
#include <string>

#include "core/base/text.h"
#include "core/graph/op.h"
#include "mica/backend.h"
#include "mica/device.h"

namespace mica::test {

struct BorrowedState {
  std::string refused_op;   // supports() says no to this op …
  const char* reason = "";  // … for this reason
  std::string claimed;      // claims() says yes to this fusion
  bool workspaces = false;  // query() asks for workspaces of odd sizes
  bool layouts = false;     // value_layout() chooses among three forms of odd sizes
  std::string args_op;      // args_bytes() says args_bytes of this op
  uint32_t args_bytes = 0;
  uint64_t buffer_bytes = 0;  // of all buffers created
  uint32_t n_claims = 0;
  mica_status submit_status = MICA_OK, wait_status = MICA_OK;
  bool submit_text = true;  // a failing submit gives a sentence
};
inline BorrowedState borrowed;

inline const mica_backend* borrowed_backend() {
  static mica_backend table = [] {
    mica_backend b = *mica_backend_ref();
    b.name = "borrowed";
    b.supports = [](mica_b_device* device, const mica_b_partition* p, uint32_t node, char* reason,
                    size_t capacity) {
      if (borrowed.refused_op == find_op(p->nodes[node].op)->name) {
        Writer(reason, capacity).put(borrowed.reason);
        return MICA_UNSUPPORTED;
      }
      return mica_backend_ref()->supports(device, p, node, reason, capacity);
    };
    b.claims = [](mica_b_device* device, const mica_b_partition* p, uint32_t region, char* reason,
                  size_t capacity) {
      ++borrowed.n_claims;
      if (borrowed.claimed == p->regions[region].fusion) return MICA_OK;
      return mica_backend_ref()->claims(device, p, region, reason, capacity);
    };
    b.value_layout = [](mica_b_device*, const mica_b_partition*, uint32_t value,
                        uint32_t* out_layout, uint64_t* out_bytes) {
      if (!borrowed.layouts) return MICA_OK;
      *out_layout = value % 3;
      *out_bytes += value % 3 == 0 ? 0 : 100;
      return MICA_OK;
    };
    b.args_bytes = [](mica_b_device* device, uint32_t op) {
      if (borrowed.args_op == find_op(op)->name) return borrowed.args_bytes;
      return mica_backend_ref()->args_bytes(device, op);
    };
    b.query = [](mica_b_device* device, const mica_b_partition* p, uint32_t unit,
                 mica_b_need* need) {
      const mica_status status = mica_backend_ref()->query(device, p, unit, need);
      if (borrowed.workspaces) need->workspace_bytes = unit % 3 == 0 ? 0 : unit * 37 + 1;
      return status;
    };
    b.buffer_create = [](mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
      borrowed.buffer_bytes += bytes;
      return mica_backend_ref()->buffer_create(device, bytes, out);
    };
    b.submit = [](mica_b_plan* plan) {
      return borrowed.submit_status != MICA_OK ? borrowed.submit_status
                                               : mica_backend_ref()->submit(plan);
    };
    b.wait = [](mica_b_plan* plan) {
      const mica_status status = mica_backend_ref()->wait(plan);
      return borrowed.wait_status != MICA_OK ? borrowed.wait_status : status;
    };
    return b;
  }();
  return &table;
}

}  // namespace mica::test
