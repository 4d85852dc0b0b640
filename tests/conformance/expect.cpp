#include "tests/conformance/expect.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>

#include "tests/conformance/names.h"

namespace mica::conformance {
namespace {

std::vector<Expected> parse(std::istream& in, const std::string& path) {
  std::vector<Expected> expected;
  size_t n = 0;
  for (std::string line; std::getline(in, line);) {
    ++n;
    if (line.empty() || line[0] == '#') continue;
    const size_t colon = line.find(": ");
    if (colon == 0 || colon == std::string::npos || colon + 2 == line.size())
      throw std::runtime_error(path + ":" + std::to_string(n) +
                               ": not \"op/case: reason\": " + line);
    expected.push_back({line.substr(0, colon), line.substr(colon + 2)});
  }
  return expected;
}

bool listed(const Expected& e, const std::string& id) {
  return e.pattern == id || (is_glob(e.pattern) && glob_matches(e.pattern, id));
}

// The globs that stand for many cases, the widest last: "matmul/f16.*", "matmul/*".
std::vector<std::string> globs_of(const Row& r) {
  std::vector<std::string> globs;
  const size_t dot = r.id.find('.', r.op.size());
  if (dot != std::string::npos) globs.push_back(r.id.substr(0, dot) + ".*");
  globs.push_back(r.op + "/*");
  return globs;
}

}  // namespace

std::vector<Expected> builtin_expected(const std::string& backend) {
  static const struct {
    const char *backend, *text;
  } kLists[] = {
#define MICA_EXPECT(backend, text) {#backend, text},
#include "expect.def"
#undef MICA_EXPECT
      {"", ""}};
  for (const auto& list : kLists)
    if (backend == list.backend) {
      std::istringstream in(list.text);
      return parse(in, backend + ".txt");
    }
  return {};
}

std::vector<Expected> read_expected(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("the list " + path + " cannot be read");
  return parse(file, path);
}

void apply_expected(std::vector<Row>& rows, const std::vector<Expected>& expected, bool whole) {
  std::vector<bool> met(expected.size());
  for (Row& r : rows) {
    Verdict& v = r.verdict;
    const Expected* line = nullptr;
    for (size_t i = 0; i < expected.size(); ++i)
      if (listed(expected[i], r.id)) met[i] = true, line = &expected[i];
    if (v.kind == Verdict::kUnsupported && line == nullptr && r.may_refuse) continue;
    if (v.kind == Verdict::kUnsupported && line == nullptr)
      v = {Verdict::kFail, "unsupported and not listed: " + v.text};
    else if (v.kind == Verdict::kFail && line != nullptr && line->reason.rfind("WRONG: ", 0) == 0)
      v = {Verdict::kUnsupported, line->reason};
    else if (v.kind == Verdict::kPass && line != nullptr)
      v = {Verdict::kFail, "listed as unsupported (" + line->pattern + ": " + line->reason +
                               "), but it runs: the line is stale"};
  }
  if (!whole || rows.empty()) return;
  const Row any = rows.front();
  for (size_t i = 0; i < expected.size(); ++i)
    if (!met[i])
      rows.push_back({expected[i].pattern,
                      expected[i].pattern.substr(0, expected[i].pattern.find('/')),
                      any.device,
                      any.seed,
                      {Verdict::kFail,
                       "listed as unsupported, but there is no such case: the line "
                       "is stale"}});
}

void write_expected(const std::string& path, const std::vector<Row>& rows, bool whole_ops) {
  std::map<std::string, std::set<std::string>> answers;  // by glob: reasons, or "" for what ran
  for (const Row& r : rows)
    for (const std::string& glob : globs_of(r))
      answers[glob].insert(r.verdict.kind == Verdict::kUnsupported ? r.verdict.text : "");
  std::ofstream file(path);
  file << "# What this backend does not support, with its reason. A stale or missing line fails.\n";
  std::set<std::string> written;
  for (const Row& r : rows) {
    if (r.verdict.kind != Verdict::kUnsupported) continue;
    std::string pattern = r.id;
    for (const std::string& glob : globs_of(r))
      if (whole_ops && answers[glob].size() == 1) pattern = glob;
    if (written.insert(pattern).second) file << pattern << ": " << r.verdict.text << "\n";
  }
  if (!file.flush()) throw std::runtime_error("the list " + path + " cannot be written");
}

}  // namespace mica::conformance
