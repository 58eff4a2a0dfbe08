// Bandwidth of memory, in blocks of one page: read, copy with ordinary stores, copy with streaming stores.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "host/roofline.h"
#include "host/roofline_passes.h"

#if defined(__x86_64__)
  #include <immintrin.h>
  #define LCK_TARGET(isa) __attribute__((target(isa)))
#endif

namespace lck {

namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kStreams = 4;

using ReadBlock = void (*)(const char* src);
using CopyBlock = void (*)(char* dst, const char* src);

void read_block_portable(const char* src) {
  std::uint64_t sum[8] = {};
  for (std::size_t i = 0; i < kBlock; i += sizeof(sum)) {
    std::uint64_t words[8];
    std::memcpy(words, src + i, sizeof(words));
    for (int lane = 0; lane < 8; ++lane) sum[lane] ^= words[lane];
  }
  for (std::uint64_t& lane : sum) asm volatile("" : "+r"(lane));
}

void copy_block(char* dst, const char* src) {
  std::memcpy(dst, src, kBlock);
}

#if defined(__x86_64__)
LCK_TARGET("avx2") void read_block_avx2(const char* src) {
  __m256i sum[4] = {};
  for (std::size_t i = 0; i < kBlock; i += sizeof(sum)) {
    for (int k = 0; k < 4; ++k) sum[k] ^= _mm256_load_si256(reinterpret_cast<const __m256i*>(src + i) + k);
  }
  for (__m256i& lane : sum) asm volatile("" : "+x"(lane));
}

LCK_TARGET("avx512f") void read_block_avx512(const char* src) {
  __m512i sum[4] = {};
  for (std::size_t i = 0; i < kBlock; i += sizeof(sum)) {
    for (int k = 0; k < 4; ++k) sum[k] ^= _mm512_load_si512(reinterpret_cast<const __m512i*>(src + i) + k);
  }
  for (__m512i& lane : sum) asm volatile("" : "+v"(lane));
}

void stream_block_sse2(char* dst, const char* src) {
  for (std::size_t i = 0; i < kBlock; i += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(dst + i),
                     _mm_load_si128(reinterpret_cast<const __m128i*>(src + i)));
  }
}

LCK_TARGET("avx512f") void stream_block_avx512(char* dst, const char* src) {
  for (std::size_t i = 0; i < kBlock; i += 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(dst + i), _mm512_load_si512(src + i));
  }
}
#endif

ReadBlock read_block() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_block_avx512;
  if (__builtin_cpu_supports("avx2")) return read_block_avx2;
#endif
  return read_block_portable;
}

// Null without supported streaming stores in the processor.
CopyBlock stream_block() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") ? stream_block_avx512 : stream_block_sse2;
#else
  return nullptr;
#endif
}

// Anonymous pages, unmapped at the end.
class Mapping {
 public:
  explicit Mapping(std::size_t bytes) : bytes_(bytes) {
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<char*>(at);
  }
  ~Mapping() { munmap(data_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* data() const { return data_; }
  void fill() { std::memset(data_, 1, bytes_); }
  void give_pages_back() const { madvise(data_, bytes_, MADV_DONTNEED); }
  void ask_for_huge_pages() { madvise(data_, bytes_, MADV_HUGEPAGE); }

 private:
  char* data_;
  std::size_t bytes_;
};

// Blocks per thread; every thread gets the same number.
std::size_t blocks_per_thread(const char* name, std::size_t bytes, int threads) {
  const std::size_t blocks = bytes / kBlock / threads;
  if (blocks == 0) {
    throw std::invalid_argument(std::string(name) + " must be at least " + std::to_string(kBlock) +
                                " per thread, got " + std::to_string(bytes) + " for " +
                                std::to_string(threads) + " threads");
  }
  return blocks;
}

// Writes dst_blocks blocks front to back from the proportional place in src, reading each source block.
void transfer(char* dst, std::size_t dst_blocks, const char* src, std::size_t src_blocks, CopyBlock copy,
              ReadBlock read) {
  for (std::size_t i = 0; i < dst_blocks; ++i) {
    const std::size_t first = i * src_blocks / dst_blocks;
    const std::size_t last = (i + 1) * src_blocks / dst_blocks;
    copy(dst + i * kBlock, src + first * kBlock);
    for (std::size_t skipped = first + 1; skipped < last; ++skipped) read(src + skipped * kBlock);
  }
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Repetitions over `bytes` per pass, so that a pass lasts milliseconds.
long repeats_per_pass(std::size_t bytes) {
  constexpr std::size_t kMinBytes = 64 << 20;
  return std::max<long>(1, static_cast<long>(kMinBytes / bytes));
}

}  // namespace

Rate read_bandwidth(std::size_t bytes, int threads, double seconds) {
  check_threads(threads);
  const std::size_t blocks = blocks_per_thread("bytes", bytes, threads);
  const long repeats = repeats_per_pass(blocks * kBlock * threads);
  const ReadBlock read = read_block();
  Mapping source(blocks * kBlock * threads);
  source.fill();
  // A thread's slice in as many parts, read in turns block by block. Each block is a page, where prefetchers
  // stop: with 4 KiB pages four parts were read at 62 GB/s and one at 46 (2 threads of an AMD EPYC, family 25
  // model 17).
  const auto rate_of = [&](std::size_t streams) {
    const std::size_t part = blocks / streams;
    const auto work = [&, streams, part](int thread) {
      const char* const slice = source.data() + thread * blocks * kBlock;
      for (long repeat = 0; repeat < repeats; ++repeat) {
        for (std::size_t i = 0; i < part; ++i) {
          for (std::size_t k = 0; k < streams; ++k) read(slice + (k * part + i) * kBlock);
        }
      }
    };
    const double amount = static_cast<double>(repeats) * part * streams * kBlock * threads;
    Rate rate = repeat_passes(seconds / 2, amount, [&] { return time_pass(threads, work); });
    rate.method = streams == 1 ? "loads" : "loads, " + std::to_string(streams) + " streams";
    return rate;
  };
  Rate rate = rate_of(1);
  if (blocks >= kStreams) {
    const Rate interleaved = rate_of(kStreams);
    if (interleaved.median > rate.median) rate = interleaved;
  }
  return rate;
}

struct CopyProbe::Buffers {
  Buffers(std::size_t src_blocks, std::size_t dst_blocks, Pages pages, int threads)
      : src_blocks(src_blocks),
        dst_blocks(dst_blocks),
        pages(pages),
        threads(threads),
        source(src_blocks * kBlock * threads),
        target(dst_blocks * kBlock * threads) {
    source.fill();
    if (pages == Pages::kFreshHuge) target.ask_for_huge_pages();
    if (pages == Pages::kWarm) target.fill();
  }

  const std::size_t src_blocks, dst_blocks;  // per thread
  const Pages pages;
  const int threads;
  Mapping source, target;
};

CopyProbe::CopyProbe(std::size_t read_bytes, std::size_t write_bytes, Pages pages, int threads) {
  check_threads(threads);
  const std::size_t src_blocks = blocks_per_thread("read_bytes", read_bytes, threads);
  const std::size_t dst_blocks = blocks_per_thread("write_bytes", write_bytes, threads);
  buffers_ = std::make_unique<Buffers>(src_blocks, dst_blocks, pages, threads);
}

CopyProbe::~CopyProbe() = default;

std::size_t CopyProbe::bytes() const {
  return (buffers_->src_blocks + buffers_->dst_blocks) * kBlock * buffers_->threads;
}

double CopyProbe::pass(Stores stores) {
  const Buffers& b = *buffers_;
  const CopyBlock streaming = stream_block();
  const CopyBlock copy = stores == Stores::kStreaming && streaming != nullptr ? streaming : copy_block;
  const ReadBlock read = read_block();
  const double seconds = time_pass(b.threads, [&](int thread) {
    transfer(b.target.data() + thread * b.dst_blocks * kBlock, b.dst_blocks,
             b.source.data() + thread * b.src_blocks * kBlock, b.src_blocks, copy, read);
  });
  // Freed now, as an op's output is, and not before the next pass, which would get the same pages again.
  if (b.pages != Pages::kWarm) b.target.give_pages_back();
  return seconds;
}

Rate copy_bandwidth(std::size_t read_bytes, std::size_t write_bytes, Pages pages, int threads,
                    double seconds) {
  CopyProbe probe(read_bytes, write_bytes, pages, threads);
  const long repeats = pages == Pages::kWarm ? repeats_per_pass(probe.bytes()) : 1;
  const auto rate_of = [&](Stores stores, const char* method) {
    const auto pass = [&] {
      double total = 0;
      for (long repeat = 0; repeat < repeats; ++repeat) total += probe.pass(stores);
      return total;
    };
    Rate rate = repeat_passes(seconds / 2, static_cast<double>(repeats) * probe.bytes(), pass);
    rate.method = method;
    return rate;
  };
  const Rate ordinary = rate_of(Stores::kOrdinary, "ordinary stores");
  if (stream_block() == nullptr) return ordinary;
  const Rate streaming = rate_of(Stores::kStreaming, "streaming stores");
  return ordinary.median > streaming.median ? ordinary : streaming;
}

}  // namespace lck
