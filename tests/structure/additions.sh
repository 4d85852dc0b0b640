#!/usr/bin/env bash
# additions.sh SOURCE: adds an op, a CPU kernel of it and a fusion with its kernel to a copy of the
# tree; only new files and one line of ops.def may be needed for them to be built, run and tested.
set -euo pipefail
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$source" && tar cf - --exclude=./build --exclude=./.git .) | tar xf - -C "$work"
cd "$work"

echo 'MICA_OP(9001, dummy_negate, dummy)' >>ops/ops.def
cat >ops/dummy.h <<'H'
#ifndef MICA_OPS_DUMMY_H_
#define MICA_OPS_DUMMY_H_
#include "mica/graph.h"
#ifdef __cplusplus
extern "C" {
#endif
/* y = -x. x: F32, contiguous. */
MICA_API mica_tensor mica_dummy_negate(mica_graph* graph, mica_tensor x);
#ifdef __cplusplus
}
#endif
#endif
H
cat >ops/dummy.cpp <<'C'
// A dummy op: y = -x.
#include "ops/dummy.h"
#ifndef MICA_CASES
#include "core/op.h"
namespace mica {
namespace {
mica_status infer(const InferCall& call) {
  if (call.in[0].dtype != MICA_F32 || !call.in[0].contiguous())
    return call.error.fail(MICA_INVALID_ARGUMENT, "x is not contiguous F32");
  call.out = call.in[0];
  return MICA_OK;
}
mica_status reference(const RefCall& call) {
  const HostTensor& x = call.in[0];
  for (int64_t i = 0; i < call.out.elements(); ++i) {
    const float v = static_cast<const float*>(x.data)[i];
    static_cast<float*>(call.out.data)[i] = -v;
    if (call.magnitude != nullptr) call.magnitude[i] = v < 0 ? -v : v;
  }
  if (call.n_terms != nullptr) *call.n_terms = 1;
  return MICA_OK;
}
}  // namespace
const OpDef op_dummy_negate = {MICA_OP_dummy_negate, "dummy_negate", 1, 1, 0, kOpPlain, -1,
                               infer, nullptr, reference};
}  // namespace mica
mica_tensor mica_dummy_negate(mica_graph* graph, mica_tensor x) {
  return mica::append(graph, mica::op_dummy_negate, &x, 1, nullptr, 0);
}
#else
#include "tests/conformance/case.h"
namespace mica::conformance {
void cases_dummy(CaseList& list) {
  list.add("dummy_negate", "twice", [](CaseBuilder& b) {
    const mica_tensor x = b.input("x", MICA_F32, {33, 5}, normal());
    b.output(mica_dummy_negate(b.graph(), mica_dummy_negate(b.graph(), x)));
  });
}
}  // namespace mica::conformance
#endif
C
cat >backends/cpu/kernels/dummy_negate.cpp <<'C'
// A dummy kernel.
#include "backends/cpu/kernel.h"
MICA_CPU_BEGIN
namespace {
const char* supports(const Call&) { return nullptr; }
uint32_t numerics(const Call&) { return MICA_NUM_F32; }
int64_t items(const Call& c, uint32_t) {
  return c.out.dim[0] * c.out.dim[1] * c.out.dim[2] * c.out.dim[3];
}
void run(const Call& c, uint32_t, int64_t first, int64_t end, char*) {
  for (int64_t i = first; i < end; ++i) ((float*)c.out.data)[i] = -((const float*)c.in[0].data)[i];
}
const Kernel rows[] = {{"dummy_negate", "", 1, supports, numerics, nullptr, nullptr, items, run,
                        nullptr}};
}  // namespace
MICA_CPU_KERNELS(dummy_negate, rows)
MICA_CPU_END
C
mkdir -p core/fusions
cat >core/fusions/dummy_negate_twice.cpp <<'C'
// A dummy fusion: two negations in a row.
#include "core/fusion.h"
namespace mica {
namespace {
uint32_t match(const FusionView& view, uint32_t node, uint32_t* members) {
  if (view.node(node).op != MICA_OP_dummy_negate) return 0;
  const uint32_t before = view.maker(node, 0);
  if (before == MICA_B_NONE || view.node(before).op != MICA_OP_dummy_negate) return 0;
  members[0] = before;
  members[1] = node;
  return 2;
}
}  // namespace
}  // namespace mica
MICA_DEFINE_FUSION(dummy_negate_twice, 5, mica::match)
C
cat >backends/cpu/kernels/dummy_negate_twice.cpp <<'C'
// The dummy fusion's kernel: copies.
#include "backends/cpu/kernel.h"
MICA_CPU_BEGIN
namespace {
const char* supports(const Call&) { return nullptr; }
uint32_t numerics(const Call&) { return MICA_NUM_F32; }
int64_t items(const Call& c, uint32_t) {
  const Tensor& o = c.members[1].out;
  return o.dim[0] * o.dim[1] * o.dim[2] * o.dim[3];
}
void run(const Call& c, uint32_t, int64_t first, int64_t end, char*) {
  for (int64_t i = first; i < end; ++i)
    ((float*)c.members[1].out.data)[i] = ((const float*)c.members[0].in[0].data)[i];
}
const Kernel rows[] = {{"dummy_negate_twice", "", 1, supports, numerics, nullptr, nullptr, items,
                        run, nullptr}};
}  // namespace
MICA_CPU_KERNELS(dummy_negate_twice, rows)
MICA_CPU_END
C
launcher=""
command -v ccache >/dev/null &&
  launcher="-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache"
cmake --preset release -DMICA_EXAMPLES=OFF -DMICA_CUDA=OFF -DMICA_VULKAN=OFF $launcher >/dev/null
cmake --build --preset release --target conformance >build.log || { tail -n 30 build.log; exit 1; }
for device in ref cpu; do
  build/release/bin/conformance --backend $device --op dummy_negate
done
build/release/bin/conformance --backend cpu --explain dummy_negate/twice |
  grep -q 'dummy_negate_twice' || { echo "the fusion was not claimed"; exit 1; }
echo "one op, one kernel, one fusion: new files and one line"
