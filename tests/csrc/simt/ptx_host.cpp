#include "ptx_host.h"

#include "fiber.h"

namespace lck::ptx {

namespace {

struct Bytes16 {
  uint64_t words[2];
};

template <typename Bytes>
void store_bytes(uint32_t address, Bytes value) {
  char* p = simt::from_shared(address, sizeof(value), sizeof(value));
  simt::note_write(p, sizeof(value));
  std::memcpy(p, &value, sizeof(value));
}

// 16 bytes to shared memory; zeros where `from` is null.
void copy16(uint32_t to, const void* from) {
  Bytes16 value{};
  if (from) {
    simt::note_read(from, 16);
    std::memcpy(&value, from, 16);
  }
  store_bytes(to, value);
}

// A lane's arguments of ldmatrix: one row of 8 elements, and the destination of its results.
struct MatrixRow {
  uint32_t address;
  uint16_t elements[8];
  uint32_t* out;
};

// Eight rows are read at once: without conflicts if they are in eight different groups of four banks.
void count_conflicts(void** brought) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    unsigned groups = 0;
    for (int row = 0; row < 8; ++row) {
      groups |= 1u << (static_cast<MatrixRow*>(brought[8 * matrix + row])->address >> 4 & 7);
    }
    simt::bank_conflicts += 8 - __builtin_popcount(groups);
  }
}

template <bool kTransposed>
void distribute(void** brought, uint32_t) {
  count_conflicts(brought);
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint32_t word = 0;
      for (int half = 0; half < 2; ++half) {
        const int row = kTransposed ? 2 * (lane % 4) + half : lane / 4;
        const int column = kTransposed ? lane / 4 : 2 * (lane % 4) + half;
        const auto* from = static_cast<MatrixRow*>(brought[8 * matrix + row]);
        word |= static_cast<uint32_t>(from->elements[column]) << (16 * half);
      }
      static_cast<MatrixRow*>(brought[lane])->out[matrix] = word;
    }
  }
}

MatrixRow read_row(uint32_t address, uint32_t (&r)[4]) {
  MatrixRow row{address, {}, r};
  const char* p = simt::from_shared(address, 16, 16);
  simt::note_read(p, 16);
  std::memcpy(row.elements, p, 16);
  return row;
}

// A lane's arguments of a product.
struct Fragments {
  uint32_t a[4], b[2];
  float* d;
  Convert value;
};

// Source of the maps: PTX ISA, "Matrix Fragments for mma.m16n8k16".
void multiply(void** brought, uint32_t) {
  float a[16][16], b[16][8], d[16][8];
  const auto half = [](uint32_t word, int i) { return static_cast<uint16_t>(word >> (16 * i)); };
  for (int lane = 0; lane < 32; ++lane) {
    const auto& mine = *static_cast<Fragments*>(brought[lane]);
    const int group = lane / 4, pair = 2 * (lane % 4);
    for (int i = 0; i < 2; ++i) {
      for (int r = 0; r < 4; ++r) a[group + r % 2 * 8][pair + r / 2 * 8 + i] = mine.value(half(mine.a[r], i));
      for (int r = 0; r < 2; ++r) b[pair + r * 8 + i][group] = mine.value(half(mine.b[r], i));
      for (int r = 0; r < 2; ++r) d[group + r * 8][pair + i] = mine.d[2 * r + i];
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto& mine = *static_cast<Fragments*>(brought[lane]);
    for (int i = 0; i < 4; ++i) mine.d[i] = d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
  }
}

}  // namespace

void cp_async16(uint32_t to, const void* from, bool valid) {
  if (valid && reinterpret_cast<uintptr_t>(from) % 16)
    simt::fail("cp.async: %p is not 16-byte aligned", from);
  if (simt::completes_early()) return copy16(to, valid ? from : nullptr);
  store_bytes(to, Bytes16{{~uint64_t{0}, ~uint64_t{0}}});
  simt::add_copy(to, valid ? from : nullptr);
}

void cp_async_wait_for(unsigned groups_in_flight) {
  simt::AsyncCopy copy;
  while (simt::finished_copy(groups_in_flight, &copy)) copy16(copy.to, copy.from);
}

void store_shared(uint32_t address, uint32_t value) {
  store_bytes(address, value);
}

void store_shared(uint32_t address, float value) {
  store_bytes(address, value);
}

float load_shared_float(uint32_t address) {
  const char* p = simt::from_shared(address, 4, 4);
  simt::note_read(p, 4);
  float value;
  std::memcpy(&value, p, 4);
  return value;
}

void load_shared(uint32_t (&r)[4], uint32_t address) {
  const char* p = simt::from_shared(address, 16, 16);
  simt::note_read(p, 16);
  std::memcpy(r, p, 16);
}

void load_shared(uint32_t (&r)[2], uint32_t address) {
  const char* p = simt::from_shared(address, 8, 8);
  simt::note_read(p, 8);
  std::memcpy(r, p, 8);
}

void load_shared(float (&r)[4], uint32_t address) {
  uint32_t bits[4];
  load_shared(bits, address);
  std::memcpy(r, bits, 16);
}

void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  MatrixRow row = read_row(address, r);
  simt::warp_collective("ldmatrix", ~0u, &row, distribute<false>);
}

void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  MatrixRow row = read_row(address, r);
  simt::warp_collective("ldmatrix.trans", ~0u, &row, distribute<true>);
}

void mma_m16n8k16_of(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Convert value) {
  Fragments mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, d, value};
  simt::warp_collective("mma", ~0u, &mine, multiply);
}

float bfloat16_value(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

float half_value(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

uint32_t pack_bfloat16(float low, float high) {
  const uint32_t halves[] = {__bfloat16_as_ushort(__float2bfloat16_rn(low)),
                             __bfloat16_as_ushort(__float2bfloat16_rn(high))};
  return halves[0] | halves[1] << 16;
}

uint32_t pack_half(float low, float high) {
  const uint32_t halves[] = {__half_as_ushort(__float2half_rn(low)), __half_as_ushort(__float2half_rn(high))};
  return halves[0] | halves[1] << 16;
}

}  // namespace lck::ptx
