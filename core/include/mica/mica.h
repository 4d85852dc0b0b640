/* mica: tensor graphs with backends. Includes the public API. Start with examples/minimal.c. */
#ifndef MICA_MICA_H_
#define MICA_MICA_H_
#include "context.h"
#include "device.h"
#include "dtype.h"
#include "gguf.h"
#include "graph.h"
#include "kv_cache.h"
#include "kv_state.h"
#include "mica/ops.h" /* generated: the header of every op family in ops/ops.def */
#include "session.h"
#include "status.h"
#include "weights.h"
#endif
