// Parsing and the text of --help.
#include "command_line.h"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>

#include "failure.h"

namespace mica_llama::cli {
namespace {

[[noreturn]] void refuse(const std::string& text) {
  fail(MICA_INVALID_ARGUMENT, text + " (--help lists the flags)");
}

// The parts of a text between separators.
std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == text.npos) return parts;
    text.remove_prefix(end + 1);
  }
}

template <class T>
void read(const std::string& name, std::string_view text, T& value) {
  bool is_read = false;
  if constexpr (std::is_same_v<T, float>) {
    const std::string copy(text);
    char* end = nullptr;
    value = std::strtof(copy.c_str(), &end);
    is_read = !copy.empty() && *end == '\0';
  } else {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    is_read = error == std::errc() && end == text.data() + text.size();
  }
  if (!is_read)
    refuse(name + ": '" + escaped(text) + "' is no number" +
           (std::is_same_v<T, float> ? "" : " of the range it may have"));
}

void set(const std::string&, std::string_view text, std::string& value) { value = text; }
void set(const std::string&, std::string_view text, CommandLine::Optional& value) {
  value = {std::string(text), true};
}
void set(const std::string& name, std::string_view text, float& value) { read(name, text, value); }
void set(const std::string& name, std::string_view text, uint32_t& v) { read(name, text, v); }
void set(const std::string& name, std::string_view text, int32_t& v) { read(name, text, v); }
void set(const std::string& name, std::string_view text, int64_t& v) { read(name, text, v); }
template <class T>
void set(const std::string& name, std::string_view text, std::vector<T>& values) {
  values.clear();
  for (const std::string_view part : split(text, ',')) read(name, part, values.emplace_back());
}

std::string shown(const std::string& value) { return value; }
std::string shown(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", double{value});
  return text;
}
template <class T>
std::string shown(T value) {
  return std::to_string(value);
}
template <class T>
std::string shown(const std::vector<T>& values) {
  std::string text;
  for (const T v : values) text += (text.empty() ? "" : ",") + std::to_string(v);
  return text;
}

bool takes_value(const CommandLine::Target& target) {
  return !std::holds_alternative<bool*>(target) && !std::holds_alternative<void (*)()>(target);
}

}  // namespace

void CommandLine::add(const char* names, Target target, const char* help, bool shows_default) {
  std::string text = help;
  if (shows_default)
    std::visit(
        [&](auto to) {
          using To = decltype(to);
          if constexpr (!std::is_same_v<To, bool*> && !std::is_same_v<To, void (*)()> &&
                        !std::is_same_v<To, Optional*>)
            text += " (default " + shown(*to) + ")";
        },
        target);
  options_.push_back({names, target, std::move(text), nullptr});
}

void CommandLine::add_choice(const char* names, std::string* target, const char* words) {
  add(names, target, words, true);
  options_.back().words = words;
}

void CommandLine::add_positional(const char* name, std::string* target, const char* help) {
  positionals_.push_back({name, target, help});
}

const CommandLine::Option* CommandLine::find(std::string_view name) const {
  for (const Option& option : options_)
    for (const std::string_view one : split(option.names, ','))
      if (one == name) return &option;
  return nullptr;
}

bool CommandLine::parse(int argc, char** argv, const char* program) const {
  size_t n_positionals = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      print_help(program);
      return false;
    }
    if (argument.size() < 2 || argument[0] != '-') {
      if (n_positionals == positionals_.size())
        refuse("the argument '" + escaped(argument) + "' was not expected");
      *positionals_[n_positionals++].target = argument;
      continue;
    }
    // --name=VALUE, -nVALUE, or the value is the next argument.
    const size_t name_end = argument[1] == '-' ? argument.find('=') : 2;
    const std::string name(argument.substr(0, name_end));
    const Option* option = find(name);
    if (option == nullptr) refuse("the argument '" + escaped(argument) + "' was not expected");
    const bool has_value = name.size() < argument.size();
    if (!takes_value(option->target)) {
      if (has_value) refuse(name + " takes no value");
      if (bool* const* flag = std::get_if<bool*>(&option->target)) {
        **flag = true;
        continue;
      }
      std::get<void (*)()>(option->target)();
      return false;
    }
    if (!has_value && ++i == argc) refuse(name + " needs a value");
    const std::string_view value =
        has_value ? argument.substr(name.size() + (argument[1] == '-' ? 1 : 0)) : argv[i];
    if (option->words != nullptr) {
      bool found = false;
      for (const std::string_view word : split(option->words, ' ')) found |= word == value;
      if (!found) refuse(name + ": '" + escaped(value) + "' is none of " + option->words);
    }
    std::visit(
        [&](auto target) {
          using To = decltype(target);
          if constexpr (!std::is_same_v<To, bool*> && !std::is_same_v<To, void (*)()>)
            set(name, value, *target);
        },
        option->target);
  }
  if (n_positionals < positionals_.size())
    refuse(std::string(positionals_[n_positionals].name) + " is required");
  return true;
}

void CommandLine::print_help(const char* program) const {
  std::printf("%s\nUsage: %s [flags]", purpose_, program);
  for (const Positional& p : positionals_) std::printf(" %s", p.name);
  std::printf("\n\n");
  for (const Positional& p : positionals_) std::printf("  %-26s %s\n", p.name, p.help);
  std::printf("  %-26s %s\n", "-h,--help", "print this");
  for (const Option& o : options_)
    std::printf("  %-26s %s\n", (o.names + (takes_value(o.target) ? " VALUE" : "")).c_str(),
                o.help.c_str());
}

}  // namespace mica_llama::cli
