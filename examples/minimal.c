/* The smallest use of mica: y = silu(W x + b) on the CPU. Build: cc -std=c99 minimal.c libmica.a
 * -lm -lpthread. A graph is written down once, compiled to a plan, and run as often as one likes.
 */
#include <mica/mica.h>
#include <stdio.h>
#include <string.h>

#define N_IN 4
#define N_OUT 3

static const float kWeight[N_OUT][N_IN] = {{1, 0, 0, 0}, {0, 2, 0, 0}, {1, 1, 1, 1}};
static const float kBias[N_OUT] = {0, -1, 0.5f};

/* Gives a weight's rows when they are loaded: weight 0 is W, weight 1 is b, as described below. */
static mica_status read_weight(void* user, uint32_t i, uint64_t offset, uint64_t bytes,
                               void* staging, const void** out) {
  (void)user, (void)bytes, (void)staging;
  *out = (const char*)(i == 0 ? (const void*)kWeight : (const void*)kBias) + offset;
  return MICA_OK;
}

int main(void) {
  mica_context* context = NULL;
  mica_device* device = NULL;
  mica_weights* weights = NULL;
  mica_graph* graph = NULL;
  mica_session* session = NULL;
  mica_plan* plan = NULL;
  mica_weight_source source;
  const int64_t w_dim[] = {N_IN, N_OUT}, b_dim[] = {N_OUT},
                x_dim[] = {N_IN}; /* dim[0] is fastest */
  const float x[N_IN] = {1, 2, 3, 4};
  float y[N_OUT] = {0, 0, 0};
  int i;

  /* 1. A context lends mica memory, threads and a log; a device is where graphs run. */
  if (mica_context_create(NULL, &context) != MICA_OK) return 1;
  mica_status status = mica_context_add_backend(context, mica_backend_cpu());
  if (!status) status = mica_device_open(context, "cpu", &device);

  /* 2. Weights are described, so that graphs can be compiled; then loaded, in the device's layout.
   */
  memset(&source, 0, sizeof source);
  source.read = read_weight;
  if (!status) status = mica_weights_create(device, &weights);
  if (!status) status = mica_weights_describe(weights, "W", MICA_F32, 2, w_dim);
  if (!status) status = mica_weights_describe(weights, "b", MICA_F32, 1, b_dim);
  if (!status) status = mica_weights_load(weights, &source);

  /* 3. The graph: plain expressions. A mistake in any of them shows when it is compiled. */
  if (!status) status = mica_graph_create(context, &graph);
  if (!status) {
    const mica_extent fixed = MICA_NO_EXTENT; /* no dimension changes from step to step */
    mica_tensor in = mica_input(graph, "x", MICA_F32, 1, x_dim, fixed);
    mica_tensor sum = mica_add(graph, mica_matmul(graph, mica_weight(graph, weights, "W"), in),
                               mica_weight(graph, weights, "b"));
    mica_output(graph, mica_silu(graph, sum), "y");
  }

  /* 4. A session compiles it to a plan and allocates all that running needs. */
  if (!status) status = mica_session_create(device, NULL, &session);
  if (!status) status = mica_session_compile(session, 1, &graph, &plan);
  if (!status) status = mica_session_allocate(session);

  /* 5. A step: set the inputs, run, read the outputs. */
  if (!status) status = mica_session_set(session, "x", 0, x, sizeof x);
  if (!status) status = mica_plan_run(plan);
  if (!status) status = mica_plan_read(plan, "y", 0, y, sizeof y);

  if (status) fprintf(stderr, "minimal: %s\n", mica_context_error(context));
  for (i = 0; !status && i < N_OUT; ++i) printf("y[%d] = %.6f\n", i, (double)y[i]);
  mica_session_release(session); /* releasing NULL is fine; the order does not matter */
  mica_graph_release(graph);
  mica_weights_release(weights);
  mica_device_release(device);
  mica_context_release(context);
  return status ? 1 : 0;
}
