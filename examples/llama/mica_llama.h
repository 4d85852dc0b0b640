/* mica-llama: GGUF language models for C programs, on the mica library. examples/embed.c shows a
 * whole program.
 *
 *   mica_llama_model_open -> mica_llama_model_load -> mica_llama_session_create
 *   -> { mica_llama_decode, mica_llama_sample } … -> release
 *
 * A model is immutable once loaded; any number of sessions share its weights. A session belongs to
 * one thread at a time; different sessions may run on different threads. Functions of a model may
 * be called from several threads at once. No function lets a C++ exception out or ends the process.
 *
 * Structs filled by the caller begin with struct_size; start from their …_INIT. Counts are in
 * elements. Functions that write text or ids take a capacity and give the full size: call once with
 * capacity 0 (and NULL) to learn the size, or with a guess and again when the size exceeds it. */
#ifndef MICA_LLAMA_H_
#define MICA_LLAMA_H_
#include "mica/context.h"
#include "mica/kv_cache.h"
#include "mica/session.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mica_llama_model mica_llama_model;
typedef struct mica_llama_session mica_llama_session;

/* One sentence about the last call of this thread that failed; "" if none did. Valid until the
 * thread's next failing call. Bytes that came from a file are escaped in it. */
MICA_API const char* mica_llama_error(void);

/* ---- models ---- */

typedef struct mica_llama_model_params {
  size_t struct_size;
  /* As mica_device_open takes it: "cpu", "cpu:avx2", "cuda:1", "vulkan:NVIDIA"; NULL: "cpu".
   * "auto": the first cuda device, else the first of vulkan that is no processor, else cpu;
   * model_info tells which. No other name ever gives another device than it says. */
  const char* device;
  uint32_t n_threads;        /* of loading, and of sessions that do not say; 0: physical cores */
  const mica_logger* logger; /* NULL: silent; called from the threads that call mica-llama */
  const volatile int32_t*
      cancel; /* non-zero stops loads and steps; may be NULL; outlives the model */
  uint64_t memory_budget_bytes; /* for each session with the weights; 0: none */
  /* May be NULL. Called while loading with bytes done and bytes in all; non-zero cancels. */
  int (*progress)(void* user, uint64_t done, uint64_t total);
  void* progress_user;
  /* 0: the file is read, and one that changes or becomes shorter while it loads is an error (IO).
   * Else it is mapped until the weights are loaded: a file that becomes shorter in that time then
   * raises SIGBUS, which ends the host unless it handles that. */
  int32_t map_file;
  /* Not 0: RoPE is scaled by YaRN (Peng et al. 2023, arXiv 2309.00071) to contexts this many times
   * as long as the model was trained on, 1 to 1000, whatever scaling the file asks for. */
  float yarn_factor;
} mica_llama_model_params;
#define MICA_LLAMA_MODEL_PARAMS_INIT \
  { sizeof(mica_llama_model_params), NULL, 0, NULL, NULL, 0, NULL, NULL, 0, 0.0f }

/* Reads and checks a GGUF file's metadata and describes its weights; loads no weight. `params` may
 * be NULL. Errors: NOT_FOUND (file or device), IO (not a regular file), BAD_FILE, UNSUPPORTED (an
 * architecture, tensor type or tokenizer this build lacks), INVALID_ARGUMENT, NO_DEVICE,
 * OUT_OF_MEMORY. */
MICA_API mica_status mica_llama_model_open(const char* path, const mica_llama_model_params* params,
                                           mica_llama_model** out_model);
/* Loads the weights, once; a second call does nothing. Sessions may be created before (to know and
 * to reserve their memory). Errors: IO, OUT_OF_MEMORY, OVER_BUDGET, CANCELLED; may be tried again.
 */
MICA_API mica_status mica_llama_model_load(mica_llama_model* model);
/* Sessions made from it keep it alive. NULL is a no-op. */
MICA_API void mica_llama_model_release(mica_llama_model* model);

typedef struct mica_llama_model_info {
  char description[96]; /* "llama 135M Q4_1" */
  char device[192];     /* backend and what it runs on */
  uint64_t n_params;    /* elements of all weights */
  uint64_t file_bytes;  /* of the weights as stored in the file */
  uint32_t n_vocab;
  uint32_t n_ctx_train; /* tokens of context it was trained on */
  uint32_t n_embd;
  uint32_t n_layers;
  uint32_t n_heads;
  uint32_t n_kv_heads;
  uint32_t n_kv_layers;  /* layers with K and V of their own; the others read an earlier one's */
  int32_t has_tokenizer; /* 0 for models of random weights */
  int32_t is_chatml;     /* its chat template is ChatML */
  int32_t bos;           /* -1: none */
  int32_t eos;           /* -1: none */
  int32_t adds_bos;      /* whether tokenizing with add_special begins with bos */
} mica_llama_model_info;
/* Errors: INVALID_ARGUMENT. */
MICA_API mica_status mica_llama_model_get_info(const mica_llama_model* model,
                                               mica_llama_model_info* out_info);

/* A model of random weights in the shape of a real one, without a tokenizer: for measuring. A GPU
 * makes its matrices itself. `shape` is NAME:TYPE; names: tinyllama-1.1b smollm2-135m llama-3.2-1b
 * llama-3.1-8b llama-70b mha-7b; types: f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k, and
 * the mixes q4_k_m q5_k_m. Where a row is no whole number of blocks of 256, a type of blocks of 32
 * takes its place. Errors: as model_open. */
MICA_API mica_status mica_llama_shape_open(const char* shape, const mica_llama_model_params* params,
                                           mica_llama_model** out_model);
/* Writes the weights that a cpu makes of it as a complete GGUF file with a tokenizer of made-up
 * words. The file appears whole or not at all. Errors: INVALID_ARGUMENT (no such shape), IO,
 * OUT_OF_MEMORY. */
MICA_API mica_status mica_llama_shape_write(const char* shape, const char* path,
                                            int (*progress)(void* user, uint64_t done,
                                                            uint64_t total),
                                            void* user);

/* ---- text ---- */

#define MICA_LLAMA_ADD_SPECIAL 1u    /* tokenize: with the bos and eos that the model wants */
#define MICA_LLAMA_PARSE_SPECIAL 2u  /* tokenize: "<|im_end|>" in the text is that token */
#define MICA_LLAMA_RENDER_SPECIAL 4u /* detokenize: write special tokens out */

/* Text to ids. At most `capacity` ids are written; *out_n is how many there are. Errors:
 * INVALID_ARGUMENT (also: more than 2^31-1 bytes), UNSUPPORTED (no tokenizer), OUT_OF_MEMORY. */
MICA_API mica_status mica_llama_tokenize(const mica_llama_model* model, const char* text,
                                         size_t text_bytes, uint32_t flags, int32_t* ids,
                                         size_t capacity, size_t* out_n);
/* Ids to bytes, no NUL added. A single token may be part of a character. Errors: INVALID_ARGUMENT
 * (also: an id outside the vocabulary), UNSUPPORTED, OUT_OF_MEMORY. */
MICA_API mica_status mica_llama_detokenize(const mica_llama_model* model, const int32_t* ids,
                                           size_t n_ids, uint32_t flags, char* text,
                                           size_t capacity, size_t* out_bytes);
/* Wraps one user message in the model's chat form; tokenize the result with PARSE_SPECIAL. `system`
 * may be NULL: the template's own. No NUL added. Errors: UNSUPPORTED (the model's template is not
 * ChatML, or there is none), INVALID_ARGUMENT, OUT_OF_MEMORY. */
MICA_API mica_status mica_llama_chat(const mica_llama_model* model, const char* user,
                                     size_t user_bytes, const char* system, size_t system_bytes,
                                     char* text, size_t capacity, size_t* out_bytes);
/* 1 when generation ends with this token. */
MICA_API int mica_llama_is_end(const mica_llama_model* model, int32_t id);

/* ---- sessions ---- */

typedef struct mica_llama_session_params {
  size_t struct_size;
  uint32_t n_ctx;     /* tokens a sequence can hold, at whatever positions: a gap takes no room;
                         0: what it was trained on, at most 4096 */
  uint32_t n_batch;   /* tokens of one step at most; longer input takes several; 0: 512 */
  uint32_t n_seqs;    /* sequences: ids 0 … n_seqs - 1; 0: 1 */
  uint32_t n_outputs; /* rows of logits of one step at most; 0: n_seqs */
  uint32_t n_threads; /* 0: the model's */
  mica_dtype dtype_k; /* of the cache: F32 F16 BF16 Q8_0 Q5_1 Q5_0 Q4_1 Q4_0 */
  mica_dtype dtype_v;
  const char* variant;            /* of kernels, NULL: the fastest; "naive" */
  const volatile int32_t* cancel; /* NULL: the model's */
  mica_kv_keys keys; /* ROTATED, RELATIVE or UNROTATED (mica/kv_cache.h): what moving cells costs */
  /* What decode does when a sequence is full. 0: it fails with CACHE_FULL. Else it drops tokens
   * behind the first n_keep, at least n_drop and as many as it must, and moves the rest down
   * (context shift); MICA_LLAMA_DROP_HALF: half of them. n_keep = 4 with a small n_drop is
   * StreamingLLM (Xiao et al. 2024, arXiv 2309.17453). What is left keeps what it had attended to.
   * Tokens that share a position (extend_factor) are kept or dropped together, so that up to
   * extend_factor - 1 more are kept, and as many more dropped. */
  uint32_t n_keep;
  uint32_t n_drop;
  /* Self-Extend (Jin et al. 2024, arXiv 2401.01325): each time extend_window tokens are behind the
   * last group, they are made one, their positions divided by extend_factor. 0 or 1: off. */
  uint32_t extend_factor;
  uint32_t extend_window; /* a multiple of extend_factor; models with a sliding window: refused */
} mica_llama_session_params;
#define MICA_LLAMA_DROP_HALF UINT32_MAX
#define MICA_LLAMA_SESSION_PARAMS_INIT                                                \
  {                                                                                   \
    sizeof(mica_llama_session_params), 0, 0, 0, 0, 0, MICA_F16, MICA_F16, NULL, NULL, \
        MICA_KV_KEYS_RELATIVE, 0, 0, 0, 0                                             \
  }

/* What a session of these parameters takes, weights included: exact, nothing is allocated on the
 * device and nothing loaded. Moves take no more where K is ROTATED or Self-Extend is on; else the
 * first one whose cells must be rotated (mica_llama_seq_div or more than 63 different moves of
 * RELATIVE keys, loading what another kind saved) adds a small plan. `params` may be NULL. Errors:
 * as session_create. */
MICA_API mica_status mica_llama_memory(mica_llama_model* model,
                                       const mica_llama_session_params* params,
                                       mica_memory* out_memory);
/* Errors: INVALID_ARGUMENT, UNSUPPORTED (the device cannot do it; the text says what), OVER_BUDGET,
 * OUT_OF_MEMORY. */
MICA_API mica_status mica_llama_session_create(mica_llama_model* model,
                                               const mica_llama_session_params* params,
                                               mica_llama_session** out_session);
MICA_API void mica_llama_session_release(mica_llama_session* session);
MICA_API mica_status mica_llama_session_memory(const mica_llama_session* session,
                                               mica_memory* out_memory);
/* The session's n_ctx. */
MICA_API uint32_t mica_llama_n_ctx(const mica_llama_session* session);
/* Where and how the steps run (mica_plan_explain), no NUL added. */
MICA_API mica_status mica_llama_explain(const mica_llama_session* session, char* text,
                                        size_t capacity, size_t* out_bytes);

/* `n_tokens` tokens of sequence `seq`, appended at its end. */
typedef struct mica_llama_span {
  uint32_t seq;
  uint32_t n_tokens;
} mica_llama_span;

typedef struct mica_llama_batch {
  size_t struct_size;
  uint32_t n_spans;
  const mica_llama_span* spans; /* each sequence at most once */
  const int32_t* tokens;        /* of all spans, one after the other */
  const uint8_t* outputs;       /* per token: non-zero to get its logits; NULL: each span's last */
} mica_llama_batch;

/* Runs the tokens, in several steps when there are more than n_batch. On an error each sequence
 * ends where it did before; where a sliding window has let go of what it would go on with, or where
 * Self-Extend has grouped between the steps, the sequence is emptied (mica_llama_seq_next is 0),
 * and the error's text says which were. Whether the tokens of all spans find room in n_ctx is known
 * before anything is dropped for them: else it fails with CACHE_FULL and nothing has changed. What
 * was dropped or grouped to make room comes back when the call is cancelled or fails before a step
 * of it ran (steps that rotate moved cells count); else it stays so, and the text says how much was
 * dropped. It may still fail with CACHE_FULL then, but only in a session of several sequences that
 * share cells (mica_llama_seq_cp), which hold pages that a sequence of its own would not need, or
 * where edits left more pieces than the cache's tables hold. Errors:
 * INVALID_ARGUMENT (ids, sequences, weights not loaded, positions above 2147483646), CACHE_FULL,
 * CANCELLED, OUT_OF_MEMORY, DEVICE_LOST. */
MICA_API mica_status mica_llama_decode(mica_llama_session* session, const mica_llama_batch* batch);
/* Rows of logits of the last decode. */
MICA_API uint32_t mica_llama_n_outputs(const mica_llama_session* session);
/* Row `i_output` of the last decode, in the order of its tokens: n_vocab values, valid until the
 * next decode. Errors: INVALID_ARGUMENT. */
MICA_API mica_status mica_llama_logits(mica_llama_session* session, uint32_t i_output,
                                       const float** out_logits);

typedef struct mica_llama_sampler {
  size_t struct_size;
  float temperature; /* <= 0: the likeliest token, whatever else is set */
  int32_t top_k;     /* <= 0: off */
  float top_p;       /* >= 1: off */
  float min_p;       /* <= 0: off */
  uint64_t seed;
  float
      repeat_penalty; /* 1: off. Logits of `previous` are divided by it, negative ones multiplied */
  uint32_t n_previous;
  const int32_t* previous; /* may be NULL when the penalty is off */
} mica_llama_sampler;
#define MICA_LLAMA_SAMPLER_INIT \
  { sizeof(mica_llama_sampler), 0.0f, 0, 1.0f, 0.0f, 0, 1.0f, 0, NULL }

/* Chooses a token from row `i_output` of the last decode. The choice depends on the logits, the
 * sampler, and the sequence and position of the row alone. Sampling with the same settings step
 * after step is part of the decode step itself, and reads back nothing but the tokens; a repeat
 * penalty, or other settings than last time, reads the row of logits. Errors: INVALID_ARGUMENT,
 * BAD_FILE (all logits are NaN or -infinity: damaged weights), CANCELLED, OUT_OF_MEMORY,
 * DEVICE_LOST. */
MICA_API mica_status mica_llama_sample(mica_llama_session* session, uint32_t i_output,
                                       const mica_llama_sampler* sampler, int32_t* out_token);

/* Edits of the cache; positions [p0, p1), p1 < 0: to the end. See mica/kv_cache.h. */
MICA_API mica_status mica_llama_seq_rm(mica_llama_session* session, uint32_t seq, int64_t p0,
                                       int64_t p1);
MICA_API mica_status mica_llama_seq_cp(mica_llama_session* session, uint32_t src, uint32_t dst,
                                       int64_t p0, int64_t p1);
MICA_API mica_status mica_llama_seq_keep(mica_llama_session* session, uint32_t seq);
/* Moves the cells of a range by `delta` positions, or divides their positions; mica/kv_cache.h says
 * what is refused. What a moved cell had attended to stays in it. The sequence's tokens are not
 * known by position any more, so that mica_llama_edit refuses it until it is emptied. When the step
 * that rotates moved cells fails, the call changes nothing; but of more than 1024 pieces, which
 * take several steps, some may be rotated then: the text says so, and the next decode goes on. */
MICA_API mica_status mica_llama_seq_add(mica_llama_session* session, uint32_t seq, int64_t p0,
                                        int64_t p1, int64_t delta);
MICA_API mica_status mica_llama_seq_div(mica_llama_session* session, uint32_t seq, int64_t p0,
                                        int64_t p1, int64_t divisor);

/* How mica_llama_edit makes what lies behind an edit right.
 *   EXACT   it is computed again, and so is what a REUSED edit, a full context or a copy onto other
 *           tokens left. All results are those of a fresh sequence of the same tokens, bit by bit
 *           where its steps have as many tokens: kernels for few and for many add in another order.
 *   REUSED  it is moved: its cells keep what they had attended to when they were computed, the old
 *           text included, so that results deviate a little. The first n_recompute tokens behind
 *           the edit are computed again, which makes the deviation smaller. */
typedef enum mica_llama_edit_mode {
  MICA_LLAMA_EDIT_EXACT = 0,
  MICA_LLAMA_EDIT_REUSED = 1
} mica_llama_edit_mode;
typedef struct mica_llama_edit_params {
  size_t struct_size;
  mica_llama_edit_mode mode;
  uint32_t n_recompute; /* of REUSED */
} mica_llama_edit_params;
#define MICA_LLAMA_EDIT_PARAMS_INIT \
  { sizeof(mica_llama_edit_params), MICA_LLAMA_EDIT_EXACT, 0 }
typedef struct mica_llama_edit_info {
  uint64_t n_tokens;   /* of the sequence now */
  uint64_t n_reused;   /* of them, those whose cells were kept */
  uint64_t n_computed; /* tokens that were run: with a window perhaps more than the others */
} mica_llama_edit_info;

/* Replaces the tokens at positions [p0, p1) of a sequence (p1 < 0: to the end) by others, none or
 * many. Then the last token's logits are row 0, as after mica_llama_decode of the whole. `params`
 * and `out_info` may be NULL. Where a sliding window has let go of what is needed, as many tokens
 * before the edit as the windows together see are run again. What an EXACT edit leaves as it was
 * at the beginning is kept, so that an edit of nothing runs the last token alone. A REUSED one that
 * finds no room for its pieces, or cells that a window let go, runs what is behind the edit.
 * Nothing is grouped meanwhile (extend_factor). Errors: INVALID_ARGUMENT, and nothing is changed
 * (positions that the sequence does not have; ids; nothing would be left; its tokens are not known
 * by position); CACHE_FULL, and nothing is changed, when there would be more than n_ctx tokens,
 * which is known before they are read; else as mica_llama_decode, also CACHE_FULL where sequences
 * share cells: nothing is changed when no step ran; else the sequence then ends before the edit, or
 * before what was to be run again, and the error's text says how many tokens it holds. */
MICA_API mica_status mica_llama_edit(mica_llama_session* session, uint32_t seq, int64_t p0,
                                     int64_t p1, const int32_t* tokens, size_t n_tokens,
                                     const mica_llama_edit_params* params,
                                     mica_llama_edit_info* out_info);
/* The same, told what the sequence is to become: what it has in common with `tokens` at the
 * beginning, and in mode REUSED at the end, is kept. For conversations that a user has edited. */
MICA_API mica_status mica_llama_edit_to(mica_llama_session* session, uint32_t seq,
                                        const int32_t* tokens, size_t n_tokens,
                                        const mica_llama_edit_params* params,
                                        mica_llama_edit_info* out_info);
/* Saves a sequence with its tokens, and loads it into an empty one, of this or another session of
 * the same model: it goes on as if it had never left, bit by bit when the cache's types are the
 * same. Other types are converted, and K is rotated when one of the two sessions has UNROTATED keys
 * and the other has not; what was converted so an exact edit does not trust. Follow with
 * mica_llama_edit_to: it runs what the file lacks, and the last token for its logits.
 *   A model is the same when its hyper-parameters, the names, types and shapes of its tensors, the
 * texts of its tokens, and 2 KiB from the middle of 64 tensors (or of all, if fewer) are. So
 * another training or quantization is another model. Of random shapes no weights are compared. The
 * file appears whole or not at all, in the place of nothing or of a regular file (of a symbolic
 * link, the file that it leads to); a load that fails changes nothing. Errors: NOT_FOUND, IO (also:
 * `path` is no regular file), BAD_FILE (damaged, or no saved sequence), UNSUPPORTED (saved by
 * another version), INVALID_ARGUMENT (another model; the sequence is not empty; tokens not known by
 * position; an empty path), CACHE_FULL. */
MICA_API mica_status mica_llama_save(mica_llama_session* session, uint32_t seq, const char* path);
MICA_API mica_status mica_llama_load(mica_llama_session* session, uint32_t seq, const char* path);
/* The tokens of a sequence by position. At most `capacity` are written; *out_n is how many there
 * are. Errors: INVALID_ARGUMENT (no such sequence, or they are not known by position). */
MICA_API mica_status mica_llama_seq_tokens(const mica_llama_session* session, uint32_t seq,
                                           int32_t* tokens, size_t capacity, size_t* out_n);
/* The position that the sequence's next token gets; -1 for an unknown sequence. */
MICA_API int64_t mica_llama_seq_next(const mica_llama_session* session, uint32_t seq);

#ifdef __cplusplus
}
#endif
#endif
