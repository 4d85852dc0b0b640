#include "tests/conformance/jobs.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "tests/conformance/names.h"

namespace mica::conformance {
#define MICA_CASE_FAMILY(family) void cases_##family(CaseList& list);
#include "case_families.def"
#undef MICA_CASE_FAMILY
void cases_regions(CaseList& list);
void cases_whole_graphs(CaseList& list);
void cases_exact(CaseList& list);
void cases_alias(CaseList& list);

namespace {

// How a case is planned: with the kernels of a variant, and with or without fusions.
struct Way {
  std::string variant;
  bool unfused;
};

// Those that a device plans alike are run once (run.cpp).
std::vector<Way> ways_of(const Case&) { return {{"", false}, {"naive", false}, {"", true}}; }

std::string suffix(const Way& w) {
  return (w.variant.empty() ? "" : "/" + w.variant) + (w.unfused ? "/unfused" : "");
}

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
bool matches(Match how, const std::string& pattern, const Case& c, const Way& w) {
  const std::string id = c.op + "/" + c.name + suffix(w);
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

struct Planned {
  const Case* c;
  Way way;
};

std::vector<bool> matched(const std::vector<Planned>& all, const std::string& pattern) {
  std::vector<bool> chosen(all.size());
  for (const Match how : {Match::kExact, Match::kParts, Match::kGlob}) {
    for (size_t i = 0; i < all.size(); ++i)
      chosen[i] = matches(how, pattern, *all[i].c, all[i].way);
    if (std::find(chosen.begin(), chosen.end(), true) != chosen.end()) return chosen;
  }
  std::vector<std::string> names;
  for (const Planned& p : all)
    names.push_back(pattern.find('/') == std::string::npos
                        ? p.c->name
                        : p.c->op + "/" + p.c->name + suffix(p.way));
  throw std::runtime_error("no case " + pattern + nearest(pattern, names));
}

}  // namespace

std::string Job::id() const { return c->op + "/" + c->name + suffix({variant, unfused}); }

CaseList all_cases() {
  CaseList list;
#define MICA_CASE_FAMILY(family) cases_##family(list);
#include "case_families.def"
#undef MICA_CASE_FAMILY
  cases_regions(list);
  cases_whole_graphs(list);
  cases_exact(list);
  cases_alias(list);
  return list;
}

std::vector<Job> make_jobs(const CaseList& list, const Selection& selection,
                           const std::vector<Device>& devices, const std::vector<uint64_t>& seeds) {
  std::vector<Planned> all;
  for (const Case* c : cases_of_ops(list, selection))
    for (const Way& w : ways_of(*c)) all.push_back({c, w});
  std::vector<bool> chosen(all.size(), selection.cases.empty());
  for (const std::string& pattern : selection.cases) {
    const std::vector<bool> more = matched(all, pattern);
    for (size_t i = 0; i < all.size(); ++i) chosen[i] = chosen[i] || more[i];
  }
  std::vector<Job> jobs;
  for (size_t first = 0, last = 0; first < all.size(); first = last) {
    while (last < all.size() && all[last].c == all[first].c) ++last;
    for (const uint64_t seed : seeds)
      for (const Device& d : devices)
        for (size_t i = first; i < last; ++i)
          if (chosen[i])
            jobs.push_back({all[i].c, &d, seed, all[i].way.variant, all[i].way.unfused});
  }
  return jobs;
}

}  // namespace mica::conformance
