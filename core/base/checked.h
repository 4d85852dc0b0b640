// The one place where sizes are computed: arithmetic that reports overflow instead of wrapping.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mica {

// Each returns false, leaving `out` unspecified, when the exact result does not fit.
template <class T>
[[nodiscard]] constexpr bool checked_add(T a, T b, T& out) {
  return !__builtin_add_overflow(a, b, &out);
}
template <class T>
[[nodiscard]] constexpr bool checked_mul(T a, T b, T& out) {
  return !__builtin_mul_overflow(a, b, &out);
}
// The sum of byte counts for texts and limits: what does not fit is the largest there is.
[[nodiscard]] constexpr uint64_t saturating_add(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  return checked_add(a, b, sum) ? sum : UINT64_MAX;
}
// Rounds up to a multiple of `align`, a power of two.
template <class T>
[[nodiscard]] constexpr bool checked_align(T value, T align, T& out) {
  T sum = 0;
  if (!checked_add(value, static_cast<T>(align - 1), sum)) return false;
  out = static_cast<T>(sum & ~static_cast<T>(align - 1));
  return true;
}
// For values already known to be far from the limit (validated dimensions, struct sizes).
template <class T>
[[nodiscard]] constexpr T align_up(T value, T align) {
  return static_cast<T>((value + align - 1) & ~static_cast<T>(align - 1));
}
[[nodiscard]] constexpr int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
[[nodiscard]] constexpr bool is_power_of_two(uint64_t v) { return v != 0 && (v & (v - 1)) == 0; }
// True when [offset, offset + length) lies inside [0, size). Written so that nothing can wrap.
[[nodiscard]] constexpr bool range_fits(uint64_t offset, uint64_t length, uint64_t size) {
  return offset <= size && length <= size - offset;
}

}  // namespace mica
