// What the kernels of C++ and of CUDA alike are called with.
#pragma once

#include <cstdint>

#include "fields.h"

namespace clm {

inline int64_t item_size(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

struct Array {
  void* data;  // null where there is none
  Dtype dtype;
};

// Which entries of a (rows, columns) weight are selected.
struct Entries {
  int64_t rows, columns;              // of the dense weight
  int64_t block_rows, block_columns;  // of one block
  const void* index;                  // sorted, unique
  int64_t count;                      // length of the index
  int64_t size;                       // of the compact tensor
  Kind kind;
  bool wide;  // int64 index, else int32

  int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(index)[i] : static_cast<const int32_t*>(index)[i];
  }
};

}  // namespace clm
