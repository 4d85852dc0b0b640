// ChatML, the chat form of SmolLM2, Qwen2 and others: detection and wrapping of one prompt.
#pragma once

#include <string>
#include <string_view>

namespace mica_llama {

// Whether a chat template (GGUF `tokenizer.chat_template`, Jinja text) writes ChatML.
bool is_chatml(std::string_view template_text);

// The system message that the template itself gives when the caller gives none, "" when it has
// none. Found where the template spells out a whole system turn, in a string literal or plain:
// `<|im_start|>system\n` text `<|im_end|>`. The template is not run.
std::string chatml_default_system(std::string_view template_text);

// One user turn, ready for the model's answer:
//   <|im_start|>system\n SYSTEM <|im_end|>\n<|im_start|>user\n USER
//   <|im_end|>\n<|im_start|>assistant\n
// An empty `system_prompt` means the template's own; no system turn when that is empty too.
// Encode the result with parse_special.
std::string wrap_chatml(std::string_view template_text, std::string_view user_prompt,
                        std::string_view system_prompt);

}  // namespace mica_llama
