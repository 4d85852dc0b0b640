// A growable array on the caller's allocator whose growth can fail, and the default allocator.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "core/base/checked.h"
#include "mica/context.h"

namespace mica {

// malloc-backed; the fall-back of every object made without a context.
const mica_allocator& default_allocator();

inline void* allocate(const mica_allocator& a, size_t bytes, size_t align = 64) {
  return a.alloc(a.user, bytes == 0 ? 1 : bytes, align);
}
inline void deallocate(const mica_allocator& a, void* p, size_t bytes) {
  if (p != nullptr) a.free(a.user, p, bytes == 0 ? 1 : bytes);
}

// Makes and destroys one object. create() returns nullptr when memory is short.
template <class T, class... Args>
[[nodiscard]] T* create(const mica_allocator& a, Args&&... args) {
  void* p = allocate(a, sizeof(T), alignof(T) < 16 ? 16 : alignof(T));
  return p != nullptr ? new (p) T(std::forward<Args>(args)...) : nullptr;
}
template <class T>
void destroy(const mica_allocator& a, T* p) {
  if (p == nullptr) return;
  p->~T();
  deallocate(a, p, sizeof(T));
}

template <class T>
class Vec {
 public:
  explicit Vec(const mica_allocator& a) : allocator_(&a) {}
  Vec(Vec&& o) noexcept : allocator_(o.allocator_) { swap(o); }
  Vec& operator=(Vec o) noexcept {
    swap(o);
    return *this;
  }
  ~Vec() {
    clear();
    deallocate(*allocator_, data_, capacity_ * sizeof(T));
  }

  [[nodiscard]] bool reserve(size_t n) {
    if (n <= capacity_) return true;
    size_t bytes = 0;
    if (!checked_mul(n, sizeof(T), bytes)) return false;
    T* p = static_cast<T*>(allocate(*allocator_, bytes, alignof(T) < 16 ? 16 : alignof(T)));
    if (p == nullptr) return false;
    for (size_t i = 0; i < size_; ++i) {
      new (p + i) T(std::move(data_[i]));
      data_[i].~T();
    }
    deallocate(*allocator_, data_, capacity_ * sizeof(T));
    data_ = p;
    capacity_ = n;
    return true;
  }
  [[nodiscard]] bool push(T value) {
    if (size_ == capacity_ && !reserve(capacity_ < 8 ? 8 : capacity_ * 2)) return false;
    new (data_ + size_++) T(std::move(value));
    return true;
  }
  // New elements are value-initialised (zero for plain types).
  [[nodiscard]] bool resize(size_t n) {
    if (n > capacity_ && !reserve(n)) return false;
    while (size_ > n) data_[--size_].~T();
    while (size_ < n) new (data_ + size_++) T();
    return true;
  }
  [[nodiscard]] bool append(const T* p, size_t n) {
    if (n > SIZE_MAX - size_) return false;
    if (size_ + n > capacity_ && !reserve(size_ + n > capacity_ * 2 ? size_ + n : capacity_ * 2))
      return false;
    for (size_t i = 0; i < n; ++i) new (data_ + size_++) T(p[i]);
    return true;
  }
  void pop() { data_[--size_].~T(); }
  void clear() {
    while (size_ > 0) pop();
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T& back() { return data_[size_ - 1]; }
  const T& back() const { return data_[size_ - 1]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  const mica_allocator& allocator() const { return *allocator_; }

 private:
  void swap(Vec& o) {
    std::swap(allocator_, o.allocator_);
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(capacity_, o.capacity_);
  }
  const mica_allocator* allocator_;
  T* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace mica
