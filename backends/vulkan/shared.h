// One VkDevice a GPU and process: contexts that open the same GPU can use each other's buffers
// (weights are shared by sessions), and a lost device is lost to all of them. Every opened Device
// has its own command pool, timeline and pipelines; only the queue needs a lock.
#pragma once
#include <pthread.h>

#include "backends/vulkan/physical.h"

namespace mica::vulkan {

struct Shared {
  Loader loader;
  Api api;
  VkInstance instance;
  VkPhysicalDevice physical;
  VkDevice device;
  VkQueue queue;
  uint8_t uuid[VK_UUID_SIZE];
  uint8_t paths;                       // the optional features that it was made with
  uint32_t n_users;                    // 0: the slot is free
  bool lost;                           // nobody else joins
  uint32_t tried_paths, failed_paths;  // bits of self_test.h's
  pthread_mutex_t queue_lock;
};

struct Device;
// Makes `d` a user of the GPU's device, if there is one: then its own instance is gone.
bool join_shared(Device& d, const Physical& chosen);
// Lends what `d` has just made to those who come later. A table that is full shares nothing.
void begin_shared(Device& d, const Physical& chosen);
// False when others go on using what `d` used; true: the device and the instance are to be
// destroyed.
bool leave_shared(Device& d);

// What self-tests of others found; nothing of a device that is not shared.
void known_paths(const Device& d, uint32_t& tried, uint32_t& failed);
void note_paths(const Device& d, uint32_t tried, uint32_t failed);

// For the queue's calls; of a device that is not shared nothing is locked.
class QueueLock {
 public:
  explicit QueueLock(Shared* shared) : shared_(shared) {
    if (shared_ != nullptr) pthread_mutex_lock(&shared_->queue_lock);
  }
  ~QueueLock() {
    if (shared_ != nullptr) pthread_mutex_unlock(&shared_->queue_lock);
  }
  QueueLock(const QueueLock&) = delete;
  QueueLock& operator=(const QueueLock&) = delete;

 private:
  Shared* shared_;
};

}  // namespace mica::vulkan
