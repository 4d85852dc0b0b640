// A session: one use of a model, with its own plans, cache and threads.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "line.h"
#include "model.h"

namespace mica_llama {

// One token's sampling in the graph: columns of the inputs sample_params and sample_keys.
struct SampleColumn {
  float params[4] = {0, 0, 1, 0};  // temperature, top_k, top_p, min_p
  int32_t keys[4] = {0, 0, 0, 0};  // seed_lo, seed_hi, sequence, position
};
bool operator==(const SampleColumn& a, const SampleColumn& b);

class Session {
 public:
  // Compiles the plans; allocates them when the weights are loaded and it is `for_use`, otherwise
  // the first decode does.
  Session(std::shared_ptr<Model> model, const mica_llama_session_params& params, bool for_use);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  mica_memory memory() const;
  uint32_t n_ctx() const { return n_ctx_; }
  std::string explain() const;

  // `in_edit`: the session's own, which has room already.
  void decode(const mica_llama_batch& batch, bool in_edit = false);
  uint32_t n_outputs() const { return static_cast<uint32_t>(rows_.size()); }
  const float* logits(uint32_t i_output);
  int32_t sample(uint32_t i_output, const mica_llama_sampler& sampler);

  void seq_rm(uint32_t seq, int64_t p0, int64_t p1);
  void seq_cp(uint32_t src, uint32_t dst, int64_t p0, int64_t p1);
  void seq_keep(uint32_t seq);
  void seq_add(uint32_t seq, int64_t p0, int64_t p1, int64_t delta);
  void seq_div(uint32_t seq, int64_t p0, int64_t p1, int64_t divisor);
  int64_t seq_next(uint32_t seq) const;
  mica_llama_edit_info edit(uint32_t seq, int64_t p0, int64_t p1, std::span<const int32_t> tokens,
                            const mica_llama_edit_params& params);
  mica_llama_edit_info edit_to(uint32_t seq, std::span<const int32_t> tokens,
                               const mica_llama_edit_params& params);
  const std::vector<int32_t>& tokens_of(uint32_t seq) const;
  void save(uint32_t seq, const std::string& path);  // state.cpp
  void load(uint32_t seq, const std::string& path);

 private:
  // A row of logits: the token it came from, and what the step sampled there if it did.
  struct Row {
    uint32_t seq;
    int64_t position;
    SampleColumn sampled_with;
  };
  // The tokens that are dropped to make room: those from `from` on, up to `to`, counted from the
  // sequence's first.
  struct Drop {
    int64_t from = 0, to = 0;
  };
  // A part of a batch that one step runs.
  struct Chunk {
    std::vector<mica_kv_span> spans;
    std::vector<int32_t> tokens;
    std::vector<int32_t> out_ids;
    std::vector<Row> rows;
  };

  void read_params(const mica_llama_session_params& params);
  void create_cache(const mica_llama_session_params& params);
  Graph build_step(uint32_t max_tokens, uint32_t max_outputs, bool with_sampling);
  Graph build_sampler();
  Graph build_shift();
  bool prompt_samples() const { return max_outputs_ <= n_seqs_; }
  bool samples(const mica_plan* plan) const { return plan == decode_plan_ || prompt_samples(); }
  void check_free() const;
  void check_allocated();
  void compile();
  void allocate();

  void check_batch(const mica_llama_batch& batch) const;
  // What must be dropped for `n` tokens more. Fails when the sequence cannot take them.
  Drop plan_drop(uint32_t seq, uint32_t n) const;
  // Cuts the next step's part off the batch; `done`: tokens of each span that ran. False at the
  // end.
  bool next_chunk(const mica_llama_batch& batch, std::vector<uint32_t>& done, Chunk& chunk) const;
  void run_batch(const mica_llama_batch& batch, bool in_edit);
  void run_chunk(Chunk& chunk);
  // After a decode that failed: the sequences end where they did, `before` each span, or are
  // emptied where a window refuses that, and `before` says so. Allocates nothing.
  void take_back(const mica_llama_batch& batch, std::vector<int64_t>& before);
  void group_between(const mica_llama_batch& batch, const std::vector<uint32_t>& done,
                     std::vector<int64_t>& before);
  void set(const char* input, const void* data, size_t bytes);
  void reserve(const Chunk& chunk);

  // edits.cpp
  // Runs `change`. When it throws before a step of it ran, the sequences are what they were.
  template <class Change>
  void all_or_nothing(const Change& change);
  // Runs `change`, which moves cells, and the step that rotates them.
  template <class Change>
  void change_and_shift(const Change& change);
  // Rotates K of moved cells in place: those that must be, or `all`.
  void run_shifts(bool all);
  mica_plan* shift_plan();
  // Before `n` more tokens come: drops or groups old ones as the session's params say.
  bool wants_room(uint32_t seq, uint32_t n) const;
  void make_room(uint32_t seq, uint32_t n);
  void check_pages(uint32_t seq, uint32_t n);
  void drop_tokens(uint32_t seq, const Drop& drop);
  void extend_groups(uint32_t seq);
  void note_tokens(const Chunk& chunk);
  // The sequence is as long as that, or where a window refuses that, empty. Allocates nothing.
  void end_at(uint32_t seq, int64_t position);
  // As seq_add and seq_div, but for the step that rotates what was moved.
  void move_tokens(uint32_t seq, int64_t p0, int64_t p1, int64_t delta);
  void divide_tokens(uint32_t seq, int64_t p0, int64_t p1, int64_t divisor);
  void forget_tokens(uint32_t seq, int64_t p0, int64_t p1);
  Line& known_line(uint32_t seq);
  // Removes what is behind `keep` and runs `tokens` there; returns how many were run.
  uint64_t compute_from(uint32_t seq, int64_t keep, std::vector<int32_t> tokens);
  uint64_t edit_moving(uint32_t seq, int64_t p0, int64_t p1, std::span<const int32_t> tokens,
                       uint32_t n_recompute);
  void check_edit(int64_t size, int64_t p0, int64_t p1, std::span<const int32_t> tokens,
                  const mica_llama_edit_params& params) const;
  void check_count(size_t n_tokens, int64_t n_others) const;
  void decode_span(uint32_t seq, const std::vector<int32_t>& tokens);
  // Copies the last step's rows of logits to logits_, before another plan overwrites them.
  void fetch();
  // Fails when the row has no logit to choose: the op mica_sample then answers 0.
  void require_choice(uint32_t i_output);
  // What the last step sampled in its row `i`.
  int32_t sampled_token(uint32_t i);
  const Row& row(uint32_t i_output) const;
  int32_t sample_again(uint32_t i_output, const mica_llama_sampler& sampler,
                       const SampleColumn& column);

  std::shared_ptr<Model> model_;
  uint32_t n_ctx_ = 0;
  uint32_t n_batch_ = 0;
  uint32_t n_seqs_ = 0;
  uint32_t max_outputs_ = 0;
  std::string variant_;
  mica_kv_keys keys_ = MICA_KV_KEYS_RELATIVE;
  uint32_t n_keep_ = 0, n_drop_ = 0, extend_factor_ = 0, extend_window_ = 0;

  Context context_;
  Device device_;
  KvCache cache_;
  CoreSession session_;
  mica_plan* decode_plan_ = nullptr;   // up to n_seqs tokens, samples in the same step
  mica_plan* prompt_plan_ = nullptr;   // up to n_batch tokens; nullptr when n_batch == n_seqs.
                                       // Samples too when few rows are wanted
  mica_plan* sampler_plan_ = nullptr;  // one row of logits given by the host
  mica_plan* shift_plan_ = nullptr;    // rotates moved cells; where most moves need none, made
                                       // when it is first needed
  bool allocated_ = false;
  bool shifts_wait_ = false;  // cells were moved, and the step that rotates them did not run

  std::vector<Line> lines_;           // of each sequence
  std::vector<SampleColumn> wanted_;  // of each sequence: what it was last sampled with
  std::vector<Row> rows_;             // of the last decode
  std::vector<float> logits_;         // rows fetched so far
  uint32_t n_fetched_ = 0;
  uint32_t i_step_row_ = 0;         // the first row of the last step
  mica_plan* last_plan_ = nullptr;  // holds the last step's rows; nullptr: no plan does any more
  std::vector<int32_t> tokens_;     // that the last step sampled, once read
  std::vector<float> edited_;       // scratch of sample_again
};

template <class Change>
void Session::all_or_nothing(const Change& change) {
  std::vector<Line> lines = lines_;
  const bool waited = shifts_wait_;
  check(mica_kv_mark(cache_.get()), context_.get());
  try {
    change();
  } catch (...) {
    if (mica_kv_undo(cache_.get()) == MICA_OK) {
      for (size_t i = 0; i < lines.size(); ++i) std::swap(lines_[i], lines[i]);
      shifts_wait_ = waited;
    }
    throw;
  }
}

}  // namespace mica_llama
