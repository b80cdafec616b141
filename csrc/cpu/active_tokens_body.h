// Compiled once per instruction set (versions.h).

// Sums are kept in as many parts as the widest vectors have lanes, and added in one order: the same bits whatever the vectors.
template <typename T>
double squared_norm(const T* CLM_RESTRICT row, int64_t columns) {
  double parts[kParts] = {};
  int64_t j = 0;
  for (; j + kParts <= columns; j += kParts) {
    for (int i = 0; i < kParts; ++i) {
      const double value = to_float(row[j + i]);
      parts[i] += value * value;
    }
  }
  for (int i = 0; j < columns; ++i, ++j) {
    const double value = to_float(row[j]);
    parts[i] += value * value;
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
