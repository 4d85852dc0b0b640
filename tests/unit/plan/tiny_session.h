// A tiny model on a device, loaded, with a cache and a session: steps in one line.
#pragma once
#include "tests/unit/tiny_model.h"
#include "tests/unit/world.h"

namespace mica::test {

// Weights of a model on a device; sessions share them.
inline Weights load_tiny(const Context& context, const Device& device, const TinyModel& model) {
  mica_weights* w = nullptr;
  EXPECT_EQ(mica_weights_create(device.get(), &w), MICA_OK);
  EXPECT_EQ(model.describe(w), MICA_OK) << mica_context_error(context.get());
  EXPECT_EQ(model.load(w), MICA_OK) << mica_context_error(context.get());
  return Weights(w);
}

class TinySession {
 public:
  // One plan for each maximum.
  TinySession(const Context& context, const Device& device, const TinyModel& model,
              mica_weights* weights, const std::vector<int64_t>& max_tokens,
              const std::vector<mica_device*>& fallback = {})
      : model_(model), context_(context) {
    mica_kv_cache* c = nullptr;
    EXPECT_EQ(model.make_cache(device.get(), &c), MICA_OK) << mica_context_error(context.get());
    cache_.reset(c);
    session_ = make_session(device, c, false, fallback);
    std::vector<mica_graph*> raw;
    for (const int64_t n : max_tokens) {
      graphs_.push_back(make_graph(context));
      model.build(graphs_.back().get(), weights, c, n);
      EXPECT_EQ(mica_graph_status(graphs_.back().get(), nullptr), MICA_OK)
          << graph_error(graphs_.back());
      raw.push_back(graphs_.back().get());
    }
    plans_.resize(raw.size());
    EXPECT_EQ(mica_session_compile(session_.get(), static_cast<uint32_t>(raw.size()), raw.data(),
                                   plans_.data()),
              MICA_OK)
        << mica_context_error(context.get());
    EXPECT_EQ(mica_session_allocate(session_.get()), MICA_OK) << mica_context_error(context.get());
  }
  mica_kv_cache* cache() const { return cache_.get(); }
  const Session& session() const { return session_; }
  mica_plan* plan(size_t i = 0) const { return plans_[i]; }

  mica_status prepare(const std::vector<int32_t>& ids, uint32_t seq = 0) {
    const mica_kv_span span = {seq, static_cast<uint32_t>(ids.size())};
    const mica_status status = mica_kv_reserve(cache_.get(), 1, &span);
    if (status != MICA_OK) return status;
    return mica_session_set(session_.get(), "ids", 0, ids.data(), ids.size() * sizeof(int32_t));
  }
  // Logits of all tokens of a step, or of its last `n_last`.
  std::vector<float> step(size_t i_plan, const std::vector<int32_t>& ids, size_t n_last = 0,
                          uint32_t seq = 0) {
    EXPECT_EQ(prepare(ids, seq), MICA_OK) << mica_context_error(context_.get());
    EXPECT_EQ(mica_plan_run(plans_[i_plan]), MICA_OK) << mica_context_error(context_.get());
    return logits(i_plan, ids.size(), n_last == 0 ? ids.size() : n_last);
  }
  std::vector<float> logits(size_t i_plan, size_t n_tokens, size_t n_last) {
    const auto n_vocab = static_cast<size_t>(model_.shape().n_vocab);
    std::vector<float> y(n_last * n_vocab);
    EXPECT_EQ(mica_plan_read(plans_[i_plan], "logits", (n_tokens - n_last) * n_vocab * 4, y.data(),
                             y.size() * 4),
              MICA_OK);
    return y;
  }
  void forget() { EXPECT_EQ(mica_kv_seq_rm(cache_.get(), MICA_KV_ALL_SEQS, 0, -1), MICA_OK); }

 private:
  const TinyModel& model_;
  const Context& context_;
  Cache cache_;
  Session session_;
  std::vector<Graph> graphs_;
  std::vector<mica_plan*> plans_;
};

}  // namespace mica::test
