/* The boundary between core and backends: plain structs and one table of functions. Read this only
 * to write a backend; backends/template is the skeleton to copy.
 *
 * The core validates, orders, fuses and plans memory; a backend gets a *partition*: values with
 * places, nodes, regions, and the units to run in order. It compiles that once and replays it.
 *
 * Every status that is not MICA_OK is a failure, one that mica does not know too. A function that
 * fails leaves its out-parameters unread and nothing behind; the sentence for the caller goes to
 * host->set_error, but for supports and claims, which have `reason`.
 *
 * A plug-in outside of mica's tree needs the installed headers alone (-I<prefix>/include), or of a
 * source tree -Icore/include and -I. for "ops/ops.def". It links nothing of mica. */
#ifndef MICA_BACKEND_H_
#define MICA_BACKEND_H_
#include "context.h"
#include "device.h"
#include "dtype.h"

MICA_C_BEGIN

/* Changes when a struct below, a table of the cache, or what an op takes changes. */
#define MICA_BACKEND_ABI 6u
#define MICA_B_NONE UINT32_MAX
#define MICA_B_MAX_INPUTS 10

/* Op numbers; never reused. */
typedef enum mica_op_id {
  MICA_OP_NONE = 0,
#define MICA_OP(id, name, family) MICA_OP_##name = id,
#define MICA_COMPOSITE(name, family)
#include "ops/ops.def"
#undef MICA_OP
#undef MICA_COMPOSITE
  MICA_OP_FORCE_INT = 0x7fffffff
} mica_op_id;

/* How a kernel computes: what the factors of its products are rounded to, half to even. Sums, and
 * results that are stored as F32, are F32 or better in all. The conformance suite gives the oracle
 * the same numerics, so only the order and the precision of sums may differ from it. */
typedef enum mica_numerics {
  MICA_NUM_EXACT = 0, /* moves bytes or converts once: bit-equal to the reference */
  MICA_NUM_F32 = 1,
  MICA_NUM_F16 = 2,    /* activations rounded to F16's 11 bits, in its range or scaled by a power of
                          two per row; weights as they are stored, quantized ones exact */
  MICA_NUM_BF16 = 3,   /* activations rounded to BF16 */
  MICA_NUM_Q8_32 = 4,  /* activations rounded to int8 with one F32 scale a 32 elements: amax =
                          max|x|, q = half-to-even(x * (127 / amax)), scale = amax / 127, each one
                          F32 operation; zeros where amax is 0 or 127 / amax overflows */
  MICA_NUM_Q8_256 = 5, /* the same with one scale a 256 */
  MICA_NUM_F64 = 6,
  MICA_NUM_F16_W = 7 /* as MICA_NUM_F16, and each value of a quantized weight rounded to F16 */
} mica_numerics;

/* What the core lends a backend; valid until the device is closed. */
typedef struct mica_host {
  size_t struct_size;
  void* user;
  const mica_allocator* allocator;
  const mica_executor* executor;  /* NULL: bring your own threads */
  uint32_t n_threads;             /* wanted; 0: the backend chooses */
  const volatile int32_t* cancel; /* may be NULL */
  void (*log)(void* user, mica_log_level level, const char* text);
  void (*set_error)(void* user, mica_status status, const char* text); /* text of a failing call */
} mica_host;

typedef struct mica_b_device mica_b_device; /* opaque: a backend casts to types of its own */
typedef struct mica_b_buffer mica_b_buffer;
typedef struct mica_b_plan mica_b_plan;

typedef enum mica_b_storage {
  MICA_B_TEMP = 0,    /* in the arena: lives between two units */
  MICA_B_STEP = 1,    /* in the step block: inputs; ops may write them */
  MICA_B_WEIGHT = 2,  /* immutable, in the backend's layout */
  MICA_B_STATE = 3,   /* K or V pages of a cache, in the backend's layout */
  MICA_B_UNPLACED = 4 /* inside a region and used nowhere else: has no memory. Its offset only tells
                         which values are views of it: they lie in [offset, offset + bytes) */
} mica_b_storage;

/* A tensor with its place. */
typedef struct mica_b_value {
  mica_dtype dtype;
  uint32_t rank;
  int64_t dim[4];    /* maxima */
  int64_t stride[4]; /* bytes; stride[0] is one element or, of quantized types, one block */
  uint32_t extent;   /* index in partition.extents of dim[rank - 1], or MICA_B_NONE */
  uint32_t storage;  /* mica_b_storage */
  uint32_t buffer;   /* index of the buffers given to compile */
  uint32_t layout;   /* what weight_layout, kv_layout or value_layout answered */
  uint64_t offset;   /* bytes, in its buffer */
  uint64_t bytes;    /* from offset, all it can touch */
} mica_b_value;

typedef struct mica_b_node {
  uint32_t op; /* mica_op_id */
  uint32_t n_inputs;
  uint32_t input[MICA_B_MAX_INPUTS]; /* value, or MICA_B_NONE for an absent optional one */
  uint32_t output;                   /* value; of state ops the one that input[0] names too. It may
                                        lie in the memory of input[0]: see mica_b_unit */
  uint32_t args_size;
  const void* args; /* the op's x_args.h struct */
  const char* name; /* the scope it was built in, for texts; never NULL */
} mica_b_node;

/* Nodes that one kernel may do at once, named after the fusion. Values of members that are not
 * MICA_B_UNPLACED are outputs of the region: it writes them all. */
typedef struct mica_b_region {
  const char* fusion;
  uint32_t n_members;
  const uint32_t* members; /* node indices, in the order that core/fusions/<fusion>.cpp says */
  uint32_t claimed;        /* set by the core from claims() */
} mica_b_region;

/* What runs, in order: a node, or a claimed region.
 *
 * The output of a unary op, of add, sub, mul and div, and of rope may have the very bytes of
 * input[0], when shapes, strides and dtype are the same and nothing reads that input later: their
 * kernels read an element (rope: a pair) before they write it, and clear nothing first. No other
 * output overlaps an input, but of state ops, and none of a region does. */
typedef struct mica_b_unit {
  uint32_t node;     /* the node, or of a region the member in whose place it runs */
  uint32_t region;   /* MICA_B_NONE for a single node */
  uint32_t barrier;  /* non-zero: everything before it must be complete. Units without it overlap no
                        byte that a unit since the last barrier writes, nor write one it reads */
  uint32_t numerics; /* as query() answered */
  uint64_t workspace_offset; /* in the arena (buffer 0) */
  uint64_t workspace_bytes;  /* as query() answered */
} mica_b_unit;

typedef struct mica_b_extent {
  int64_t max;
  uint64_t offset; /* of its I32 value in the step block (buffer 1) */
} mica_b_extent;

typedef struct mica_b_partition {
  size_t struct_size;
  uint32_t n_values, n_nodes, n_regions, n_units, n_extents, n_buffers;
  const mica_b_value* values; /* values[0] is none: its fields mean nothing */
  const mica_b_node* nodes;   /* what is computed: a view, reshape or permute is no node, and no
                                 unit, but a value whose bytes are another's */
  const mica_b_region* regions;
  const mica_b_unit* units;
  const mica_b_extent* extents;
  const char* variant; /* NULL, or the kernel row to take where an op has one of that name that
                          runs the case ("naive"); elsewhere the usual choice */
} mica_b_partition;

typedef struct mica_b_need {
  size_t struct_size;
  uint64_t workspace_bytes; /* in the arena while the unit runs, sized for maxima */
  uint32_t numerics;        /* mica_numerics */
  char kernel[48];          /* what will run, for reports: "matmul.q4_0.packed.avx512" */
} mica_b_need;

/* Storage of one page (64 cells) of one layer's K or V. */
typedef struct mica_b_kv_desc {
  mica_dtype dtype;
  uint32_t head_dim;
  uint32_t n_kv_heads;
  uint32_t is_v;
} mica_b_kv_desc;

/* A device is used by one thread at a time, but for buffer_free of weights: contexts on one device
 * share them, and the last one to go frees them in its own thread. Once a device is lost every
 * function may answer DEVICE_LOST at once; plan_release, buffer_free and device_close must still
 * work, and wait for nothing that will not come. */
struct mica_backend {
  size_t struct_size;
  uint32_t abi;     /* MICA_BACKEND_ABI */
  const char* name; /* "cpu" */

  /* Devices. `i` counts from 0. `option` is what followed the colon, "" if nothing did. */
  uint32_t (*device_count)(const mica_host* host);
  mica_status (*device_info)(const mica_host* host, uint32_t i, mica_device_info* out_info);
  mica_status (*device_open)(const mica_host* host, const char* option, mica_b_device** out_device);
  void (*device_close)(mica_b_device* device);
  /* What device_info says, of an open device, as of now. */
  mica_status (*device_state)(mica_b_device* device, mica_device_info* out_info);

  /* Buffers: zeroed, aligned to 256 bytes or better. `map` gives a host pointer or NULL. `import`
   * makes a buffer of host memory that the caller keeps until buffer_free; entry and answer may be
   * NULL or UNSUPPORTED. Reads, writes and copies are ordered with submitted steps; a write may
   * return before the device has it, `src` is free again. */
  mica_status (*buffer_create)(mica_b_device* device, uint64_t bytes, mica_b_buffer** out_buffer);
  void (*buffer_free)(mica_b_buffer* buffer);
  mica_status (*buffer_import)(mica_b_device* device, void* host, uint64_t bytes,
                               mica_b_buffer** out_buffer);
  void* (*buffer_map)(mica_b_buffer* buffer);
  mica_status (*buffer_write)(mica_b_buffer* buffer, uint64_t offset, const void* src,
                              uint64_t bytes);
  mica_status (*buffer_read)(mica_b_buffer* buffer, uint64_t offset, void* dst, uint64_t bytes);
  mica_status (*buffer_copy)(mica_b_buffer* dst, uint64_t dst_offset, mica_b_buffer* src,
                             uint64_t src_offset, uint64_t bytes);

  /* Weights. layout: a number of the backend's own and the bytes the weight takes (64-byte aligned
   * places are given). pack: rows [first, first + n) of dim[0] elements each, counted over all
   * other dimensions; `first` is a multiple of `granule_rows` and so is n except at the end.
   * unpack: the inverse, bit by bit. Its buffer, like the weights' in compile, may have been made
   * and filled through another handle of the same device. That one may be at work in another
   * thread: only `device` may be used. */
  mica_status (*weight_layout)(mica_b_device* device, const mica_b_value* weight,
                               uint32_t* out_layout, uint64_t* out_bytes,
                               uint32_t* out_granule_rows);
  mica_status (*weight_pack)(mica_b_device* device, const mica_b_value* weight,
                             mica_b_buffer* buffer, const void* rows, uint64_t first, uint64_t n);
  mica_status (*weight_unpack)(mica_b_device* device, const mica_b_value* weight,
                               mica_b_buffer* buffer, void* rows, uint64_t first, uint64_t n);
  /* Fills a whole weight with random blocks whose values have a standard deviation of about 0.02,
   * the same for a (dtype, shape, seed); for benchmarks. May be NULL: the caller packs rows. */
  mica_status (*weight_random)(mica_b_device* device, const mica_b_value* weight,
                               mica_b_buffer* buffer, uint64_t seed);

  /* KV pages. Stored cells are plain rows [head_dim] a head in dtype for pack and unpack. */
  mica_status (*kv_layout)(mica_b_device* device, const mica_b_kv_desc* desc, uint32_t* out_layout,
                           uint64_t* out_page_bytes);
  /* The page at `offset`: 64 cells of n_kv_heads plain rows each. unpack is the inverse, bit by
   * bit; elements that pad a head to whole blocks are kept. */
  mica_status (*kv_pack)(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                         uint64_t offset, const void* rows);
  mica_status (*kv_unpack)(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                           uint64_t offset, void* rows);

  /* How many bytes of an op's args the kernels know, MICA_B_NONE for all: when one beyond is not
   * zero, the core answers "unsupported" without asking further. State the end of the last field
   * that the kernels read, offsetof + sizeof of that field: the struct's own size grows with later
   * versions, and an option would be ignored without a word. May be NULL: all. */
  uint32_t (*args_bytes)(mica_b_device* device, uint32_t op);
  /* Compiling. The core has checked what the op's header (ops/<family>.h) says of shapes, strides,
   * dtypes and options, and nothing else is asked: OK is a promise to compute all of that for every
   * live value from 0 to the maximum, MICA_UNSUPPORTED a no, for which `reason` gets a sentence
   * (dtypes, layouts, sizes that there is no kernel for). Answers depend on the partition alone and
   * do not change. None of the three allocates. In supports, claims and query the values have no
   * place yet; of temporaries and inputs `offset` is that of a view in its value, and a whole value
   * gets a multiple of 256 later: so how a value will be aligned is known. */
  mica_status (*supports)(mica_b_device* device, const mica_b_partition* partition, uint32_t node,
                          char* reason, size_t capacity);
  mica_status (*claims)(mica_b_device* device, const mica_b_partition* partition, uint32_t region,
                        char* reason, size_t capacity);
  /* A temporary that only units of this partition use, and no view of it: in what private form
   * (a number of the backend's own, 0 for plain rows) and bytes it is to be kept. Asked after the
   * claims, before `supports` and `query`, which then see the answers. May be NULL: all plain. */
  mica_status (*value_layout)(mica_b_device* device, const mica_b_partition* partition,
                              uint32_t value, uint32_t* out_layout, uint64_t* out_bytes);
  mica_status (*query)(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                       mica_b_need* out_need);
  /* The partition and what it points to live as long as the plan. buffers[0] is the arena,
   * buffers[1] the step block, then weights and states. */
  mica_status (*compile)(mica_b_device* device, const mica_b_partition* partition,
                         mica_b_buffer* const* buffers, mica_b_plan** out_plan);
  /* One step: extents' values and inputs are in the step block. One in flight a plan. */
  mica_status (*submit)(mica_b_plan* plan);
  mica_status (*wait)(mica_b_plan* plan);
  void (*plan_release)(mica_b_plan* plan);

  /* What is taken of the device's memory beside buffers: what the driver is expected to take, and
   * what `compile` allocates that grows with shapes or threads. For a plan, or, of `partition`
   * NULL, once for all of them, such as code. May be NULL: nothing. */
  uint64_t (*reserve)(mica_b_device* device, const mica_b_partition* partition);

  /* The name of the i-th kernel row that can run the unit, counted from 0; NULL behind the last.
   * Each can be asked for as the partition's variant. Static strings. What `query` may be asked
   * with, this may be too. For tests, which run them all; may be NULL: there is one row an op. */
  const char* (*variants)(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                          uint32_t i);
};

/* A plug-in exports this. Called once; the result is static. */
typedef const mica_backend* (*mica_backend_entry_fn)(void);

MICA_C_END
#endif
