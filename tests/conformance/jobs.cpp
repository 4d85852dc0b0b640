#include "tests/conformance/jobs.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "tests/conformance/names.h"

namespace mica::conformance {
#define MICA_CASE_FAMILY(family) void cases_##family(CaseList& list);
#include "case_families.def"
#undef MICA_CASE_FAMILY
void cases_operands(CaseList& list);
void cases_regions(CaseList& list);
void cases_qkv(CaseList& list);
void cases_whole_graphs(CaseList& list);
void cases_exact(CaseList& list);
void cases_alias(CaseList& list);
void cases_extents(CaseList& list);
void cases_sessions(CaseList& list);
void cases_special(CaseList& list);
void cases_sizes(CaseList& list);

namespace {

std::vector<const Case*> cases_of_ops(const CaseList& list, const Selection& s) {
  std::vector<std::string> ops;
  for (const Case& c : list.cases)
    if (ops.empty() || ops.back() != c.op) ops.push_back(c.op);
  const auto chosen = [](const std::string& pattern, const std::string& op) {
    return pattern == op || (is_glob(pattern) && glob_matches(pattern, op));
  };
  for (const std::string& pattern : s.ops)
    if (std::none_of(ops.begin(), ops.end(), [&](auto& op) { return chosen(pattern, op); }))
      throw std::runtime_error("no op " + pattern + nearest(pattern, ops));
  std::vector<const Case*> cases;
  std::map<std::string, size_t> seen;
  for (const Case& c : list.cases) {
    const size_t index = seen[c.op]++;
    if (s.reduced && s.cases.empty() && index % 7 != 0) continue;
    if (s.ops.empty() ||
        std::any_of(s.ops.begin(), s.ops.end(), [&](auto& p) { return chosen(p, c.op); }))
      cases.push_back(&c);
  }
  return cases;
}

// The three ways to name a case, of which the first that matches anything counts.
enum class Match { kExact, kParts, kGlob };
constexpr Match kMatches[] = {Match::kExact, Match::kParts, Match::kGlob};

bool matches(Match how, const std::string& pattern, const Case& c, const Way& way) {
  const std::string id = c.op + "/" + c.name + way.suffix();
  const size_t slash = pattern.find('/');
  const bool by_name = slash == std::string::npos;
  switch (how) {
    case Match::kExact:
      return pattern == (by_name ? c.name : id);
    case Match::kParts:
      return by_name
                 ? has_parts(c.name, pattern)
                 : pattern.substr(0, slash) == c.op && has_parts(c.name, pattern.substr(slash + 1));
    case Match::kGlob:
      return is_glob(pattern) &&
             (glob_matches(pattern, id) || (by_name && glob_matches(pattern, c.name)));
  }
  return false;
}

// Whether some way to plan the case may match; which ways there are is not known yet.
bool may_match(const std::string& pattern, const Case& c) {
  const std::string id = c.op + "/" + c.name;
  return is_glob(pattern) || pattern.rfind(id + "/", 0) == 0 ||
         matches(Match::kExact, pattern, c, {}) || matches(Match::kParts, pattern, c, {});
}

[[noreturn]] void no_case(const std::string& pattern, const std::vector<std::string>& ids) {
  std::vector<std::string> names = ids;
  if (pattern.find('/') == std::string::npos)
    for (std::string& name : names) name = name.substr(name.find('/') + 1);
  throw std::runtime_error("no case " + pattern + nearest(pattern, names));
}

std::vector<bool> matched(const std::vector<Job>& jobs, const std::string& pattern) {
  std::vector<bool> chosen(jobs.size());
  for (const Match how : kMatches) {
    for (size_t i = 0; i < jobs.size(); ++i)
      chosen[i] = matches(how, pattern, *jobs[i].c, jobs[i].way);
    if (std::find(chosen.begin(), chosen.end(), true) != chosen.end()) return chosen;
  }
  std::vector<std::string> ids;
  for (const Job& job : jobs) ids.push_back(job.id());
  no_case(pattern, ids);
}

}  // namespace

std::string Way::suffix() const {
  return (variant.empty() ? "" : "/" + variant) + (unfused ? "/unfused" : "");
}

std::string Way::name() const { return unfused ? "unfused" : variant.empty() ? "usual" : variant; }

CaseList all_cases() {
  CaseList list;
#define MICA_CASE_FAMILY(family) cases_##family(list);
#include "case_families.def"
#undef MICA_CASE_FAMILY
  cases_operands(list);
  cases_regions(list);
  cases_qkv(list);
  cases_whole_graphs(list);
  cases_exact(list);
  cases_alias(list);
  cases_extents(list);
  cases_sessions(list);
  cases_special(list);
  cases_sizes(list);
  return list;
}

std::vector<const Case*> choose_cases(const CaseList& list, const Selection& selection) {
  const std::vector<const Case*> cases = cases_of_ops(list, selection);
  std::vector<bool> chosen(cases.size(), selection.cases.empty());
  for (const std::string& pattern : selection.cases) {
    bool any = false;
    for (size_t i = 0; i < cases.size(); ++i)
      if (may_match(pattern, *cases[i])) chosen[i] = any = true;
    if (any) continue;
    std::vector<std::string> ids;
    for (const Case* c : cases) ids.push_back(c->op + "/" + c->name);
    no_case(pattern, ids);
  }
  std::vector<const Case*> result;
  for (size_t i = 0; i < cases.size(); ++i)
    if (chosen[i]) result.push_back(cases[i]);
  return result;
}

std::vector<Job> make_jobs(const std::vector<const Case*>& cases, const Selection& selection,
                           const std::vector<Device>& devices, const std::vector<uint64_t>& seeds,
                           const Planner& planner) {
  std::vector<Job> plain;
  for (const Case* c : cases)
    for (const Device& d : devices) plain.push_back({c, &d, seeds.front(), {}});
  const std::vector<std::vector<Way>> ways = planner(plain);
  std::vector<Job> all;
  for (size_t i = 0; i < plain.size(); ++i)
    for (const Way& way : ways[i]) all.push_back({plain[i].c, plain[i].device, 0, way});
  std::vector<bool> chosen(all.size(), selection.cases.empty());
  for (const std::string& pattern : selection.cases) {
    const std::vector<bool> more = matched(all, pattern);
    for (size_t i = 0; i < all.size(); ++i) chosen[i] = chosen[i] || more[i];
  }
  for (size_t i = 0; i < all.size() && !selection.variants.empty(); ++i)
    chosen[i] = chosen[i] && std::count(selection.variants.begin(), selection.variants.end(),
                                        all[i].way.name()) > 0;
  if (std::find(chosen.begin(), chosen.end(), true) == chosen.end() && !all.empty())
    throw std::runtime_error("no chosen case is planned with such a --variant");
  std::vector<Job> jobs;
  for (size_t first = 0, last = 0; first < all.size(); first = last) {
    while (last < all.size() && all[last].c == all[first].c) ++last;
    for (const uint64_t seed : seeds)
      for (size_t i = first; i < last; ++i)
        if (chosen[i]) jobs.push_back({all[i].c, all[i].device, seed, all[i].way});
  }
  return jobs;
}

}  // namespace mica::conformance
