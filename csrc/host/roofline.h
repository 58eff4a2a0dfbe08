// The machine's roofline on a given number of threads: FMA rate per dtype, read and copy bandwidth.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lck {

// FLOP/s or bytes/s over equal passes, each a few milliseconds or more.
struct Rate {
  double median = 0;
  double best = 0;
  int passes = 0;
  std::string method;  // the instruction, or the stores and pages, of the measurement
};

// The destination of a copy: memory written before, or memory mapped anew for each pass (as torch's large
// outputs are), the latter also with huge pages requested.
enum class Pages { kWarm, kFresh, kFreshHuge };

// The dtypes whose peak can be probed on this processor, of "fp32", "fp64", "bf16" and "bf16_amx".
std::vector<std::string> peak_dtypes();

// Independent fused multiply-adds in registers (2 FLOP each, bf16 products summed in fp32).
// Throws std::invalid_argument for a dtype that this processor cannot be probed for.
Rate peak_flops(std::string_view dtype, int threads, double seconds);

// Reads `bytes` repeatedly, each thread front to back or at four places in turns, the better of the two.
Rate read_bandwidth(std::size_t bytes, int threads, double seconds);

// Reads `read_bytes` and writes `write_bytes` per pass, front to back, and counts the sum; with equal
// numbers it is a copy. Returns the better of ordinary and streaming stores.
Rate copy_bandwidth(std::size_t read_bytes, std::size_t write_bytes, Pages pages, int threads,
                    double seconds);

enum class Stores { kOrdinary, kStreaming };

// Reads read_bytes and writes write_bytes per pass, front to back; with equal numbers it is a copy. The
// buffers are members, so that single passes can be timed between other work.
class CopyProbe {
 public:
  CopyProbe(std::size_t read_bytes, std::size_t write_bytes, Pages pages, int threads);
  ~CopyProbe();
  CopyProbe(const CopyProbe&) = delete;
  CopyProbe& operator=(const CopyProbe&) = delete;

  // Bytes read and written per pass: the requested ones, rounded down to whole pages per thread.
  std::size_t bytes() const;
  // Seconds of one pass. Without streaming stores in the processor, ordinary ones are used.
  double pass(Stores stores);

 private:
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
};

// Repeated passes of a CopyProbe; the better of ordinary and streaming stores.
Rate copy_bandwidth(std::size_t read_bytes, std::size_t write_bytes, Pages pages, int threads,
                    double seconds);

}  // namespace lck
