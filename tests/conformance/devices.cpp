#include "tests/conformance/devices.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <stdexcept>

#include "tests/conformance/backends.h"

namespace mica::conformance {
namespace {

// At commas, but not at those of a device's options: behind a colon, what is no backend's name goes
// on with them ("ref:f64,fused").
std::vector<std::string> split_names(const std::vector<std::string>& lists,
                                     const mica_backend* loaded) {
  std::vector<std::string> names;
  for (const std::string& list : lists) {
    if (("," + list + ",").find(",,") != std::string::npos)
      throw std::runtime_error("--backend has an empty name in '" + list + "'");
    std::istringstream in(list);
    bool is_first = true;
    for (std::string name; std::getline(in, name, ','); is_first = false) {
      const std::string base = name.substr(0, name.find(':'));
      const bool known =
          builtin_backend(base) != nullptr || (loaded != nullptr && base == loaded->name);
      if (!is_first && !known && names.back().find(':') != std::string::npos)
        names.back() += "," + name;
      else
        names.push_back(name);
    }
  }
  return names;
}

}  // namespace

std::vector<Device> find_devices(const std::vector<std::string>& lists, const std::string& plugin) {
  const mica_backend* loaded = plugin.empty() ? nullptr : load_plugin(plugin);
  const std::vector<std::string> names = split_names(lists, loaded);
  std::vector<Device> devices;
  bool used = false;
  for (const std::string& name : names) {
    const std::string base = name.substr(0, name.find(':'));
    const bool is_loaded = loaded != nullptr && base == loaded->name;
    const mica_backend* backend = is_loaded ? loaded : builtin_backend(base);
    if (backend == nullptr)
      throw std::runtime_error(
          "no backend " + base +
          "; there are: " + (loaded != nullptr ? loaded->name + (" of " + plugin) + ", " : "") +
          "ref, cpu, cuda, vulkan" + (loaded == nullptr ? ", or --plugin FILE.so" : ""));
    used |= is_loaded;
    if (std::any_of(devices.begin(), devices.end(), [&](auto& d) { return d.name == name; }))
      throw std::runtime_error("--backend names " + name + " twice");
    devices.push_back({name, backend});
  }
  if (names.empty()) devices.push_back({loaded != nullptr ? loaded->name : "cpu", loaded});
  if (names.empty() && loaded == nullptr) devices.back().backend = mica_backend_cpu();
  if (!names.empty() && loaded != nullptr && !used)
    throw std::runtime_error("the backend of " + plugin + " is " + loaded->name +
                             "; no --backend names it");
  return devices;
}

HeldDevice::HeldDevice(const Device& device) {
  status_ = mica_context_create(nullptr, &context_);
  if (status_ == MICA_OK) status_ = mica_context_add_backend(context_, device.backend);
  if (status_ == MICA_OK) status_ = mica_device_open(context_, device.name.c_str(), &device_);
}

HeldDevice::~HeldDevice() {
  mica_device_release(device_);
  mica_context_release(context_);
}

const char* HeldDevice::error() const {
  return context_ != nullptr ? mica_context_error(context_) : "no context";
}

Presence check_device(const Device& device, std::string& why) {
  int fd[2];
  if (pipe(fd) != 0) throw std::runtime_error("a pipe cannot be made");
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const HeldDevice held(device);
    const std::string text = held.status() == MICA_OK ? "" : held.error();
    const bool told = write(fd[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(held.status() == MICA_OK          ? 0
          : held.status() == MICA_NO_DEVICE ? static_cast<int>(Presence::kMissing)
          : told                            ? static_cast<int>(Presence::kBroken)
                                            : 3);
  }
  close(fd[1]);
  char text[4096];
  for (ssize_t n = 0; (n = read(fd[0], text, sizeof text)) > 0;) why.append(text, text + n);
  close(fd[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status)) {
    why = "opening " + device.name + " crashed with signal " + std::to_string(WTERMSIG(status));
    return Presence::kBroken;
  }
  const int code = WEXITSTATUS(status);
  return code == 0                                      ? Presence::kThere
         : code == static_cast<int>(Presence::kMissing) ? Presence::kMissing
                                                        : Presence::kBroken;
}

}  // namespace mica::conformance
