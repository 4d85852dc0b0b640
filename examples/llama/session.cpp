// Sessions: cache, plans, and decoding in steps.
#include "session.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "graphs.h"
#include "mica/ops.h"

namespace mica_llama {
namespace {

constexpr uint32_t kDefaultContext = 4096;
constexpr uint32_t kDefaultBatch = 512;
constexpr uint32_t kMaxContext = 1u << 24;
constexpr uint32_t kMaxBatch = 1u << 16;

constexpr int64_t kEmptied = -1;  // of a sequence that could not be taken back

// The end of a sentence that names the sequences whose `before` is kEmptied; "" when there is none.
std::string emptied_text(const mica_llama_batch& batch, const std::vector<int64_t>& before) {
  std::string names;
  for (uint32_t i = 0; i < batch.n_spans; ++i)
    if (before[i] == kEmptied)
      names += (names.empty() ? "" : ", ") + std::to_string(batch.spans[i].seq);
  if (names.empty()) return names;
  return "; emptied: sequence " + names +
         ", which cannot be taken back: a sliding window has let go of what it would go on with, "
         "or "
         "its positions were grouped";
}

uint32_t limited(const char* what, uint32_t value, uint32_t high) {
  if (value <= high) return value;
  fail(MICA_INVALID_ARGUMENT, std::string(what) + " is " + std::to_string(value) +
                                  ", the most is " + std::to_string(high));
}

mica_tensor input_1d(mica_graph* g, const char* name, mica_extent extent, int64_t max) {
  return mica_input(g, name, MICA_I32, 1, &max, extent);
}

// The op's inputs of one column a row of logits.
mica_tensor sampled(mica_graph* g, mica_tensor logits, const char* prefix, mica_extent extent,
                    int64_t n_rows) {
  const int64_t dim[] = {4, n_rows};
  const std::string params = std::string(prefix) + "_params", keys = std::string(prefix) + "_keys";
  return mica_sample(g, logits, mica_input(g, params.c_str(), MICA_F32, 2, dim, extent),
                     mica_input(g, keys.c_str(), MICA_I32, 2, dim, extent));
}

}  // namespace

bool operator==(const SampleColumn& a, const SampleColumn& b) {
  return std::equal(a.params, a.params + 4, b.params) && std::equal(a.keys, a.keys + 4, b.keys);
}

Session::Session(std::shared_ptr<Model> model, const mica_llama_session_params& params,
                 bool for_use)
    : model_(std::move(model)) {
  read_params(params);
  context_ = model_->new_context(params.n_threads, params.cancel);
  device_ = model_->new_device(context_.get());
  create_cache(params);
  mica_session_params core = MICA_SESSION_PARAMS_INIT;
  core.cache = cache_.get();
  core.variant = variant_.empty() ? nullptr : variant_.c_str();
  mica_session* session = nullptr;
  check(mica_session_create(device_.get(), &core, &session), context_.get());
  session_.reset(session);
  const std::lock_guard<std::mutex> lock(model_->mutex());
  compile();
  if (!for_use) return;
  if (model_->is_loaded()) {
    allocate();
    return;
  }
  check_free();
  const uint64_t need = memory().total_bytes, budget = model_->memory_budget_bytes();
  if (budget != 0 && need > budget)
    fail(MICA_OVER_BUDGET, "the model and its session need " + std::to_string(need) +
                               " bytes, the budget is " + std::to_string(budget) +
                               "; lower the context, the batch or the cache's types");
}

void Session::read_params(const mica_llama_session_params& p) {
  const uint32_t n_ctx_train = model_->hparams().n_ctx_train;
  n_ctx_ = limited("n_ctx", p.n_ctx != 0 ? p.n_ctx : std::min(kDefaultContext, n_ctx_train),
                   kMaxContext);
  if (n_ctx_ > n_ctx_train)
    model_->warn("the context of " + std::to_string(n_ctx_) + " tokens is longer than the " +
                 std::to_string(n_ctx_train) + " the model was trained on");
  n_seqs_ = limited("n_seqs", std::max(p.n_seqs, 1u), kMaxBatch);
  n_batch_ = limited("n_batch", p.n_batch != 0 ? p.n_batch : kDefaultBatch, kMaxBatch);
  n_batch_ = std::max(n_seqs_, n_batch_);
  max_outputs_ = limited("n_outputs", p.n_outputs != 0 ? p.n_outputs : n_seqs_, kMaxBatch);
  if (p.variant != nullptr) variant_ = p.variant;
  keys_ = p.keys;
  if (keys_ != MICA_KV_KEYS_ROTATED && keys_ != MICA_KV_KEYS_RELATIVE &&
      keys_ != MICA_KV_KEYS_UNROTATED)
    fail(MICA_INVALID_ARGUMENT, "keys is " + std::to_string(static_cast<int>(keys_)) +
                                    ", not ROTATED, RELATIVE or UNROTATED");
  n_keep_ = p.n_keep;
  n_drop_ = p.n_drop;
  if (n_drop_ != 0 && n_keep_ >= n_ctx_)
    fail(MICA_INVALID_ARGUMENT, "n_keep is " + std::to_string(n_keep_) + ", the context holds " +
                                    std::to_string(n_ctx_) + " tokens");
  extend_factor_ = p.extend_factor > 1 ? p.extend_factor : 0;
  extend_window_ = p.extend_window;
  if (extend_factor_ != 0 && (extend_window_ == 0 || extend_window_ % extend_factor_ != 0))
    fail(MICA_INVALID_ARGUMENT, "extend_window is " + std::to_string(extend_window_) +
                                    ", not a multiple of extend_factor " +
                                    std::to_string(extend_factor_));
  if (extend_factor_ != 0 && model_->hparams().window != 0)
    fail(MICA_INVALID_ARGUMENT, "extend_factor is " + std::to_string(extend_factor_) +
                                    ", but the model has a sliding window, which sees no further");
  lines_.resize(n_seqs_);
  wanted_.resize(n_seqs_);
}

void Session::create_cache(const mica_llama_session_params& p) {
  const Hparams& h = model_->hparams();
  std::vector<mica_kv_layer> layers(h.n_layers);
  for (uint32_t i = 0; i < h.n_layers; ++i) {
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    layer.dtype_k = p.dtype_k;
    layer.dtype_v = p.dtype_v;
    model_->architecture().kv_layer(h, i, layer);
    layers[i] = layer;
  }
  const uint64_t pages = (uint64_t{n_ctx_} + MICA_KV_PAGE_CELLS - 1) / MICA_KV_PAGE_CELLS;
  const uint64_t n_cells = pages * MICA_KV_PAGE_CELLS * n_seqs_;
  if (n_cells > INT32_MAX) fail(MICA_INVALID_ARGUMENT, "n_ctx times n_seqs is too large");
  mica_kv_params params = MICA_KV_PARAMS_INIT;
  params.n_layers = h.n_layers;
  params.layers = layers.data();
  params.n_cells = static_cast<uint32_t>(n_cells);
  params.max_seqs = n_seqs_;
  params.max_step_tokens = n_batch_;
  params.max_seq_cells = n_ctx_;
  params.keys = keys_;
  mica_kv_cache* cache = nullptr;
  check(mica_kv_cache_create(device_.get(), &params, &cache), context_.get());
  cache_.reset(cache);
}

Graph Session::build_step(uint32_t max_tokens, uint32_t max_outputs, bool with_sampling) {
  Graph graph = new_graph(context_.get());
  mica_graph* g = graph.get();
  StepGraph step{};
  step.graph = g;
  step.cache = cache_.get();
  step.weights = model_->weights();
  step.model = model_.get();
  step.n_tokens = mica_graph_extent(g, "n_tokens", max_tokens);
  step.n_outputs = mica_graph_extent(g, "n_outputs", max_outputs);
  step.max_tokens = max_tokens;
  step.tokens = input_1d(g, "tokens", step.n_tokens, max_tokens);
  step.out_ids = input_1d(g, "out_ids", step.n_outputs, max_outputs);
  const mica_tensor logits = model_->architecture().build(model_->hparams(), step);
  mica_output(g, logits, "logits");
  if (with_sampling)
    mica_output(g, sampled(g, logits, "sample", step.n_outputs, max_outputs), "sampled");
  check_graph(g);
  return graph;
}

Graph Session::build_sampler() {
  Graph graph = new_graph(context_.get());
  mica_graph* g = graph.get();
  const int64_t dim[] = {model_->hparams().n_vocab, 1};
  const mica_extent none = MICA_NO_EXTENT;
  const mica_tensor logits = mica_input(g, "edited_logits", MICA_F32, 2, dim, none);
  mica_output(g, sampled(g, logits, "edited", none, 1), "sampled");
  check_graph(g);
  return graph;
}

void Session::compile() {
  std::vector<Graph> graphs;
  graphs.push_back(build_step(n_seqs_, std::min(n_seqs_, max_outputs_), true));
  graphs.push_back(build_sampler());
  if (n_batch_ > n_seqs_)
    graphs.push_back(build_step(n_batch_, std::min(n_batch_, max_outputs_), prompt_samples()));
  const bool moves_rotate =
      keys_ == MICA_KV_KEYS_ROTATED || (keys_ == MICA_KV_KEYS_RELATIVE && extend_factor_ != 0);
  if (moves_rotate) graphs.push_back(build_shift());
  std::vector<mica_graph*> handles;
  for (const Graph& g : graphs) handles.push_back(g.get());
  std::vector<mica_plan*> plans(handles.size());
  check(mica_session_compile(session_.get(), static_cast<uint32_t>(handles.size()), handles.data(),
                             plans.data()),
        context_.get());
  decode_plan_ = plans[0];
  sampler_plan_ = plans[1];
  if (n_batch_ > n_seqs_) prompt_plan_ = plans[2];
  if (moves_rotate) shift_plan_ = plans.back();
}

// Before the weights are loaded: what the core can only say of each part, of all of it.
void Session::check_free() const {
  mica_device_info info{};
  check(mica_device_get_info(device_.get(), &info), context_.get());
  const mica_memory need = memory();
  if (info.is_cpu != 0 || info.free_bytes == 0 || need.total_bytes <= info.free_bytes) return;
  fail(MICA_OVER_BUDGET,
       "the model and its session need " + bytes_text(need.total_bytes) + " (weights " +
           bytes_text(need.weights_bytes) + ", KV cache " + bytes_text(need.kv_bytes) +
           ", activations " + bytes_text(need.activations_bytes) + "), " + info.backend + " has " +
           bytes_text(info.free_bytes) +
           " free; lower the context, the batch or the cache's types, or take fewer bits a weight");
}

void Session::allocate() {
  check(mica_session_allocate(session_.get()), context_.get());
  allocated_ = true;
}

mica_memory Session::memory() const {
  mica_memory memory{};
  check(mica_session_memory(session_.get(), &memory), context_.get());
  return memory;
}

std::string Session::explain() const {
  std::string text;
  for (const mica_plan* plan : {decode_plan_, prompt_plan_}) {
    if (plan == nullptr) continue;
    size_t size = 0;
    check(mica_plan_explain(plan, nullptr, 0, &size), context_.get());
    std::vector<char> part(size + 1);
    check(mica_plan_explain(plan, part.data(), part.size(), &size), context_.get());
    text += plan == decode_plan_ ? "decode plan\n" : "prompt plan\n";
    text.append(part.data(), std::min(size, part.size() - 1));
  }
  return text;
}

void Session::check_batch(const mica_llama_batch& batch) const {
  if (batch.n_spans == 0 || batch.spans == nullptr || batch.tokens == nullptr)
    fail(MICA_INVALID_ARGUMENT, "decode: the batch has no tokens");
  std::vector<bool> seen(n_seqs_);
  uint64_t n_tokens = 0, n_rows = 0;
  for (uint32_t i = 0; i < batch.n_spans; ++i) {
    const mica_llama_span span = batch.spans[i];
    if (span.seq >= n_seqs_)
      fail(MICA_INVALID_ARGUMENT, "decode: sequence " + std::to_string(span.seq) +
                                      ", the session has " + std::to_string(n_seqs_));
    if (seen[span.seq])
      fail(MICA_INVALID_ARGUMENT,
           "decode: sequence " + std::to_string(span.seq) + " is there twice");
    seen[span.seq] = true;
    if (span.n_tokens == 0) fail(MICA_INVALID_ARGUMENT, "decode: a span has no tokens");
    if (span.n_tokens > n_ctx_)  // before they are read
      fail(MICA_CACHE_FULL, "decode: " + std::to_string(span.n_tokens) +
                                " tokens, the context holds " + std::to_string(n_ctx_));
    for (uint32_t k = 0; k < span.n_tokens; ++k) {
      const int32_t id = batch.tokens[n_tokens + k];
      if (id < 0 || static_cast<uint32_t>(id) >= model_->hparams().n_vocab)
        fail(MICA_INVALID_ARGUMENT, "decode: token " + std::to_string(id) + ", there are " +
                                        std::to_string(model_->hparams().n_vocab));
      if (batch.outputs != nullptr) n_rows += batch.outputs[n_tokens + k] != 0;
    }
    if (batch.outputs == nullptr) ++n_rows;
    n_tokens += span.n_tokens;
  }
  if (n_rows > max_outputs_)
    fail(MICA_INVALID_ARGUMENT, "decode: " + std::to_string(n_rows) +
                                    " rows of logits, the session "
                                    "was made for " +
                                    std::to_string(max_outputs_));
}

bool Session::next_chunk(const mica_llama_batch& batch, std::vector<uint32_t>& done,
                         Chunk& chunk) const {
  chunk = {};
  size_t first = 0;  // of the span, in batch.tokens
  for (uint32_t i = 0; i < batch.n_spans; ++i) {
    const mica_llama_span span = batch.spans[i];
    const auto room = n_batch_ - static_cast<uint32_t>(chunk.tokens.size());
    const uint32_t n = std::min(span.n_tokens - done[i], room);
    const int64_t next = mica_kv_seq_next(cache_.get(), span.seq);
    for (uint32_t k = 0; k < n; ++k) {
      const size_t at = first + done[i] + k;
      const bool wanted =
          batch.outputs != nullptr ? batch.outputs[at] != 0 : done[i] + k + 1 == span.n_tokens;
      if (wanted) {
        chunk.out_ids.push_back(static_cast<int32_t>(chunk.tokens.size()));
        chunk.rows.push_back({span.seq, next + k, {}});
      }
      chunk.tokens.push_back(batch.tokens[at]);
    }
    if (n != 0) chunk.spans.push_back({span.seq, n});
    done[i] += n;
    first += span.n_tokens;
  }
  return !chunk.tokens.empty();
}

void Session::decode(const mica_llama_batch& batch, bool in_edit) {
  check_allocated();
  check_batch(batch);
  if (in_edit) {
    run_batch(batch, true);
    return;
  }
  const std::span<const mica_llama_span> spans(batch.spans, batch.n_spans);
  for (const mica_llama_span& s : spans) (void)plan_drop(s.seq, s.n_tokens);  // all or none
  const auto wants = [&](const mica_llama_span& s) { return wants_room(s.seq, s.n_tokens); };
  if (std::none_of(spans.begin(), spans.end(), wants)) return run_batch(batch, false);
  std::vector<int64_t> held;
  for (const mica_llama_span& s : spans) held.push_back(lines_[s.seq].size());
  try {
    all_or_nothing([&] {
      for (const mica_llama_span& s : spans) make_room(s.seq, s.n_tokens);
      run_batch(batch, false);
    });
  } catch (Failure& failure) {
    for (uint32_t i = 0; i < batch.n_spans; ++i) {
      const int64_t now = lines_[spans[i].seq].size();
      if (0 < now && now < held[i])
        failure.text += "; " + std::to_string(held[i] - now) + " tokens of sequence " +
                        std::to_string(spans[i].seq) + " were dropped to make room";
    }
    throw;
  }
}

void Session::run_batch(const mica_llama_batch& batch, bool in_edit) {
  try {
    if (shifts_wait_) run_shifts(false);
  } catch (const Failure& failure) {
    // Of another sequence perhaps; where it is one of these, reserve says so.
    if (failure.status != MICA_CACHE_FULL) throw;
  }
  rows_.clear();
  n_fetched_ = 0;
  last_plan_ = nullptr;
  std::vector<int64_t> before;
  for (uint32_t i = 0; i < batch.n_spans; ++i)
    before.push_back(mica_kv_seq_next(cache_.get(), batch.spans[i].seq));
  std::vector<uint32_t> done(batch.n_spans);
  Chunk chunk;
  try {
    while (next_chunk(batch, done, chunk)) {
      run_chunk(chunk);
      if (!in_edit && extend_factor_ != 0) group_between(batch, done, before);
    }
  } catch (Failure& failure) {
    take_back(batch, before);
    failure.text += emptied_text(batch, before);
    throw;
  } catch (const std::bad_alloc&) {
    take_back(batch, before);
    fail(MICA_OUT_OF_MEMORY, "out of host memory" + emptied_text(batch, before));
  }
}

// Self-Extend between the steps of one decode. A sequence that was grouped cannot be taken back.
void Session::group_between(const mica_llama_batch& batch, const std::vector<uint32_t>& done,
                            std::vector<int64_t>& before) {
  for (uint32_t i = 0; i < batch.n_spans; ++i) {
    const mica_llama_span span = batch.spans[i];
    if (done[i] == span.n_tokens) continue;
    const int64_t grouped = lines_[span.seq].grouped;
    extend_groups(span.seq);
    if (lines_[span.seq].grouped != grouped) before[i] = kEmptied;
  }
}

void Session::take_back(const mica_llama_batch& batch, std::vector<int64_t>& before) {
  rows_.clear();
  for (uint32_t i = 0; i < batch.n_spans; ++i) {
    const uint32_t seq = batch.spans[i].seq;
    if (before[i] != kEmptied && mica_kv_seq_rm(cache_.get(), seq, before[i], -1) == MICA_OK) {
      forget_tokens(seq, before[i], -1);
      continue;
    }
    (void)mica_kv_seq_rm(cache_.get(), seq, 0, -1);  // of the whole sequence: nothing can refuse it
    forget_tokens(seq, 0, -1);
    before[i] = kEmptied;
  }
}

void Session::set(const char* input, const void* data, size_t bytes) {
  check(mica_session_set(session_.get(), input, 0, data, bytes), context_.get());
}

void Session::run_chunk(Chunk& chunk) {
  fetch();
  const bool small = chunk.tokens.size() <= n_seqs_;
  mica_plan* plan = small || prompt_plan_ == nullptr ? decode_plan_ : prompt_plan_;
  const size_t n_rows = chunk.rows.size();
  set("tokens", chunk.tokens.data(), chunk.tokens.size() * sizeof(int32_t));
  if (n_rows != 0) set("out_ids", chunk.out_ids.data(), n_rows * sizeof(int32_t));
  check(mica_session_set_extent(session_.get(), "n_outputs", static_cast<int64_t>(n_rows)),
        context_.get());
  if (samples(plan) && n_rows != 0) {
    std::vector<float> params;
    std::vector<int32_t> keys;
    for (Row& r : chunk.rows) {
      r.sampled_with = wanted_[r.seq];
      r.sampled_with.keys[2] = static_cast<int32_t>(r.seq);
      r.sampled_with.keys[3] = static_cast<int32_t>(r.position);
      params.insert(params.end(), r.sampled_with.params, r.sampled_with.params + 4);
      keys.insert(keys.end(), r.sampled_with.keys, r.sampled_with.keys + 4);
    }
    set("sample_params", params.data(), params.size() * sizeof(float));
    set("sample_keys", keys.data(), keys.size() * sizeof(int32_t));
  }
  reserve(chunk);
  last_plan_ = nullptr;
  tokens_.clear();
  const mica_status status = mica_plan_run(plan);
  if (status != MICA_OK) mica_kv_abandon(cache_.get());
  check(status, context_.get());
  i_step_row_ = n_fetched_;
  rows_.insert(rows_.end(), chunk.rows.begin(), chunk.rows.end());
  last_plan_ = plan;
  note_tokens(chunk);
}

// More different moves than a step can meet are made one, by rotating the cells.
void Session::reserve(const Chunk& chunk) {
  const auto n = static_cast<uint32_t>(chunk.spans.size());
  mica_status status = mica_kv_reserve(cache_.get(), n, chunk.spans.data());
  if (status == MICA_CACHE_FULL && keys_ == MICA_KV_KEYS_RELATIVE) {
    const std::string why = mica_context_error(context_.get());
    try {
      run_shifts(true);
    } catch (const Failure& failure) {
      if (failure.status == MICA_CACHE_FULL) fail(MICA_CACHE_FULL, why);
      throw;
    }
    status = mica_kv_reserve(cache_.get(), n, chunk.spans.data());
  }
  check(status, context_.get());
}

void Session::fetch() {
  const size_t n_vocab = model_->hparams().n_vocab;
  const size_t n = rows_.size() - n_fetched_;
  if (n == 0 || last_plan_ == nullptr) return;
  if (logits_.size() < rows_.size() * n_vocab) logits_.resize(rows_.size() * n_vocab);
  check(mica_plan_read(last_plan_, "logits", 0, logits_.data() + n_fetched_ * n_vocab,
                       n * n_vocab * sizeof(float)),
        context_.get());
  n_fetched_ = static_cast<uint32_t>(rows_.size());
}

const Session::Row& Session::row(uint32_t i_output) const {
  if (i_output < rows_.size()) return rows_[i_output];
  fail(MICA_INVALID_ARGUMENT, "row " + std::to_string(i_output) +
                                  " of logits, the last decode left " +
                                  std::to_string(rows_.size()));
}

const float* Session::logits(uint32_t i_output) {
  (void)row(i_output);
  fetch();
  return logits_.data() + size_t{i_output} * model_->hparams().n_vocab;
}

int32_t Session::sample(uint32_t i_output, const mica_llama_sampler& s) {
  const Row& r = row(i_output);
  const bool penalized = s.repeat_penalty != 1.0f && s.n_previous != 0;
  if (!(s.repeat_penalty > 0.0f))
    fail(MICA_INVALID_ARGUMENT, "sample: the repeat penalty must be above 0");
  if (penalized && s.previous == nullptr)
    fail(MICA_INVALID_ARGUMENT, "sample: the previous tokens are missing");
  SampleColumn column{};
  if (s.temperature > 0)  // else all settings mean the same, and that is what a step begins with
    column = {{s.temperature, static_cast<float>(s.top_k), s.top_p, s.min_p},
              {static_cast<int32_t>(static_cast<uint32_t>(s.seed)),
               static_cast<int32_t>(static_cast<uint32_t>(s.seed >> 32)), 0, 0}};
  column.keys[2] = static_cast<int32_t>(r.seq);
  column.keys[3] = static_cast<int32_t>(r.position);
  wanted_[r.seq] = column;
  const bool in_step = last_plan_ != nullptr && samples(last_plan_) && i_output >= i_step_row_;
  const int32_t token = penalized || !in_step || !(r.sampled_with == column)
                            ? sample_again(i_output, s, column)
                            : sampled_token(i_output - i_step_row_);
  if (token == 0) require_choice(i_output);
  return token;
}

void Session::require_choice(uint32_t i_output) {
  const float* row = logits(i_output);
  const auto is_candidate = [](float x) { return !std::isnan(x) && x != -HUGE_VALF; };
  if (std::any_of(row, row + model_->hparams().n_vocab, is_candidate)) return;
  fail(MICA_BAD_FILE, "the logits at position " + std::to_string(rows_[i_output].position) +
                          " are no numbers: the model's weights are damaged, or too large for the "
                          "types it runs in");
}

int32_t Session::sampled_token(uint32_t i) {
  if (tokens_.empty()) {  // all rows at once: reading costs a wait, whatever its size
    tokens_.resize(rows_.size() - i_step_row_);
    check(mica_plan_read(last_plan_, "sampled", 0, tokens_.data(), tokens_.size() * sizeof i),
          context_.get());
  }
  return tokens_[i];
}

int32_t Session::sample_again(uint32_t i_output, const mica_llama_sampler& s,
                              const SampleColumn& column) {
  const uint32_t n_vocab = model_->hparams().n_vocab;
  const float* row = logits(i_output);
  edited_.assign(row, row + n_vocab);
  if (s.repeat_penalty != 1.0f) {
    for (uint32_t i = 0; i < s.n_previous; ++i) {
      if (s.previous[i] < 0 || static_cast<uint32_t>(s.previous[i]) >= n_vocab) continue;
      const auto id = static_cast<size_t>(s.previous[i]);
      // From the row, not from the edited copy: a token counts once however often it came.
      edited_[id] = row[id] > 0 ? row[id] / s.repeat_penalty : row[id] * s.repeat_penalty;
    }
  }
  set("edited_logits", edited_.data(), edited_.size() * sizeof(float));
  set("edited_params", column.params, sizeof column.params);
  set("edited_keys", column.keys, sizeof column.keys);
  last_plan_ = nullptr;
  check(mica_plan_run(sampler_plan_), context_.get());
  int32_t token = 0;
  check(mica_plan_read(sampler_plan_, "sampled", 0, &token, sizeof token), context_.get());
  return token;
}

}  // namespace mica_llama
