/* Preloaded into a program: its n-th allocation fails, or its n-th thread cannot be made. Numbers
 * from the environment, 1 is the first: MICA_FAIL_MALLOC, MICA_FAIL_THREAD. The number of
 * allocations is written to the file MICA_COUNT_FILE when the program ends. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static atomic_long n_allocations, n_threads;

/* No atol: this runs before the C library is ready. -1 when it is not set. */
static long number(const char* name) {
  const char* text = environ != NULL ? getenv(name) : NULL;
  long n = 0;
  if (text == NULL || *text == '\0') return -1;
  for (; *text >= '0' && *text <= '9'; ++text) n = n * 10 + (*text - '0');
  return n;
}

static int fails(void) {
  if (atomic_fetch_add(&n_allocations, 1) + 1 != number("MICA_FAIL_MALLOC")) return 0;
  errno = ENOMEM;
  return 1;
}

void* malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
void* calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void* realloc(void* p, size_t n) { return fails() ? NULL : __libc_realloc(p, n); }
void* memalign(size_t align, size_t n) { return fails() ? NULL : __libc_memalign(align, n); }
void* aligned_alloc(size_t align, size_t n) { return memalign(align, n); }
int posix_memalign(void** out, size_t align, size_t n) {
  *out = memalign(align, n);
  return *out != NULL ? 0 : ENOMEM;
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*main)(void*),
                   void* argument) {
  static int (*real)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  if (atomic_fetch_add(&n_threads, 1) + 1 == number("MICA_FAIL_THREAD")) return EAGAIN;
  if (real == NULL) *(void**)&real = dlsym(RTLD_NEXT, "pthread_create");
  return real(thread, attributes, main, argument);
}

__attribute__((destructor)) static void report(void) {
  const char* path = getenv("MICA_COUNT_FILE");
  FILE* file = path != NULL ? fopen(path, "w") : NULL;
  if (file == NULL) return;
  fprintf(file, "%ld\n", atomic_load(&n_allocations));
  fclose(file);
}
