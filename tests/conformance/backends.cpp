#include "tests/conformance/backends.h"

#include <dlfcn.h>

#include <stdexcept>

namespace mica::conformance {

const mica_backend* builtin_backend(const std::string& name) {
  if (name == "ref") return mica_backend_ref();
  if (name == "cpu") return mica_backend_cpu();
  if (name == "cuda") return mica_backend_cuda();
  if (name == "vulkan") return mica_backend_vulkan();
  return nullptr;
}

const mica_backend* load_plugin(const std::string& plugin) {
  const std::string path = plugin.find('/') == std::string::npos ? "./" + plugin : plugin;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  auto entry = reinterpret_cast<mica_backend_entry_fn>(dlsym(library, "mica_backend_entry"));
  if (entry == nullptr) throw std::runtime_error(plugin + " does not export mica_backend_entry");
  const mica_backend* backend = entry();
  if (backend == nullptr) throw std::runtime_error(plugin + ": mica_backend_entry returns NULL");
  return backend;
}

}  // namespace mica::conformance
