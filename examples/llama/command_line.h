// Reads a program's arguments. Nothing of it exists before main, so that a program that runs out of
// memory can say so.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace mica_llama::cli {

class CommandLine {
 public:
  // Where a value goes. A flag given twice counts as given last: scripts add to the flags they were
  // given. Lists are separated by commas; a text in an Optional was given, "" too.
  struct Optional {
    std::string text;
    bool is_given = false;
  };
  using Target = std::variant<bool*, std::string*, Optional*, uint32_t*, int32_t*, int64_t*, float*,
                              std::vector<uint32_t>*, std::vector<int32_t>*, void (*)()>;

  explicit CommandLine(const char* purpose) : purpose_(purpose) {}

  // `names`: "-t,--threads". A bool is a flag without a value; a function is called, and ends the
  // program. `help` tells the default where `shows_default` does not.
  void add(const char* names, Target target, const char* help, bool shows_default = false);
  // The value must be one of these words, separated by spaces.
  void add_choice(const char* names, std::string* target, const char* words);
  // An argument that is no flag; all are required, in this order.
  void add_positional(const char* name, std::string* target, const char* help);

  // False when the program is to end well: --help, or a function was called. Fails with
  // INVALID_ARGUMENT and a sentence.
  bool parse(int argc, char** argv, const char* program) const;

 private:
  struct Option {
    std::string names;
    Target target;
    std::string help;
    const char* words = nullptr;
  };
  struct Positional {
    const char* name;
    std::string* target;
    const char* help;
  };

  const Option* find(std::string_view name) const;
  void print_help(const char* program) const;

  const char* purpose_;
  std::vector<Option> options_;
  std::vector<Positional> positionals_;
};

}  // namespace mica_llama::cli
