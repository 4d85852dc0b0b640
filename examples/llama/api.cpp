// The C functions of mica_llama.h: arguments checked, exceptions turned into statuses.
#include <cstring>
#include <span>

#include "gguf_writer.h"
#include "mica_llama.h"
#include "random_model.h"
#include "session.h"
#include "tokenizer/chat.h"

struct mica_llama_model {
  std::shared_ptr<mica_llama::Model> model;
};
struct mica_llama_session {
  std::unique_ptr<mica_llama::Session> session;
};

using mica_llama::fail;
using mica_llama::guarded;
using mica_llama::Model;
using mica_llama::Session;

namespace {

template <class T>
T& required(T* pointer, const char* what) {
  if (pointer == nullptr) fail(MICA_INVALID_ARGUMENT, std::string(what) + " is NULL");
  return *pointer;
}

// The caller's struct, or the defaults when there is none.
template <class Params>
Params given(const Params* params, const Params& defaults) {
  if (params == nullptr) return defaults;
  if (params->struct_size != sizeof(Params))
    fail(MICA_INVALID_ARGUMENT, "struct_size is not that of this version; use the _INIT macro");
  return *params;
}

Session& session_of(const mica_llama_session* session) {
  return *required(session, "the session").session;
}

std::string_view text_of(const char* text, size_t bytes) {
  if (text == nullptr && bytes != 0) fail(MICA_INVALID_ARGUMENT, "the text is NULL");
  if (bytes > INT32_MAX) fail(MICA_INVALID_ARGUMENT, "the text has more than 2147483647 bytes");
  return {text, bytes};
}

// Copies as much as fits and tells the whole size.
template <class T>
void hand_out(std::span<const T> data, T* out, size_t capacity, size_t* out_n) {
  required(out_n, "the place for the size") = data.size();
  if (capacity == 0) return;
  required(out, "the buffer");
  const size_t n = data.size() < capacity ? data.size() : capacity;
  if (n != 0) std::memcpy(out, data.data(), n * sizeof(T));
}

constexpr mica_llama_model_params kModelDefaults = MICA_LLAMA_MODEL_PARAMS_INIT;
constexpr mica_llama_edit_params kEditDefaults = MICA_LLAMA_EDIT_PARAMS_INIT;
constexpr mica_llama_session_params kSessionDefaults = MICA_LLAMA_SESSION_PARAMS_INIT;

}  // namespace

extern "C" {

const char* mica_llama_error(void) { return mica_llama::last_error(); }

mica_status mica_llama_model_open(const char* path, const mica_llama_model_params* params,
                                  mica_llama_model** out_model) {
  return guarded([&] {
    required(out_model, "the place for the model") = nullptr;
    required(path, "the path");
    *out_model = new mica_llama_model{Model::open(path, given(params, kModelDefaults))};
  });
}

mica_status mica_llama_shape_open(const char* shape, const mica_llama_model_params* params,
                                  mica_llama_model** out_model) {
  return guarded([&] {
    required(out_model, "the place for the model") = nullptr;
    required(shape, "the shape");
    *out_model = new mica_llama_model{
        Model::from_parts(mica_llama::random_parts(shape), given(params, kModelDefaults))};
  });
}

mica_status mica_llama_shape_write(const char* shape, const char* path,
                                   int (*progress)(void* user, uint64_t done, uint64_t total),
                                   void* user) {
  return guarded([&] {
    required(shape, "the shape");
    required(path, "the path");
    mica_llama::write_random_model(shape, path, {progress, user});
  });
}

mica_status mica_llama_model_load(mica_llama_model* model) {
  return guarded([&] { required(model, "the model").model->load(); });
}

void mica_llama_model_release(mica_llama_model* model) { delete model; }

mica_status mica_llama_model_get_info(const mica_llama_model* model,
                                      mica_llama_model_info* out_info) {
  return guarded([&] {
    required(out_info, "the place for the info") = required(model, "the model").model->info();
  });
}

mica_status mica_llama_tokenize(const mica_llama_model* model, const char* text, size_t text_bytes,
                                uint32_t flags, int32_t* ids, size_t capacity, size_t* out_n) {
  return guarded([&] {
    const mica_llama::Tokenizer& tokenizer = required(model, "the model").model->tokenizer();
    const std::vector<int32_t> found =
        tokenizer.encode(text_of(text, text_bytes), (flags & MICA_LLAMA_ADD_SPECIAL) != 0,
                         (flags & MICA_LLAMA_PARSE_SPECIAL) != 0);
    hand_out(std::span<const int32_t>(found), ids, capacity, out_n);
  });
}

mica_status mica_llama_detokenize(const mica_llama_model* model, const int32_t* ids, size_t n_ids,
                                  uint32_t flags, char* text, size_t capacity, size_t* out_bytes) {
  return guarded([&] {
    const mica_llama::Tokenizer& tokenizer = required(model, "the model").model->tokenizer();
    if (n_ids != 0) required(ids, "the ids");
    for (size_t i = 0; i < n_ids; ++i)
      if (ids[i] < 0 || ids[i] >= tokenizer.n_vocab())
        fail(MICA_INVALID_ARGUMENT, "token " + std::to_string(ids[i]) + " is outside the " +
                                        std::to_string(tokenizer.n_vocab()) + " there are");
    const bool render = (flags & MICA_LLAMA_RENDER_SPECIAL) != 0;
    // One token alone is a piece of running text: its leading space belongs to it.
    const std::string found =
        n_ids == 1 ? tokenizer.piece(ids[0], render) : tokenizer.decode({ids, n_ids}, render);
    hand_out(std::span<const char>(found), text, capacity, out_bytes);
  });
}

mica_status mica_llama_chat(const mica_llama_model* model, const char* user, size_t user_bytes,
                            const char* system, size_t system_bytes, char* text, size_t capacity,
                            size_t* out_bytes) {
  return guarded([&] {
    const Model& m = *required(model, "the model").model;
    if (m.info().is_chatml == 0)
      fail(MICA_UNSUPPORTED, "the model has no chat template of the form ChatML");
    const std::string found = mica_llama::wrap_chatml(m.chat_template(), text_of(user, user_bytes),
                                                      text_of(system, system_bytes));
    hand_out(std::span<const char>(found), text, capacity, out_bytes);
  });
}

int mica_llama_is_end(const mica_llama_model* model, int32_t id) {
  int is_end = 0;
  (void)guarded([&] { is_end = required(model, "the model").model->tokenizer().is_end(id); });
  return is_end;
}

mica_status mica_llama_memory(mica_llama_model* model, const mica_llama_session_params* params,
                              mica_memory* out_memory) {
  return guarded([&] {
    required(out_memory, "the place for the memory");
    const Session session(required(model, "the model").model, given(params, kSessionDefaults),
                          false);
    *out_memory = session.memory();
  });
}

mica_status mica_llama_session_create(mica_llama_model* model,
                                      const mica_llama_session_params* params,
                                      mica_llama_session** out_session) {
  return guarded([&] {
    required(out_session, "the place for the session") = nullptr;
    *out_session = new mica_llama_session{std::make_unique<Session>(
        required(model, "the model").model, given(params, kSessionDefaults), true)};
  });
}

void mica_llama_session_release(mica_llama_session* session) { delete session; }

mica_status mica_llama_session_memory(const mica_llama_session* session, mica_memory* out_memory) {
  return guarded(
      [&] { required(out_memory, "the place for the memory") = session_of(session).memory(); });
}

uint32_t mica_llama_n_ctx(const mica_llama_session* session) {
  return session != nullptr ? session->session->n_ctx() : 0;
}

mica_status mica_llama_explain(const mica_llama_session* session, char* text, size_t capacity,
                               size_t* out_bytes) {
  return guarded([&] {
    const std::string found = session_of(session).explain();
    hand_out(std::span<const char>(found), text, capacity, out_bytes);
  });
}

mica_status mica_llama_decode(mica_llama_session* session, const mica_llama_batch* batch) {
  return guarded([&] {
    required(batch, "the batch");
    if (batch->struct_size != sizeof *batch)
      fail(MICA_INVALID_ARGUMENT, "decode: struct_size is not that of this version");
    session_of(session).decode(*batch);
  });
}

uint32_t mica_llama_n_outputs(const mica_llama_session* session) {
  return session != nullptr ? session->session->n_outputs() : 0;
}

mica_status mica_llama_logits(mica_llama_session* session, uint32_t i_output,
                              const float** out_logits) {
  return guarded([&] {
    required(out_logits, "the place for the logits") = nullptr;
    *out_logits = session_of(session).logits(i_output);
  });
}

mica_status mica_llama_sample(mica_llama_session* session, uint32_t i_output,
                              const mica_llama_sampler* sampler, int32_t* out_token) {
  return guarded([&] {
    constexpr mica_llama_sampler kDefaults = MICA_LLAMA_SAMPLER_INIT;
    required(out_token, "the place for the token");
    *out_token = session_of(session).sample(i_output, given(sampler, kDefaults));
  });
}

mica_status mica_llama_seq_rm(mica_llama_session* session, uint32_t seq, int64_t p0, int64_t p1) {
  return guarded([&] { session_of(session).seq_rm(seq, p0, p1); });
}

mica_status mica_llama_seq_cp(mica_llama_session* session, uint32_t src, uint32_t dst, int64_t p0,
                              int64_t p1) {
  return guarded([&] { session_of(session).seq_cp(src, dst, p0, p1); });
}

mica_status mica_llama_seq_keep(mica_llama_session* session, uint32_t seq) {
  return guarded([&] { session_of(session).seq_keep(seq); });
}

mica_status mica_llama_seq_add(mica_llama_session* session, uint32_t seq, int64_t p0, int64_t p1,
                               int64_t delta) {
  return guarded([&] { session_of(session).seq_add(seq, p0, p1, delta); });
}

mica_status mica_llama_seq_div(mica_llama_session* session, uint32_t seq, int64_t p0, int64_t p1,
                               int64_t divisor) {
  return guarded([&] { session_of(session).seq_div(seq, p0, p1, divisor); });
}

mica_status mica_llama_edit(mica_llama_session* session, uint32_t seq, int64_t p0, int64_t p1,
                            const int32_t* tokens, size_t n_tokens,
                            const mica_llama_edit_params* params, mica_llama_edit_info* out_info) {
  return guarded([&] {
    if (n_tokens != 0) required(tokens, "the tokens");
    const mica_llama_edit_info info =
        session_of(session).edit(seq, p0, p1, {tokens, n_tokens}, given(params, kEditDefaults));
    if (out_info != nullptr) *out_info = info;
  });
}

mica_status mica_llama_edit_to(mica_llama_session* session, uint32_t seq, const int32_t* tokens,
                               size_t n_tokens, const mica_llama_edit_params* params,
                               mica_llama_edit_info* out_info) {
  return guarded([&] {
    required(tokens, "the tokens");
    const mica_llama_edit_info info =
        session_of(session).edit_to(seq, {tokens, n_tokens}, given(params, kEditDefaults));
    if (out_info != nullptr) *out_info = info;
  });
}

mica_status mica_llama_save(mica_llama_session* session, uint32_t seq, const char* path) {
  return guarded([&] { session_of(session).save(seq, &required(path, "the path")); });
}

mica_status mica_llama_load(mica_llama_session* session, uint32_t seq, const char* path) {
  return guarded([&] { session_of(session).load(seq, &required(path, "the path")); });
}

mica_status mica_llama_seq_tokens(const mica_llama_session* session, uint32_t seq, int32_t* tokens,
                                  size_t capacity, size_t* out_n) {
  return guarded([&] {
    hand_out(std::span<const int32_t>(session_of(session).tokens_of(seq)), tokens, capacity, out_n);
  });
}

int64_t mica_llama_seq_next(const mica_llama_session* session, uint32_t seq) {
  return session != nullptr ? session->session->seq_next(seq) : -1;
}

}  // extern "C"
