// Saved sequences: a small head with their tokens, then what the core saves of the cache.
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "files.h"
#include "fingerprint.h"
#include "mica/kv_state.h"
#include "session.h"

namespace mica_llama {
namespace {

constexpr char kMagic[8] = {'M', 'I', 'C', 'A', 'S', 'E', 'Q', '2'};

struct Head {
  char magic[8];
  uint32_t n_tokens, n_exact;  // Session::Line
  uint64_t checksum;           // of what is before it, and of the tokens
};

// Files of version 1 knew less of their model than fingerprint_of does now.
bool is_version_1(const Head& head) { return head.magic[7] == '1'; }

uint64_t checksum_of(const Head& head, const std::vector<int32_t>& tokens) {
  const uint64_t h = is_version_1(head) ? hash(&head.n_exact, sizeof head.n_exact)
                                        : hash(&head, offsetof(Head, checksum));
  return hash(tokens.data(), tokens.size() * sizeof(int32_t), h);
}

mica_status write_file(void* user, const void* data, uint64_t bytes) {
  return static_cast<NewFile*>(user)->put(data, bytes) ? MICA_OK : MICA_IO;
}
mica_status read_file(void* user, void* dst, uint64_t bytes) {
  return std::fread(dst, 1, bytes, static_cast<std::FILE*>(user)) == bytes ? MICA_OK : MICA_IO;
}

}  // namespace

void Session::check_allocated() {
  if (allocated_) return;
  const std::lock_guard<std::mutex> lock(model_->mutex());
  if (!model_->is_loaded()) fail(MICA_INVALID_ARGUMENT, "load the model's weights first");
  allocate();
}

void Session::save(uint32_t seq, const std::string& path) {
  check_allocated();
  const std::vector<int32_t>& tokens = tokens_of(seq);
  Head head{};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.n_tokens = static_cast<uint32_t>(tokens.size());
  head.n_exact = static_cast<uint32_t>(lines_[seq].exact);
  head.checksum = checksum_of(head, tokens);
  NewFile file(path);
  file.write(&head, sizeof head);
  file.write(tokens.data(), tokens.size() * sizeof(int32_t));
  const mica_kv_writer writer = {write_file, &file};
  const mica_status status = mica_kv_save_to(session_.get(), seq, model_->fingerprint(), &writer);
  if (status == MICA_IO) file.fail_write();
  check(status, context_.get());
  file.finish();
}

void Session::load(uint32_t seq, const std::string& path) {
  check_allocated();
  (void)tokens_of(seq);
  uint64_t size = 0;
  const File file = open_regular(path, size);
  const auto damaged = [&]() {
    fail(MICA_BAD_FILE, quoted(path) + " is no saved sequence, or damaged");
  };
  Head head{};
  if (std::fread(&head, sizeof head, 1, file.get()) != 1 ||
      std::memcmp(head.magic, kMagic, sizeof kMagic - 1) != 0)
    damaged();
  const uint64_t bytes = uint64_t{head.n_tokens} * sizeof(int32_t);
  if (bytes > size - sizeof head) damaged();
  std::vector<int32_t> tokens(head.n_tokens);
  if (std::fread(tokens.data(), 1, bytes, file.get()) != bytes ||
      checksum_of(head, tokens) != head.checksum || head.n_exact > head.n_tokens)
    damaged();
  if (head.magic[7] != kMagic[7])
    fail(MICA_UNSUPPORTED, quoted(path) +
                               " was saved by another version of mica-llama, which told " +
                               "models apart in another way; remove it and save again");
  if (head.n_tokens > n_ctx_)
    fail(MICA_CACHE_FULL, quoted(path) + " has " + std::to_string(head.n_tokens) +
                              " tokens, the context holds " + std::to_string(n_ctx_));
  fetch();
  const mica_kv_reader reader = {read_file, file.get(), size - sizeof head - bytes};
  mica_kv_loaded loaded{};
  const mica_status status =
      mica_kv_load_from(session_.get(), seq, model_->fingerprint(), &reader, &loaded);
  if (status != MICA_OK) fail(status, quoted(path) + ": " + mica_context_error(context_.get()));
  if (loaded.needs_shift != 0) {
    try {
      run_shifts(false);
    } catch (...) {
      (void)mica_kv_seq_rm(cache_.get(), seq, 0, -1);  // nothing can refuse it
      throw;
    }
  }
  Line line;
  line.exact = loaded.converted != 0 ? 0 : int64_t{head.n_exact};
  line.tokens = std::move(tokens);
  lines_[seq] = std::move(line);
}

}  // namespace mica_llama
