// Compiled once per instruction set (versions.h).

template <typename W, typename T>
void transpose_square(const T* const* rows, int64_t column, W* to, int64_t chunk) {
  constexpr int lanes = VectorOf<W>::lanes;
  Vector<W> v[lanes];
  CLM_UNROLL(16)
  for (int t = 0; t < lanes; ++t) {
    W row[lanes];
    for (int c = 0; c < lanes; ++c) row[c] = W(to_float(rows[t][column + c]));
    v[t] = load(row);
  }
  transpose<W>(v);
  CLM_UNROLL(16)
  for (int c = 0; c < lanes; ++c) store(to + c * chunk, v[c]);
}

// Columns [begin, end) of the operand over one chunk of tokens.
template <typename W, typename T>
void transpose_columns(const SampledProduct<W>& p, const Transposed<W>& side, const T* data, int64_t chunk, int64_t begin, int64_t end) {
  constexpr int lanes = VectorOf<W>::lanes;
  const int64_t first = p.first + chunk * p.chunk;
  const int64_t tokens = p.tokens - first < p.chunk ? p.tokens - first : p.chunk;
  W* to = side.at(chunk, 0, p.chunk);
  const int64_t squares = side.used.empty() ? (end - begin) / lanes * lanes : 0;
  int64_t t = 0;
  for (; t + lanes <= tokens; t += lanes) {
    const T* rows[lanes];
    for (int i = 0; i < lanes; ++i) rows[i] = data + side.operand.offset(first + t + i);
    for (int64_t c = begin; c < begin + squares; c += lanes) transpose_square(rows, c, to + c * p.chunk + t, p.chunk);
    for (int64_t c = begin + squares; c < end; ++c) {
      const int64_t column = side.used.empty() ? c : side.used[c];
      for (int i = 0; i < lanes; ++i) to[c * p.chunk + t + i] = W(to_float(rows[i][column]));
    }
  }
  if (t == p.chunk) return;
  for (int64_t c = begin; c < end; ++c) {
    const int64_t column = side.used.empty() ? c : side.used[c];
    for (int64_t i = t; i < p.chunk; ++i) {
      to[c * p.chunk + i] = i < tokens ? W(to_float(data[side.operand.offset(first + i) + column])) : W(0);
    }
  }
}

template <typename W>
void transpose_part(const SampledProduct<W>& p, const Transposed<W>& side, int64_t chunk, int64_t begin, int64_t end) {
  switch (side.operand.dtype) {
    case Dtype::float32: return transpose_columns(p, side, static_cast<const float*>(side.operand.data), chunk, begin, end);
    case Dtype::float64: return transpose_columns(p, side, static_cast<const double*>(side.operand.data), chunk, begin, end);
    case Dtype::bfloat16: return transpose_columns(p, side, static_cast<const Bfloat16*>(side.operand.data), chunk, begin, end);
    case Dtype::float16: return transpose_columns(p, side, static_cast<const Float16*>(side.operand.data), chunk, begin, end);
  }
}

// products[i] += lanewise products of one row of dy with `count` columns of x.
template <int count, typename W>
CLM_INLINE void multiply_columns(const W* dy, const W* x, const int32_t* columns, int64_t chunk, Vector<W>* products) {
  constexpr int lanes = VectorOf<W>::lanes;
  const W* from[count];
  Vector<W> sum[count] = {};
  CLM_UNROLL(16)
  for (int i = 0; i < count; ++i) from[i] = x + int64_t(columns[i]) * chunk;
  for (int64_t t = 0; t < chunk; t += lanes) {
    const Vector<W> v = load(dy + t);
    CLM_UNROLL(16)
    for (int i = 0; i < count; ++i) sum[i] += v * load(from[i] + t);
  }
  CLM_UNROLL(16)
  for (int i = 0; i < count; ++i) products[i] = sum[i];
}

// Adds the panel's part to the sums of entries [begin, end); begin is a multiple of 16, so that groups of entries, and
// with them every bit, are the same however entries are shared out among threads.
template <typename W>
void sum_entries(const SampledProduct<W>& p, int64_t begin, int64_t end) {
  constexpr int lanes = VectorOf<W>::lanes;
  int64_t first_row = 0;
  for (int64_t low = 0, high = int64_t(p.row_ends.size()); low < high;) {
    const int64_t middle = (low + high) / 2;
    p.row_ends[middle] <= begin ? low = middle + 1 : high = middle;
    first_row = low;
  }
  const int32_t* columns = p.columns.data();
  for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
    const W* x = p.x.at(chunk, 0, p.chunk);
    int64_t row = first_row;
    for (int64_t group = begin; group < end; group += lanes) {
      const int64_t group_end = group + lanes < end ? group + lanes : end;
      Vector<W> products[lanes];
      for (int i = int(group_end - group); i < lanes; ++i) products[i] = Vector<W>{};
      for (int64_t e = group; e < group_end;) {
        while (p.row_ends[row] <= e) ++row;
        const W* dy = p.dy.at(chunk, row, p.chunk);
        const int64_t run = (p.row_ends[row] < group_end ? p.row_ends[row] : group_end) - e;
        if (run == lanes) {
          multiply_columns<lanes>(dy, x, columns + e, p.chunk, products);
          e += lanes;
        } else if (run >= 4) {
          multiply_columns<4>(dy, x, columns + e, p.chunk, products + (e - group));
          e += 4;
        } else if (run >= 2) {
          multiply_columns<2>(dy, x, columns + e, p.chunk, products + (e - group));
          e += 2;
        } else {
          multiply_columns<1>(dy, x, columns + e, p.chunk, products + (e - group));
          e += 1;
        }
      }
      const Vector<W> total = sums<W>(products);
      W* at = p.sums + group;  // padded to whole groups
      store(at, load(at) + total);
    }
  }
}
