// Dropout's random numbers, the same on every backend.
#pragma once

#include <cstdint>

#include "window.h"

namespace lck {

// For four consecutive keys.
struct Draws {
  uint32_t at[4];
};

// Philox4x32-10 at (x0, x1, x2, x3). Source: Salmon et al., SC 2011.
LCK_HOST_DEVICE static inline Draws philox(uint32_t x0, uint32_t x1, uint32_t x2, uint32_t x3,
                                           uint64_t seed) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * x0, b = uint64_t{0xCD9E8D57u} * x2;
    x0 = static_cast<uint32_t>(b >> 32) ^ x1 ^ k0;
    x1 = static_cast<uint32_t>(b);
    x2 = static_cast<uint32_t>(a >> 32) ^ x3 ^ k1;
    x3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{x0, x1, x2, x3}};
}

// For the query at `position` and the four keys from key / 4 * 4 on; key >= 0.
LCK_HOST_DEVICE static inline Draws dropout_draws(int64_t key, int64_t position, int64_t head,
                                                  int64_t sequence, uint64_t seed) {
  return philox(static_cast<uint32_t>(key >> 2), static_cast<uint32_t>(position), static_cast<uint32_t>(head),
                static_cast<uint32_t>(sequence), seed);
}

}  // namespace lck
