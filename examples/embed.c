/* A language model inside a C program: embed MODEL.gguf "question". Needs mica_llama.h, the
 * libraries mica-llama and mica, libstdc++ and PCRE2. Text goes in, tokens (numbers) come out one
 * by one, each chosen from the logits, one number a word of the vocabulary, that the model
 * computes. */
#include <mica_llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS 2048 /* of prompt and answer together */
#define MAX_TEXT 16384  /* bytes of the prompt with its chat markup */

static int fail(void) {
  fprintf(stderr, "embed: %s\n", mica_llama_error()); /* one sentence about the last failure */
  return 1;
}

/* The question in the model's chat form, or as it is for a model without one; then as tokens. */
static mica_status read_question(const mica_llama_model* model, const char* question,
                                 int32_t* tokens, size_t* out_n) {
  static char text[MAX_TEXT];
  size_t n_bytes = 0;
  mica_status status =
      mica_llama_chat(model, question, strlen(question), NULL, 0, text, sizeof text, &n_bytes);
  if (status == MICA_OK) {
    question = text;
    if (n_bytes > sizeof text) n_bytes = sizeof text; /* n_bytes is what it would take */
  } else {
    n_bytes = strlen(question);
  }
  return mica_llama_tokenize(model, question, n_bytes,
                             MICA_LLAMA_ADD_SPECIAL | MICA_LLAMA_PARSE_SPECIAL, tokens, MAX_TOKENS,
                             out_n);
}

/* Appends tokens to sequence 0 and leaves the logits behind the last one. */
static mica_status append(mica_llama_session* session, const int32_t* tokens, size_t n) {
  mica_llama_span span;
  mica_llama_batch batch;
  span.seq = 0;
  span.n_tokens = (uint32_t)n;
  memset(&batch, 0, sizeof batch);
  batch.struct_size = sizeof batch;
  batch.n_spans = 1;
  batch.spans = &span;
  batch.tokens = tokens;
  return mica_llama_decode(session, &batch);
}

static mica_status answer(const mica_llama_model* model, mica_llama_session* session,
                          const int32_t* tokens, size_t n) {
  mica_llama_sampler sampler = MICA_LLAMA_SAMPLER_INIT; /* temperature 0: always the likeliest */
  mica_status status = append(session, tokens, n);
  for (; status == MICA_OK && n < MAX_TOKENS; ++n) {
    int32_t token = 0;
    char piece[256];
    size_t n_bytes = 0;
    status = mica_llama_sample(session, 0, &sampler, &token);
    if (status != MICA_OK || mica_llama_is_end(model, token)) break;
    status = mica_llama_detokenize(model, &token, 1, 0, piece, sizeof piece, &n_bytes);
    if (status != MICA_OK) break;
    fwrite(piece, 1, n_bytes < sizeof piece ? n_bytes : sizeof piece, stdout);
    fflush(stdout);
    status = append(session, &token, 1); /* what was said is the input of what comes next */
  }
  printf("\n");
  return status == MICA_CACHE_FULL ? MICA_OK : status;
}

int main(int argc, char** argv) {
  static int32_t tokens[MAX_TOKENS];
  mica_llama_session_params params = MICA_LLAMA_SESSION_PARAMS_INIT;
  mica_llama_model* model = NULL;
  mica_llama_session* session = NULL;
  size_t n = 0;
  mica_status status;
  if (argc != 3) {
    fprintf(stderr, "embed: give two arguments: MODEL.gguf \"question\"\n");
    return 1;
  }
  params.n_ctx = MAX_TOKENS;
  status = mica_llama_model_open(argv[1], NULL, &model); /* NULL: the CPU, all physical cores */
  if (status == MICA_OK) status = mica_llama_model_load(model);
  if (status == MICA_OK) status = mica_llama_session_create(model, &params, &session);
  if (status == MICA_OK) status = read_question(model, argv[2], tokens, &n);
  if (status == MICA_OK && n > MAX_TOKENS) {
    fprintf(stderr, "embed: the question has %lu tokens, too many\n", (unsigned long)n);
    status = MICA_INVALID_ARGUMENT;
  } else if (status == MICA_OK) {
    status = answer(model, session, tokens, n);
    if (status != MICA_OK) fail();
  } else {
    fail();
  }
  mica_llama_session_release(session); /* NULL is fine */
  mica_llama_model_release(model);
  return status == MICA_OK ? 0 : 1;
}
