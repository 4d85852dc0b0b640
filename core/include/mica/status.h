/* Status codes. Every function that can fail returns one; its text: mica_context_error, or while
 * building mica_graph_status. An object that it was to give (out_x) is then NULL. */
#ifndef MICA_STATUS_H_
#define MICA_STATUS_H_

#ifdef __cplusplus
#define MICA_C_BEGIN extern "C" {
#define MICA_C_END }
#else
#define MICA_C_BEGIN
#define MICA_C_END
#endif
MICA_C_BEGIN

#if defined(MICA_API_HIDDEN) /* building the archive: see CMakeLists.txt */
#define MICA_API __attribute__((visibility("hidden")))
#else
#define MICA_API __attribute__((visibility("default")))
#endif

/* X(NAME, number, text). Numbers are never reused; gaps are left for later codes. */
#define MICA_STATUS_LIST(X)                                                          \
  X(OK, 0, "ok")                                                                     \
  X(INVALID_ARGUMENT, 1, "invalid argument: the same call would fail again")         \
  X(UNSUPPORTED, 2, "valid, but the chosen device cannot do it")                     \
  X(NOT_FOUND, 3, "no such name, device, file or key")                               \
  X(OUT_OF_MEMORY, 10, "out of memory; everything allocated before is still usable") \
  X(OVER_BUDGET, 11, "the memory budget is too small; nothing was allocated")        \
  X(CACHE_FULL, 12, "the KV cache has no room; it is as it was before the call")     \
  X(IO, 20, "reading or writing failed")                                             \
  X(BAD_FILE, 21, "the file is damaged or is not what it claims to be")              \
  X(NO_DEVICE, 30, "no such device, or its driver is missing or too old")            \
  X(DEVICE_LOST, 31, "the device failed; objects on it can only be released")        \
  X(CANCELLED, 40, "cancelled; the step did not take place")                         \
  X(BUSY, 41, "the object is in use by a step that has not been waited for")         \
  X(INTERNAL, 99, "a defect in mica; please report it")

typedef enum mica_status {
#define MICA_STATUS_ENUM(name, number, text) MICA_##name = number,
  MICA_STATUS_LIST(MICA_STATUS_ENUM)
#undef MICA_STATUS_ENUM
      MICA_STATUS_FORCE_INT = 0x7fffffff
} mica_status;

/* The code's name without prefix ("OUT_OF_MEMORY"); never NULL. Thread-safe. */
MICA_API const char* mica_status_name(mica_status status);
/* The code's general meaning, one sentence; never NULL. Thread-safe. */
MICA_API const char* mica_status_text(mica_status status);

MICA_C_END
#endif
