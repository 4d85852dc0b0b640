// A step allocates nothing: malloc and its family, mmap and pthread_create are counted in the whole
// process while 200 tokens are decoded and prompts of several lengths run.
//   alloc_count [DEVICE]
#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "tests/unit/tiny_model.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<long> n_calls{0};

void count() {
  if (counting.load(std::memory_order_relaxed)) n_calls.fetch_add(1);
}

}  // namespace

// The program's own definitions come before the C library's; __libc_… are what those call.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

void* malloc(size_t n) {
  count();
  return __libc_malloc(n);
}
void* calloc(size_t n, size_t size) {
  count();
  return __libc_calloc(n, size);
}
void* realloc(void* p, size_t n) {
  count();
  return __libc_realloc(p, n);
}
void free(void* p) {
  if (p != nullptr) count();
  __libc_free(p);
}
void* memalign(size_t align, size_t n) {
  count();
  return __libc_memalign(align, n);
}
void* aligned_alloc(size_t align, size_t n) { return memalign(align, n); }
int posix_memalign(void** out, size_t align, size_t n) {
  *out = memalign(align, n);
  return *out != nullptr ? 0 : ENOMEM;
}

// The linker's --wrap sends the library's calls here.
void* __real_mmap(void*, size_t, int, int, int, off_t);
void* __wrap_mmap(void* at, size_t n, int protection, int flags, int fd, off_t offset) {
  count();
  return __real_mmap(at, n, protection, flags, fd, offset);
}
int __real_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
int __wrap_pthread_create(pthread_t* t, const pthread_attr_t* a, void* (*f)(void*), void* arg) {
  count();
  return __real_pthread_create(t, a, f, arg);
}
}

namespace {

void check(mica_status status, const mica_context* context) {
  if (status == MICA_OK) return;
  std::fprintf(stderr, "%s: %s\n", mica_status_name(status), mica_context_error(context));
  std::exit(1);
}

int run(const char* device_name) {
  mica_context* context = nullptr;
  mica_device* device = nullptr;
  mica_weights* weights = nullptr;
  mica_kv_cache* cache = nullptr;
  mica_session* session = nullptr;
  mica_graph* graphs[2] = {};
  mica_plan* plans[2] = {};
  mica::test::TinyShape shape;
  shape.window = 40;
  const mica::test::TinyModel model(shape);
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.n_threads = 3;
  check(mica_context_create(&params, &context), nullptr);
  check(mica_context_add_backend(context, mica_backend_cpu()), context);
  check(mica_device_open(context, device_name, &device), context);
  check(mica_weights_create(device, &weights), context);
  check(model.describe(weights), context);
  check(model.load(weights), context);
  check(model.make_cache(device, &cache), context);
  mica_session_params session_params = MICA_SESSION_PARAMS_INIT;
  session_params.cache = cache;
  check(mica_session_create(device, &session_params, &session), context);
  const int64_t sizes[] = {1, 512};
  for (int i = 0; i < 2; ++i) {
    check(mica_graph_create(context, &graphs[i]), context);
    model.build(graphs[i], weights, cache, sizes[i]);
    check(mica_graph_status(graphs[i], nullptr), context);
  }
  check(mica_session_compile(session, 2, graphs, plans), context);
  check(mica_session_allocate(session), context);
  const std::vector<int32_t> ids = mica::test::token_ids(shape, 512);
  std::vector<float> logits(static_cast<size_t>(shape.n_vocab));

  const auto step = [&](int i_plan, uint32_t seq, uint32_t n) {
    const mica_kv_span span = {seq, n};
    check(mica_kv_reserve(cache, 1, &span), context);
    check(mica_session_set(session, "ids", 0, ids.data(), n * sizeof(int32_t)), context);
    check(mica_plan_run(plans[i_plan]), context);
    check(mica_plan_read(plans[i_plan], "logits", 0, logits.data(), logits.size() * 4), context);
  };
  counting = true;
  for (const uint32_t n : {5u, 64u, 65u, 512u, 1u}) {
    check(mica_kv_seq_rm(cache, MICA_KV_ALL_SEQS, 0, -1), context);
    step(1, 0, n);
  }
  check(mica_kv_seq_cp(cache, 0, 1, 0, -1), context);
  for (int i = 0; i < 200; ++i) step(0, static_cast<uint32_t>(i % 2), 1);
  counting = false;
  const long n = n_calls;

  // The counter works: a new object is seen.
  counting = true;
  mica_graph* more = nullptr;
  check(mica_graph_create(context, &more), context);
  mica_graph_release(more);
  counting = false;
  if (n_calls == n) {
    std::fprintf(stderr, "the counter sees nothing\n");
    return 1;
  }
  mica_session_release(session);
  for (mica_graph* g : graphs) mica_graph_release(g);
  mica_kv_cache_release(cache);
  mica_weights_release(weights);
  mica_device_release(device);
  mica_context_release(context);
  std::printf("%s: %ld calls of malloc, free, mmap or pthread_create in 205 steps\n", device_name,
              n);
  return n == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) { return run(argc > 1 ? argv[1] : "cpu"); }
