// Making graphs of the core, with its errors as exceptions.
#pragma once
#include "failure.h"
#include "handles.h"

namespace mica_llama {

inline void check_graph(const mica_graph* graph) {
  const char* text = nullptr;
  const mica_status status = mica_graph_status(graph, &text);
  if (status != MICA_OK) fail(status, text);
}

inline Graph new_graph(mica_context* context) {
  mica_graph* graph = nullptr;
  check(mica_graph_create(context, &graph), context);
  return Graph(graph);
}

}  // namespace mica_llama
