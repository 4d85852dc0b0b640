// Numbers that encoders stumble over, among ordinary ones.
#pragma once
#include <limits>
#include <random>

inline float odd_value(std::mt19937& random, float sigma) {
  std::normal_distribution<float> normal(0, sigma);
  switch (random() % 24) {
    case 0:
      return 0.0f;
    case 1:
      return -0.0f;
    case 2:
      return std::numeric_limits<float>::infinity();
    case 3:
      return std::numeric_limits<float>::quiet_NaN();
    case 4:
      return 1e30f * normal(random);
    case 5:
      return 1e-30f * normal(random);
    case 6:
      return 0.5f * static_cast<float>(static_cast<int>(random() % 255) - 127);
    default:
      return normal(random);
  }
}
