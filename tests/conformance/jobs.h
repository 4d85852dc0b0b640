// What the suite runs: a case with one seed on one device, planned in one way.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "mica/backend.h"
#include "tests/conformance/instance.h"

namespace mica::conformance {

struct Device {
  std::string name;  // "cpu:avx2"
  const mica_backend* backend = nullptr;
};

// How a case is planned.
struct Way {
  std::string variant;  // name of a kernel's row; "": the rows that the device chooses itself
  bool unfused = false;
  std::string suffix() const;  // "", "/naive", "/unfused"
  std::string name() const;    // "usual", "naive", "unfused"
};

struct Job {
  const Case* c = nullptr;
  const Device* device = nullptr;
  uint64_t seed = 1;
  Way way;
  std::string id() const { return c->op + "/" + c->name + way.suffix(); }
  // Jobs of one group stand in a row and share the reference's results.
  bool same_group(const Job& other) const { return c == other.c && seed == other.seed; }
};

// Which of all jobs; empty lists choose all.
struct Selection {
  std::vector<std::string> ops;       // names or globs
  std::vector<std::string> cases;     // ids, names, parts of names, or globs
  std::vector<std::string> variants;  // names of kernels' rows; other ways are left out
  bool reduced = false;               // a seventh of every op's cases, where no case is named
  bool whole() const { return ops.empty() && cases.empty() && variants.empty() && !reduced; }
};

CaseList all_cases();

// The ways in which each of the given jobs (one a case and device) can be planned.
using Planner = std::function<std::vector<std::vector<Way>>(const std::vector<Job>&)>;

// The cases that the selection may choose, before they are planned. What matches nothing is an
// error (std::runtime_error) that names the nearest.
std::vector<const Case*> choose_cases(const CaseList& list, const Selection& selection);
// The chosen jobs on every device with every seed, group by group; the same errors.
std::vector<Job> make_jobs(const std::vector<const Case*>& cases, const Selection& selection,
                           const std::vector<Device>& devices, const std::vector<uint64_t>& seeds,
                           const Planner& planner);

}  // namespace mica::conformance
