// ChatML: finds the default system turn in a template's text and wraps a prompt.
#include "chat.h"

namespace mica_llama {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";
constexpr std::string_view kSystemTurn = "<|im_start|>system";

// Undoes the escapes of a Jinja string literal (those of Python that templates use).
std::string unescape(std::string_view literal) {
  std::string text;
  for (size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      text += literal[i];
      continue;
    }
    const char next = literal[++i];
    switch (next) {
      case 'n':
        text += '\n';
        break;
      case 't':
        text += '\t';
        break;
      case 'r':
        text += '\r';
        break;
      case '\\':
      case '\'':
      case '"':
        text += next;
        break;
      default:
        text += '\\';
        text += next;
    }
  }
  return text;
}

// Whether `body`, opened with `quote`, still is inside that literal at its end.
bool stays_in_literal(std::string_view body, char quote) {
  for (size_t i = 0; i < body.size(); ++i) {
    if (body[i] == '\\')
      ++i;
    else if (body[i] == quote)
      return false;
  }
  return true;
}

// A turn's text as the template shows it after `<|im_start|>system`, or "" when part of it is
// computed (an expression or the end of the literal comes before `<|im_end|>`).
std::string literal_turn(std::string_view body, char before) {
  const bool quoted = before == '\'' || before == '"';
  if (quoted) {
    if (!stays_in_literal(body, before)) return {};
  } else if (body.find("{{") != body.npos || body.find("{%") != body.npos) {
    return {};
  }
  const std::string text = quoted ? unescape(body) : std::string(body);
  return text.size() > 1 && text[0] == '\n' ? text.substr(1) : std::string();
}

void append_turn(std::string& text, std::string_view role, std::string_view content) {
  text.append(kStart).append(role).append("\n").append(content).append(kEnd).append("\n");
}

}  // namespace

bool is_chatml(std::string_view template_text) {
  return template_text.find(kStart) != template_text.npos;
}

std::string chatml_default_system(std::string_view template_text) {
  // A turn holds no other, so one that another interrupts is skipped: each byte is looked at once.
  size_t at = 0, end = 0;
  while ((at = template_text.find(kSystemTurn, at)) != template_text.npos) {
    const char before = at == 0 ? '\0' : template_text[at - 1];
    at += kSystemTurn.size();
    if (end < at) end = template_text.find(kEnd, at);
    if (end == template_text.npos) break;
    const size_t next = template_text.substr(0, end).find(kStart, at);
    if (next != template_text.npos) {
      at = next;
      continue;
    }
    std::string system = literal_turn(template_text.substr(at, end - at), before);
    if (!system.empty()) return system;
  }
  return {};
}

std::string wrap_chatml(std::string_view template_text, std::string_view user_prompt,
                        std::string_view system_prompt) {
  const std::string own = system_prompt.empty() ? chatml_default_system(template_text) : "";
  const std::string_view system = system_prompt.empty() ? std::string_view(own) : system_prompt;
  std::string text;
  if (!system.empty()) append_turn(text, "system", system);
  append_turn(text, "user", user_prompt);
  text.append(kStart).append("assistant\n");
  return text;
}

}  // namespace mica_llama
