// Compiled once per instruction set (versions.h).

template <typename T>
CLM_INLINE void add_squares(const T* CLM_RESTRICT values, int64_t n, double* CLM_RESTRICT parts) {
  int64_t j = 0;
  for (; j + kParts <= n; j += kParts) {
    for (int i = 0; i < kParts; ++i) parts[i] += double(values[j + i]) * double(values[j + i]);
  }
  for (int i = 0; j < n; ++i, ++j) parts[i] += double(values[j]) * double(values[j]);
}

// Sums are kept in as many parts as the widest vectors have lanes, and added in one order: the same bits whatever the vectors.
template <typename T>
double squared_norm(const T* row, int64_t columns) {
  double parts[kParts] = {};
  if constexpr (sizeof(T) == 2) {  // by way of float: to double at once, compilers convert one by one, three times as slowly
    float staged[kStaged];
    for (int64_t done = 0; done < columns; done += kStaged) {
      const int64_t n = columns - done < kStaged ? columns - done : kStaged;
      convert_in(row + done, n, staged);
      add_squares(staged, n, parts);
    }
  } else {
    add_squares(row, columns, parts);
  }
  for (int half = kParts / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

template <typename T>
void squared_norms(const T* dy, int64_t stride, int64_t columns, int64_t begin, int64_t end, double* norms) {
  for (int64_t t = begin; t < end; ++t) norms[t] = squared_norm(dy + t * stride, columns);
}

// Of rows [begin, end).
inline void squared_norms_of(const Operand& dy, int64_t columns, int64_t begin, int64_t end, double* norms) {
  switch (dy.dtype) {
    case Dtype::float32: return squared_norms(static_cast<const float*>(dy.data), dy.stride, columns, begin, end, norms);
    case Dtype::float64: return squared_norms(static_cast<const double*>(dy.data), dy.stride, columns, begin, end, norms);
    case Dtype::bfloat16: return squared_norms(static_cast<const Bfloat16*>(dy.data), dy.stride, columns, begin, end, norms);
    case Dtype::float16: return squared_norms(static_cast<const Float16*>(dy.data), dy.stride, columns, begin, end, norms);
  }
}
