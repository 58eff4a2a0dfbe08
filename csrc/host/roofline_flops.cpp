// Peak arithmetic: every loop has enough independent accumulators in registers to hide the latency.
#include <optional>
#include <stdexcept>

#include "host/roofline.h"
#include "host/roofline_passes.h"

#if defined(__x86_64__)
  #include <cpuid.h>
  #include <immintrin.h>
  #include <sys/syscall.h>
  #include <unistd.h>
  #define LCK_IN_REGISTER(x) asm volatile("" : "+v"(x))
  #define LCK_TARGET(isa) __attribute__((target(isa)))
#else
  #define LCK_IN_REGISTER(x) asm volatile("" : "+w"(x))
#endif

namespace lck {

namespace {

// Runs `rounds` rounds and returns the number of FLOPs.
using FmaLoop = double (*)(long rounds);

// A function that runs COUNT independent `acc = FMA(acc)` per round on vectors of type VECTOR.
#define LCK_FMA_LOOP(NAME, TARGET, VECTOR, COUNT, FLOPS, ZERO, FMA) \
  TARGET double NAME(long rounds) {                                 \
    VECTOR acc[COUNT];                                              \
    VECTOR a = ZERO, b = ZERO;                                      \
    LCK_IN_REGISTER(a);                                             \
    LCK_IN_REGISTER(b);                                             \
    for (VECTOR& c : acc) c = ZERO;                                 \
    for (long i = 0; i < rounds; ++i) {                             \
      _Pragma("GCC unroll 32") for (VECTOR& c : acc) {              \
        c = FMA(c, a, b);                                           \
        LCK_IN_REGISTER(c);                                         \
      }                                                             \
    }                                                               \
    return static_cast<double>(rounds) * COUNT * FLOPS;             \
  }

#define LCK_MUL_ADD(c, a, b) ((c) * (a) + (b))
typedef float Float4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));
LCK_FMA_LOOP(portable_fp32, , Float4, 12, 8, Float4{}, LCK_MUL_ADD)
LCK_FMA_LOOP(portable_fp64, , Double2, 12, 4, Double2{}, LCK_MUL_ADD)

#if defined(__x86_64__)
LCK_FMA_LOOP(avx2_fp32, LCK_TARGET("avx2,fma"), __m256, 12, 16, _mm256_setzero_ps(), _mm256_fmadd_ps)
LCK_FMA_LOOP(avx2_fp64, LCK_TARGET("avx2,fma"), __m256d, 12, 8, _mm256_setzero_pd(), _mm256_fmadd_pd)
LCK_FMA_LOOP(avx512_fp32, LCK_TARGET("avx512f"), __m512, 24, 32, _mm512_setzero_ps(), _mm512_fmadd_ps)
LCK_FMA_LOOP(avx512_fp64, LCK_TARGET("avx512f"), __m512d, 24, 16, _mm512_setzero_pd(), _mm512_fmadd_pd)
  #define LCK_DPBF16(c, a, b) _mm512_dpbf16_ps(c, (__m512bh)(a), (__m512bh)(b))
LCK_FMA_LOOP(avx512_bf16, LCK_TARGET("avx512f,avx512bf16"), __m512, 24, 64, _mm512_setzero_ps(), LCK_DPBF16)

struct alignas(64) TileConfig {
  unsigned char palette = 1;
  unsigned char start_row = 0;
  unsigned char reserved[14] = {};
  unsigned short row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Six accumulator tiles of 16 x 16 fp32; tiles 6 and 7 are the operands.
LCK_TARGET("amx-tile,amx-bf16") double amx_bf16(long rounds) {
  const TileConfig config;
  // NOTE: the intrinsic's asm declares 8 of the 64 bytes as read; without this the other stores are removed.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (long i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return static_cast<double>(rounds) * 6 * 2 * 16 * 16 * 32;
}

// Whether AMX registers exist and the operating system enables them for this process.
bool may_use_amx() {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  #if defined(__linux__)
  constexpr long kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
  #else
  return false;
  #endif
}
#endif

struct Peak {
  FmaLoop loop;
  const char* instruction;
};

std::optional<Peak> find_peak(std::string_view dtype) {
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (dtype == "fp32" && avx512) return Peak{avx512_fp32, "vfmadd231ps zmm"};
  if (dtype == "fp64" && avx512) return Peak{avx512_fp64, "vfmadd231pd zmm"};
  if (dtype == "fp32" && avx2) return Peak{avx2_fp32, "vfmadd231ps ymm"};
  if (dtype == "fp64" && avx2) return Peak{avx2_fp64, "vfmadd231pd ymm"};
  if (dtype == "bf16" && avx512 && __builtin_cpu_supports("avx512bf16")) {
    return Peak{avx512_bf16, "vdpbf16ps zmm"};
  }
  if (dtype == "bf16_amx" && may_use_amx()) return Peak{amx_bf16, "tdpbf16ps"};
#endif
  if (dtype == "fp32") return Peak{portable_fp32, "128-bit multiply and add"};
  if (dtype == "fp64") return Peak{portable_fp64, "128-bit multiply and add"};
  return std::nullopt;
}

constexpr const char* kDtypes[] = {"fp32", "fp64", "bf16", "bf16_amx"};

}  // namespace

std::vector<std::string> peak_dtypes() {
  std::vector<std::string> found;
  for (const char* dtype : kDtypes) {
    if (find_peak(dtype)) found.emplace_back(dtype);
  }
  return found;
}

Rate peak_flops(std::string_view dtype, int threads, double seconds) {
  check_threads(threads);
  const std::optional<Peak> peak = find_peak(dtype);
  if (!peak) {
    std::string allowed;
    for (const std::string& name : peak_dtypes()) allowed += (allowed.empty() ? "" : ", ") + name;
    throw std::invalid_argument("dtype must be one that this processor can be probed for (" + allowed +
                                "), got " + std::string(dtype));
  }
  constexpr long kRounds = 500'000;
  const double flops = peak->loop(1) * kRounds;
  const auto pass = [&] { return time_pass(threads, [&](int) { peak->loop(kRounds); }); };
  Rate rate = repeat_passes(seconds, flops * threads, pass);
  rate.method = peak->instruction;
  return rate;
}

}  // namespace lck
