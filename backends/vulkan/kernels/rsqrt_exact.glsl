// The factor of an rms_norm.

// 1 / sqrt(v) with one step of Newton's: Vulkan allows inversesqrt 2 units in the last place.
float rsqrt_exact(float v) {
  const float f = inversesqrt(v);
  if (!(v > 1e-30 && v < 1e30)) return f;
  precise float e = v * f * f;
  return f * (1.5 - 0.5 * e);
}
