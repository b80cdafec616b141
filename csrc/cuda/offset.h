// Where a compact entry lies in the dense weight.
#pragma once

#include "../host_device.h"
#include "kernels.h"

namespace clm::cuda {

// Tells the compiler that an address from a table lies in the GPU's main memory, so that it need not find out at each access.
template <typename T>
CLM_HOST_DEVICE T* in_global(T* address) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(address));
#endif
  return address;
}

// In 32 bits where that is enough: a quarter of the instructions.
CLM_HOST_DEVICE void divide(int64_t a, int64_t b, int64_t& quotient, int64_t& rest) {
  if (((a | b) >> 32) == 0) {
    quotient = uint32_t(a) / uint32_t(b);
    rest = uint32_t(a) - uint32_t(quotient) * uint32_t(b);
  } else {
    quotient = a / b;
    rest = a - quotient * b;
  }
}

CLM_HOST_DEVICE int64_t unit(const Entries& e, int64_t i) {
  return e.wide ? in_global(static_cast<const int64_t*>(e.index))[i] : in_global(static_cast<const int32_t*>(e.index))[i];
}

// Number, in the dense weight, of compact entry `at`.
CLM_HOST_DEVICE int64_t dense_offset(const Entries& e, int64_t at) {
  int64_t outer, inner;
  switch (e.kind) {
    case kRows:
      divide(at, e.columns, outer, inner);
      return unit(e, outer) * e.columns + inner;
    case kColumns:
      divide(at, e.count, outer, inner);
      return outer * e.columns + unit(e, inner);
    case kBlocks: {
      int64_t row, column, grid_row, grid_column;
      divide(at, e.block_rows * e.block_columns, outer, inner);
      divide(inner, e.block_columns, row, column);
      divide(unit(e, outer), e.columns / e.block_columns, grid_row, grid_column);
      return (grid_row * e.block_rows + row) * e.columns + grid_column * e.block_columns + column;
    }
    case kElements: return unit(e, at);
    default: return at;
  }
}

}  // namespace clm::cuda
