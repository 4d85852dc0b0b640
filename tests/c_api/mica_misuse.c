/* Misuse of mica's own API from C: NULL everywhere, wrong shapes, wrong order. Nothing may crash.
 */
#include <mica/mica.h>
#include <string.h>

#include "check.h"

#define BAD(call) CHECK((call) == MICA_INVALID_ARGUMENT)

static void null_handles(void) {
  mica_device* device = NULL;
  mica_graph* graph = NULL;
  mica_weights* weights = NULL;
  mica_session* session = NULL;
  mica_kv_cache* cache = NULL;
  mica_gguf* file = NULL;
  mica_plan* plan = NULL;
  mica_memory memory;
  mica_tensor_info info;
  const char* text = NULL;
  uint32_t n = 0;
  size_t size = 0;
  char byte = 0;
  float value = 0;
  const int64_t dim[1] = {4};
  BAD(mica_context_create(NULL, NULL));
  BAD(mica_context_add_backend(NULL, mica_backend_cpu()));
  BAD(mica_context_load_backend(NULL, "x"));
  BAD(mica_device_count(NULL, &n));
  BAD(mica_device_open(NULL, "cpu", &device));
  BAD(mica_gguf_open(NULL, "x", MICA_GGUF_MAP, &file));
  BAD(mica_graph_create(NULL, &graph));
  BAD(mica_graph_status(NULL, &text));
  BAD(mica_weights_create(NULL, &weights));
  BAD(mica_weights_describe(NULL, "w", MICA_F32, 1, dim));
  BAD(mica_weights_info(NULL, "w", &info));
  BAD(mica_weights_load(NULL, NULL));
  BAD(mica_weights_load_gguf(NULL, NULL, NULL, NULL));
  BAD(mica_weights_read(NULL, "w", &byte, 1));
  BAD(mica_session_create(NULL, NULL, &session));
  BAD(mica_session_compile(NULL, 1, &graph, &plan));
  BAD(mica_session_memory(NULL, &memory));
  BAD(mica_session_allocate(NULL));
  BAD(mica_session_set(NULL, "x", 0, &byte, 1));
  BAD(mica_session_get(NULL, "x", 0, &byte, 1));
  BAD(mica_session_set_extent(NULL, "n", 1));
  BAD(mica_plan_run(NULL));
  BAD(mica_plan_submit(NULL));
  BAD(mica_plan_wait(NULL));
  BAD(mica_plan_read(NULL, "y", 0, &byte, 1));
  BAD(mica_plan_output_info(NULL, "y", &info));
  BAD(mica_plan_explain(NULL, NULL, 0, &size));
  BAD(mica_kv_cache_create(NULL, NULL, &cache));
  BAD(mica_kv_reserve(NULL, 0, NULL));
  BAD(mica_kv_commit(NULL));
  BAD(mica_kv_seq_rm(NULL, 0, 0, -1));
  BAD(mica_kv_seq_cp(NULL, 0, 1, 0, -1));
  BAD(mica_kv_seq_keep(NULL, 0));
  BAD(mica_kv_seq_cp_to(NULL, 0, 1, 0, -1, 0));
  BAD(mica_kv_seq_add(NULL, 0, 0, -1, 1));
  BAD(mica_kv_seq_div(NULL, 0, 0, -1, 2));
  BAD(mica_kv_seq_seek(NULL, 0, 0));
  BAD(mica_kv_clear(NULL));
  BAD(mica_kv_mark(NULL));
  BAD(mica_kv_undo(NULL));
  BAD(mica_kv_reserve_shift(NULL, 0, NULL));
  BAD(mica_kv_save(NULL, 0, 0, "x"));
  BAD(mica_kv_save_to(NULL, 0, 0, NULL));
  BAD(mica_kv_load(NULL, 0, 0, "x", NULL));
  BAD(mica_kv_load_from(NULL, 0, 0, NULL, NULL));
  BAD(mica_dtype_decode(MICA_F16, NULL, NULL, 4));
  BAD(mica_dtype_encode((mica_dtype)99, &value, &byte, 4));
  CHECK(mica_dtype_get((mica_dtype)99) == NULL);
  CHECK(mica_dtype_find(NULL) == NULL);
  CHECK(mica_weights_count(NULL) == 0 && mica_weights_name(NULL, 0) == NULL);
  CHECK(mica_weights_bytes(NULL) == 0 && mica_weights_is_loaded(NULL) == 0);
  CHECK(strcmp(mica_context_error(NULL), "") == 0);
  CHECK(mica_status_name((mica_status)12345) != NULL &&
        mica_status_text((mica_status)12345) != NULL);
  mica_kv_abandon(NULL);
  mica_graph_scope(NULL, "x");
  mica_output(NULL, MICA_NO_TENSOR, "y");
  CHECK(mica_input(NULL, "x", MICA_F32, 1, dim, (mica_extent){0}).index == 0);
  CHECK(mica_weight(NULL, NULL, "w").index == 0);
  CHECK(mica_add(NULL, MICA_NO_TENSOR, MICA_NO_TENSOR).index == 0);
  mica_context_release(NULL);
  mica_device_release(NULL);
  mica_graph_release(NULL);
  mica_weights_release(NULL);
  mica_session_release(NULL);
  mica_kv_cache_release(NULL);
  mica_gguf_release(NULL);
}

/* One mistake a graph; each leaves a sentence with the op's name. */
static void wrong_graphs(mica_context* context) {
  const int64_t four[1] = {4}, five[1] = {5}, negative[1] = {-1}, matrix[2] = {4, 3};
  const mica_extent none = {0};
  int i;
  for (i = 0; i < 8; ++i) {
    mica_graph* graph = NULL;
    mica_graph* other = NULL;
    const char* text = NULL;
    mica_tensor a, b;
    if (!CHECK(mica_graph_create(context, &graph) == MICA_OK)) return;
    mica_graph_scope(graph, "blk.3");
    a = mica_input(graph, "a", MICA_F32, 1, four, none);
    b = mica_input(graph, "b", MICA_F32, 1, five, none);
    switch (i) {
      case 0:
        mica_add(graph, a, b);
        break;
      case 1:
        mica_matmul(graph, mica_input(graph, "w", MICA_F32, 2, matrix, none), b);
        break;
      case 2:
        mica_input(graph, "c", MICA_F32, 1, negative, none);
        break;
      case 3:
        mica_input(graph, "a", MICA_F32, 1, four, none);
        break;
      case 4:
        mica_input(graph, "d", MICA_F32, 9, four, none);
        break;
      case 5:
        mica_rms_norm(graph, a, b, 1e-5f);
        break;
      case 6:
        mica_add(graph, a, MICA_NO_TENSOR);
        break;
      default:
        CHECK(mica_graph_create(context, &other) == MICA_OK);
        mica_silu(graph, mica_input(other, "x", MICA_F32, 1, four, none));
        mica_graph_release(other);
    }
    CHECK(mica_silu(graph, mica_add(graph, a, b)).index == 0); /* errors are contagious */
    CHECK(mica_graph_status(graph, &text) == MICA_INVALID_ARGUMENT);
    CHECK(text != NULL && text[0] != '\0');
    mica_graph_release(graph);
  }
}

static void wrong_order(mica_context* context, mica_device* device) {
  const int64_t four[1] = {4};
  const mica_extent none = {0};
  mica_graph* graph = NULL;
  mica_session* session = NULL;
  mica_plan* plan = NULL;
  float x[4] = {1, 2, 3, 4};
  if (!CHECK(mica_graph_create(context, &graph) == MICA_OK)) return;
  mica_output(graph, mica_silu(graph, mica_input(graph, "x", MICA_F32, 1, four, none)), "y");
  CHECK(mica_session_create(device, NULL, &session) == MICA_OK);
  BAD(mica_session_compile(session, 1, NULL, &plan));
  BAD(mica_session_compile(session, 1, &graph, NULL));
  CHECK(mica_session_compile(session, 1, &graph, &plan) == MICA_OK);
  BAD(mica_plan_run(plan)); /* not allocated */
  CHECK(mica_session_set(session, "x", 0, x, sizeof x) != MICA_OK);
  CHECK(mica_session_allocate(session) == MICA_OK);
  BAD(mica_plan_read(plan, "y", 0, x, sizeof x)); /* no step yet */
  BAD(mica_plan_wait(plan));                      /* none running */
  CHECK(mica_session_set(session, "z", 0, x, sizeof x) == MICA_NOT_FOUND);
  BAD(mica_session_set(session, "x", 1, x, sizeof x));
  BAD(mica_session_set(session, "x", UINT64_MAX, x, 2));
  BAD(mica_session_set(session, "x", 0, NULL, 4));
  CHECK(mica_session_set_extent(session, "n", 1) == MICA_NOT_FOUND);
  CHECK(mica_session_set(session, "x", 0, x, sizeof x) == MICA_OK);
  CHECK(mica_plan_run(plan) == MICA_OK);
  CHECK(mica_plan_read(plan, "z", 0, x, 4) == MICA_NOT_FOUND);
  BAD(mica_plan_read(plan, "y", 8, x, sizeof x));
  CHECK(mica_plan_read(plan, "y", 0, x, sizeof x) == MICA_OK);
  CHECK(x[0] > 0.7310f && x[0] < 0.7311f);
  mica_session_release(session);
  mica_graph_release(graph);
}

static void wrong_weights(mica_device* device) {
  const int64_t dim[2] = {33, 2}, huge[4] = {INT64_MAX, INT64_MAX, 2, 2}, zero[1] = {0};
  mica_weights* weights = NULL;
  if (!CHECK(mica_weights_create(device, &weights) == MICA_OK)) return;
  BAD(mica_weights_describe(weights, NULL, MICA_F32, 2, dim));
  BAD(mica_weights_describe(weights, "w", MICA_Q4_0, 2, dim)); /* rows are not whole blocks */
  BAD(mica_weights_describe(weights, "w", MICA_F32, 4, huge));
  BAD(mica_weights_describe(weights, "w", MICA_F32, 1, zero));
  BAD(mica_weights_describe(weights, "w", (mica_dtype)5, 2, dim));
  CHECK(mica_weights_describe(weights, "w", MICA_F32, 2, dim) == MICA_OK);
  BAD(mica_weights_describe(weights, "w", MICA_F32, 2, dim)); /* twice */
  BAD(mica_weights_load(weights, NULL));
  mica_weights_release(weights);
}

int main(void) {
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  mica_context* context = NULL;
  mica_device* device = NULL;
  null_handles();
  params.struct_size = 1;
  BAD(mica_context_create(&params, &context));
  params.struct_size = sizeof params;
  params.n_threads = 2;
  if (!CHECK(mica_context_create(&params, &context) == MICA_OK)) return check_result();
  BAD(mica_context_add_backend(context, NULL));
  CHECK(mica_device_open(context, "cpu", &device) == MICA_NOT_FOUND); /* not added yet */
  CHECK(mica_context_add_backend(context, mica_backend_cpu()) == MICA_OK);
  BAD(mica_context_add_backend(context, mica_backend_cpu())); /* twice */
  BAD(mica_device_open(context, NULL, &device));
  CHECK(mica_device_open(context, "cpu:nonsense", &device) != MICA_OK && device == NULL);
  CHECK(mica_context_error(context)[0] != '\0');
  if (!CHECK(mica_device_open(context, "cpu", &device) == MICA_OK)) return check_result();
  mica_context_release(context); /* the device keeps it alive */
  wrong_graphs(context);
  wrong_order(context, device);
  wrong_weights(device);
  mica_device_release(device);
  return check_result();
}
