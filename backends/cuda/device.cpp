// Devices: which there are, opening and closing them, and what their errors mean.
#include "backends/cuda/device.h"

#include <limits>

using mica::Error;
using mica::Writer;

namespace mica::cuda {
namespace {

constexpr int kMinCc = 80;

// Multiplications a multiprocessor has done after 10 ms on an H200, 50 ms on the slowest. So a step
// of a few rows is one part: no model that fits in a device's memory has as many weights.
constexpr double kPartWork = 8e9;

// Answers that concern one call. All others mean that the device's state is unknown.
bool is_harmless(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidKernelImage:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorJitCompilationDisabled:
    case cudaErrorInvalidPtx:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorNotSupported:
    case cudaErrorNotPermitted:
    case cudaErrorSymbolNotFound:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureMerge:
    case cudaErrorStreamCaptureUnmatched:
    case cudaErrorStreamCaptureUnjoined:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureWrongThread:
    case cudaErrorCapturedEvent:
      return true;
    default:
      return false;
  }
}

// "0", "1"…; "" is 0.
bool parse_index(const char* option, int n_devices, int& out) {
  out = 0;
  if (option == nullptr || option[0] == '\0') return n_devices > 0;
  for (; *option != '\0'; ++option) {
    if (*option < '0' || *option > '9' || out >= n_devices) return false;
    out = out * 10 + (*option - '0');
  }
  return out < n_devices;
}

mica_status no_devices(const Driver& driver, cudaError_t error, Error& out) {
  if (error == cudaSuccess || error == cudaErrorNoDevice)
    return out.fail(MICA_NO_DEVICE, "there is no CUDA device here");
  driver.get_last_error();
  return out.fail(MICA_NO_DEVICE, "there is no CUDA device here: ", driver.error_text(error),
                  error == cudaErrorInsufficientDriver
                      ? " (no NVIDIA driver is installed, or it is older than this library needs)"
                      : "");
}

mica_status choose_device(const Driver& driver, const char* option, cudaDeviceProp& prop,
                          int& index, Error& error) {
  int n = 0;
  const cudaError_t counted = driver.get_device_count(&n);
  if (counted != cudaSuccess || n <= 0) return no_devices(driver, counted, error);
  if (!parse_index(option, n, index))
    return error.fail(MICA_NOT_FOUND, "device cuda has no option ", quoted(option),
                      "; there are 0 to ", n - 1);
  if (const cudaError_t e = driver.get_device_properties(&prop, index); e != cudaSuccess)
    return no_devices(driver, e, error);
  if (prop.major * 10 + prop.minor < kMinCc)
    return error.fail(MICA_NO_DEVICE, "CUDA device ", index, ", ",
                      static_cast<const char*>(prop.name), ", has compute capability ", prop.major,
                      ".", prop.minor, ": mica needs 8.0 or later");
  return MICA_OK;
}

// What wgmma's kernels need and a device of their kind may still lack: the driver's function, and
// code for sm_90a in this build.
void* find_encode_map(const Device& d) {
  if (d.info.cc != 90 || d.driver->entry_point == nullptr) return nullptr;
  cudaFuncAttributes attributes = {};
  if (d.driver->func_get_attributes(&attributes, wgmma_kernel()) != cudaSuccess) {
    d.driver->get_last_error();
    return nullptr;
  }
  return attributes.sharedSizeBytes > 0 ? d.driver->entry_point("cuTensorMapEncodeTiled") : nullptr;
}

// Stream, tickets, rings, and the one kernel that every device needs.
mica_status start(Device& d, Error& error) {
  const auto failed = [&](cudaError_t e, const char* doing) {
    d.driver->get_last_error();
    if (e == cudaErrorMemoryAllocation)
      return error.fail(MICA_OUT_OF_MEMORY, "CUDA device ", d.info.index,
                        " has not enough memory to be opened");
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorUnsupportedPtxVersion)
      return error.fail(MICA_NO_DEVICE, "this mica was built without code for CUDA device ",
                        d.info.index, ", sm_", d.info.cc, ": ", d.driver->error_text(e));
    return error.fail(MICA_NO_DEVICE, "CUDA device ", d.info.index, " cannot be opened: ", doing,
                      ": ", d.driver->error_text(e));
  };
  if (d.driver->load_code != nullptr) d.driver->load_code();
  cudaError_t e = d.driver->set_device(d.info.index);
  if (e != cudaSuccess) return failed(e, "cudaSetDevice");
  e = d.driver->stream_create(&d.stream, cudaStreamNonBlocking);
  if (e != cudaSuccess) return failed(e, "a stream");
  cudaFuncAttributes attributes = {};
  e = d.driver->func_get_attributes(&attributes, scatter_kernel());
  if (e != cudaSuccess) return failed(e, "its code");
  d.info.encode_map = find_encode_map(d);
  void* tickets = nullptr;
  e = d.driver->malloc(&tickets, kTickets * sizeof(uint32_t));
  if (e != cudaSuccess) return failed(e, "device memory");
  d.info.tickets = reinterpret_cast<uint64_t>(tickets);
  e = d.driver->memset_async(tickets, 0, kTickets * sizeof(uint32_t), d.stream);
  if (e != cudaSuccess) return failed(e, "a first write");
  e = d.small.open(*d.driver, Ring::kSmallSlot);
  return e == cudaSuccess ? MICA_OK : failed(e, "pinned memory");
}

void describe(const Driver& driver, const cudaDeviceProp& prop, mica_device_info* out) {
  *out = mica_device_info{};
  Writer(out->backend, sizeof out->backend).put("cuda");
  Writer(out->name, sizeof out->name)
      .put(static_cast<const char*>(prop.name), ", sm_", prop.major, prop.minor);
  const uint32_t n = device_count(driver);
  Writer options(out->options, sizeof out->options);
  for (uint32_t i = 0; i < n; ++i) options.put(i == 0 ? "" : ",", i);
  out->memory_bytes = prop.totalGlobalMem;
}

}  // namespace

// --- Errors -------------------------------------------------------------------------------------

mica_status check(Device& d, cudaError_t e, const char* doing) {
  if (e == cudaSuccess) return MICA_OK;
  d.driver->get_last_error();  // or the next call would answer it again
  Error error;
  const char* text = d.driver->error_text(e);
  if (e == cudaErrorMemoryAllocation) {
    error.fail(MICA_OUT_OF_MEMORY, "CUDA failed to ", doing, ": ", text);
  } else if (is_harmless(e)) {
    error.fail(MICA_INTERNAL, "CUDA failed to ", doing, ": ", text);
  } else {
    d.lost = true;
    error.fail(MICA_DEVICE_LOST, "CUDA device ", d.info.index, " is lost: it failed to ", doing,
               ": ", text);
    Writer(d.lost_text, sizeof d.lost_text).put(error.text());
  }
  return d.fail(error);
}

mica_status enter(Device& d) {
  if (!d.lost) return check(d, d.driver->set_device(d.info.index), "become current");
  Error error;
  error.fail(MICA_DEVICE_LOST, static_cast<const char*>(d.lost_text));
  return d.fail(error);
}

// --- Devices ------------------------------------------------------------------------------------

uint32_t device_count(const Driver& driver) {
  int n = 0;
  if (driver.get_device_count(&n) == cudaSuccess) return n > 0 ? static_cast<uint32_t>(n) : 0;
  driver.get_last_error();
  return 0;
}

mica_status device_info(const Driver& driver, const mica_host*, uint32_t i, mica_device_info* out) {
  cudaDeviceProp prop = {};
  if (i >= device_count(driver) ||
      driver.get_device_properties(&prop, static_cast<int>(i)) != cudaSuccess)
    return MICA_NOT_FOUND;
  describe(driver, prop, out);
  return MICA_OK;
}

mica_status device_open(const Driver& driver, const mica_host* host, const char* option,
                        mica_b_device** out) {
  *out = nullptr;
  Error error;
  cudaDeviceProp prop = {};
  int index = 0;
  mica_status status = choose_device(driver, option, prop, index, error);
  auto* d = status == MICA_OK ? create<Device>(*host->allocator, *host, driver) : nullptr;
  if (status == MICA_OK && d == nullptr) status = error.out_of_memory("a device");
  if (status == MICA_OK) {
    d->info = {index,
               prop.major * 10 + prop.minor,
               prop.multiProcessorCount,
               prop.sharedMemPerBlockOptin,
               static_cast<uint64_t>(prop.l2CacheSize),
               &driver == &kRuntime ? &d->lt : nullptr,  // none beside a test's runtime
               0};
    d->part_work = host->cancel != nullptr ? d->info.n_sms * kPartWork
                                           : std::numeric_limits<double>::infinity();
    d->lt.attach(driver, index);
    describe(driver, prop, &d->described);
    status = start(*d, error);
  }
  if (status == MICA_OK) {
    *out = static_cast<mica_b_device*>(d);
    return MICA_OK;
  }
  device_close(static_cast<mica_b_device*>(d));
  if (host->set_error != nullptr) host->set_error(host->user, error.code(), error.text());
  return status;
}

void device_close(mica_b_device* device) {
  Device* d = device;
  if (d == nullptr) return;
  d->driver->set_device(d->info.index);
  d->lt.close();
  d->small.close(*d->driver);
  d->large.close(*d->driver);
  if (d->scratch != 0) d->driver->free(pointer(d->scratch));
  if (d->info.tickets != 0) d->driver->free(pointer(d->info.tickets));
  if (d->stream != nullptr) d->driver->stream_destroy(d->stream);
  d->driver->get_last_error();
  const mica_allocator allocator = d->allocator;
  destroy(allocator, d);
}

mica_status device_state(mica_b_device* d, mica_device_info* out) {
  MICA_TRY(enter(*d));
  *out = d->described;
  size_t free_bytes = 0, all = 0;
  MICA_TRY(check(*d, d->driver->mem_get_info(&free_bytes, &all), "ask for its free memory"));
  out->free_bytes = free_bytes;
  out->memory_bytes = all;
  return MICA_OK;
}

}  // namespace mica::cuda
