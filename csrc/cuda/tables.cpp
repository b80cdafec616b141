// What the host works out once about parameters, before their addresses go to the device.

#include <algorithm>

#include "kernels.h"

namespace clm::cuda {
namespace {

constexpr int64_t kChunk = 1024;  // entries: 4 for each of 256 threads; small, so that a small selection still fills a GPU

}  // namespace

bool runs_of(const Entries& e, int64_t n) {
  switch (e.kind) {
    case kRows: return e.columns % n == 0;
    case kBlocks: return e.block_columns % n == 0;
    case kDense: return true;
    default: return n == 1;
  }
}

std::vector<Chunk> chunks_of(const std::vector<int64_t>& counts) {
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < counts.size(); ++i) {
    for (int64_t first = 0; first < counts[i]; first += kChunk) {
      chunks.push_back({first, int32_t(i), int32_t(std::min(kChunk, counts[i] - first))});
    }
  }
  return chunks;
}

void AdamWParameter::classify(bool amsgrad) {
  const auto is_float = [](const Array& a) { return a.dtype == Dtype::float32; };
  typed = value.dtype != Dtype::float64 && is_float(exp_avg) && is_float(exp_avg_sq) && (!amsgrad || is_float(max_exp_avg_sq)) &&
          (is_float(value) || (master.data && is_float(master))) &&
          (!anchor.data || anchor.dtype == value.dtype);
  vector = typed && runs_of(entries, kVectorBytes / item_size(Dtype::float32)) && is_aligned(dense);
  for (const Array* a : {&value, &exp_avg, &exp_avg_sq, &max_exp_avg_sq, &master, &anchor}) {
    vector = vector && is_aligned(a->data);
  }
}

}  // namespace clm::cuda
