/* Misuse of mica_llama.h: NULL, wrong sizes, wrong ids, wrong order. Each is a status with a
 * sentence. */
#include <mica_llama.h>
#include <string.h>

#include "check.h"

/* The call fails with this status, and there is a sentence about it. */
#define REFUSED(status, call)             \
  do {                                    \
    CHECK((call) == (status));            \
    CHECK(mica_llama_error()[0] != '\0'); \
  } while (0)

static mica_llama_batch batch_of(const mica_llama_span* span, const int32_t* tokens) {
  mica_llama_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.struct_size = sizeof batch;
  batch.n_spans = 1;
  batch.spans = span;
  batch.tokens = tokens;
  return batch;
}

static void null_arguments(const char* path) {
  mica_llama_model* model = NULL;
  mica_llama_session* session = NULL;
  mica_memory memory;
  mica_llama_model_info info;
  size_t n;
  int32_t token;
  const float* row;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_model_open(NULL, NULL, &model));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_model_open(path, NULL, NULL));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_shape_open(NULL, NULL, &model));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_shape_write("smollm2-135m:f16", NULL, NULL, NULL));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_model_load(NULL));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_model_get_info(NULL, &info));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_tokenize(NULL, "a", 1, 0, NULL, 0, &n));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_detokenize(NULL, &token, 1, 0, NULL, 0, &n));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_chat(NULL, "a", 1, NULL, 0, NULL, 0, &n));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_memory(NULL, NULL, &memory));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_session_create(NULL, NULL, &session));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_session_memory(NULL, &memory));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_explain(NULL, NULL, 0, &n));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(NULL, NULL));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_logits(NULL, 0, &row));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_sample(NULL, 0, NULL, &token));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_seq_rm(NULL, 0, 0, -1));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_seq_cp(NULL, 0, 1, 0, -1));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_seq_keep(NULL, 0));
  CHECK(mica_llama_seq_next(NULL, 0) == -1);
  CHECK(mica_llama_n_ctx(NULL) == 0);
  CHECK(mica_llama_n_outputs(NULL) == 0);
  CHECK(mica_llama_is_end(NULL, 0) == 0);
  mica_llama_model_release(NULL);
  mica_llama_session_release(NULL);
  CHECK(model == NULL && session == NULL);
}

static void opening(const char* path, const char* directory) {
  mica_llama_model_params params = MICA_LLAMA_MODEL_PARAMS_INIT;
  mica_llama_model* model = NULL;
  REFUSED(MICA_NOT_FOUND, mica_llama_model_open("/nonexistent/file.gguf", NULL, &model));
  REFUSED(MICA_IO, mica_llama_model_open(directory, NULL, &model));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_shape_open("no-such-shape:q4_0", NULL, &model));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_shape_open("smollm2-135m", NULL, &model));
  params.device = "no such device";
  REFUSED(MICA_NOT_FOUND, mica_llama_model_open(path, &params, &model));
  params.device = "cpu:no-such-option";
  REFUSED(MICA_NOT_FOUND, mica_llama_model_open(path, &params, &model));
  params.device = NULL;
  params.struct_size = 3;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_model_open(path, &params, &model));
  CHECK(model == NULL);
}

static void sessions(mica_llama_model* model) {
  mica_llama_session_params params = MICA_LLAMA_SESSION_PARAMS_INIT;
  mica_llama_session* session = NULL;
  params.n_ctx = UINT32_MAX;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_session_create(model, &params, &session));
  params.n_ctx = 64;
  params.n_seqs = UINT32_MAX;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_session_create(model, &params, &session));
  params.n_seqs = 1;
  params.n_batch = UINT32_MAX;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_session_create(model, &params, &session));
  params.n_batch = 64;
  params.dtype_k = (mica_dtype)77;
  CHECK(mica_llama_session_create(model, &params, &session) != MICA_OK);
  params.dtype_k = MICA_I64;
  CHECK(mica_llama_session_create(model, &params, &session) != MICA_OK);
  params.dtype_k = MICA_F16;
  params.struct_size = 0;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_session_create(model, &params, &session));
  CHECK(session == NULL);
}

static void decoding(mica_llama_session* session, int32_t n_vocab) {
  int32_t tokens[80] = {0};
  mica_llama_span span = {0, 4};
  mica_llama_span twice[2] = {{0, 1}, {0, 1}};
  mica_llama_batch batch = batch_of(&span, tokens);
  const float* row = NULL;
  int32_t token = 0;
  const uint8_t all[4] = {1, 1, 1, 1};
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_logits(session, 0, &row)); /* nothing decoded yet */
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_sample(session, 0, NULL, &token));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, NULL));
  tokens[3] = n_vocab;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  tokens[3] = -1;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  tokens[3] = 1;
  span.n_tokens = 0;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  span.n_tokens = 4;
  span.seq = 1;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  span.seq = 0;
  batch.outputs = all; /* the session was made for one row */
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  batch.outputs = NULL;
  batch.n_spans = 0;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  batch.n_spans = 2;
  batch.spans = twice;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  batch = batch_of(&span, tokens);
  batch.struct_size = 1;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  batch = batch_of(&span, NULL);
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch));
  batch = batch_of(&span, tokens);
  span.n_tokens = 65; /* n_ctx is 64 */
  REFUSED(MICA_CACHE_FULL, mica_llama_decode(session, &batch));
  CHECK(mica_llama_seq_next(session, 0) == 0);
  span.n_tokens = 64;
  CHECK(mica_llama_decode(session, &batch) == MICA_OK);
  CHECK(mica_llama_n_outputs(session) == 1);
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_logits(session, 1, &row));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_logits(session, 0, NULL));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_seq_rm(session, 7, 0, -1));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_seq_cp(session, 0, 7, 0, -1));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_seq_keep(session, 7));
  CHECK(mica_llama_seq_next(session, 7) == -1);
}

static void sampling(mica_llama_session* session) {
  mica_llama_sampler sampler = MICA_LLAMA_SAMPLER_INIT;
  const int32_t wild[3] = {-5, 2147483647, 0};
  int32_t token = -1;
  CHECK(mica_llama_sample(session, 0, NULL, &token) == MICA_OK); /* NULL: the defaults */
  CHECK(token >= 0);
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_sample(session, 0, &sampler, NULL));
  sampler.repeat_penalty = 0.0f;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_sample(session, 0, &sampler, &token));
  sampler.repeat_penalty = 2.0f;
  sampler.n_previous = 3;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_sample(session, 0, &sampler, &token));
  sampler.previous = wild; /* ids that are none are passed over */
  CHECK(mica_llama_sample(session, 0, &sampler, &token) == MICA_OK);
  sampler.struct_size = 5;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_sample(session, 0, &sampler, &token));
}

static void text(mica_llama_model* model, int32_t n_vocab) {
  char buffer[8];
  int32_t id = n_vocab;
  size_t n = 0;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_tokenize(model, NULL, 3, 0, NULL, 0, &n));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_tokenize(model, "a", 1, 0, NULL, 0, NULL));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_tokenize(model, "a", 1, 0, NULL, 4, &n));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_detokenize(model, &id, 1, 0, buffer, 8, &n));
  id = -1;
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_detokenize(model, &id, 1, 0, buffer, 8, &n));
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_detokenize(model, NULL, 1, 0, buffer, 8, &n));
  REFUSED(MICA_UNSUPPORTED, mica_llama_chat(model, "hello", 5, NULL, 0, NULL, 0, &n));
  CHECK(mica_llama_tokenize(model, NULL, 0, 0, NULL, 0, &n) == MICA_OK && n == 0);
  CHECK(mica_llama_is_end(model, -1) == 0);
  CHECK(mica_llama_is_end(model, n_vocab) == 0);
}

int main(int argc, char** argv) {
  mica_llama_session_params params = MICA_LLAMA_SESSION_PARAMS_INIT;
  mica_llama_model* model = NULL;
  mica_llama_session* session = NULL;
  mica_llama_model_info info;
  int32_t token = 1;
  const mica_llama_span span = {0, 1};
  const mica_llama_batch batch = batch_of(&span, &token);
  if (argc != 3) return 1;
  null_arguments(argv[1]);
  opening(argv[1], argv[2]);
  if (!CHECK(mica_llama_model_open(argv[1], NULL, &model) == MICA_OK)) return check_result();
  CHECK(mica_llama_model_get_info(model, &info) == MICA_OK);
  text(model, (int32_t)info.n_vocab);
  sessions(model);
  params.n_ctx = 64;
  CHECK(mica_llama_session_create(model, &params, &session) == MICA_OK);
  REFUSED(MICA_INVALID_ARGUMENT, mica_llama_decode(session, &batch)); /* not loaded */
  CHECK(mica_llama_model_load(model) == MICA_OK);
  CHECK(mica_llama_model_load(model) == MICA_OK); /* a second time is fine */
  decoding(session, (int32_t)info.n_vocab);
  sampling(session);
  mica_llama_model_release(model);
  CHECK(mica_llama_seq_rm(session, 0, 0, -1) == MICA_OK);
  CHECK(mica_llama_decode(session, &batch) == MICA_OK); /* the session kept it alive */
  mica_llama_session_release(session);
  return check_result();
}
