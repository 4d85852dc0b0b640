// Numbers and texts as JSON writes them.
#pragma once
#include <string>
#include <string_view>

namespace mica_llama::cli {

std::string json_number(double value);         // null where JSON has no such number
std::string json_text(std::string_view text);  // quoted; what is not UTF-8 becomes U+FFFD

}  // namespace mica_llama::cli
