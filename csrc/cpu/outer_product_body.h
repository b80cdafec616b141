// Compiled once per instruction set (versions.h).

constexpr int kTileVectors = 3;  // a tile is CLM_TILE_ROWS x 3 vectors of sums: all in registers, with room for operands

// Height of the next tile when `left` columns of a group are left.
inline int tile_rows(int64_t left) { return left < CLM_TILE_ROWS ? int(left) : CLM_TILE_ROWS; }

template <typename W, typename T>
void pack_group(const Operand& small, const T* from, int64_t token, int64_t tokens, const int64_t* positions, int64_t size, W* to) {
  for (int64_t done = 0; done < size;) {
    const int rows = tile_rows(size - done);
    for (int64_t t = token; t < token + tokens; ++t, to += rows) {
      const T* row = from + small.offset(t);
      for (int r = 0; r < rows; ++r) to[r] = W(to_float(row[positions[done + r]]));
    }
    done += rows;
  }
}

// Packs one group of the columns of `small` over one block of tokens.
template <typename W>
void pack_small(const OuterProduct<W>& p, int64_t token, int64_t group) {
  const int64_t tokens = p.tokens - token < kTokenBlock ? p.tokens - token : kTokenBlock;
  const int64_t first = p.groups[group], size = p.groups[group + 1] - first;
  const int64_t* positions = p.positions.data() + first;
  W* to = p.packed + token * p.size() + tokens * first;
  const Operand& small = p.small;
  switch (small.dtype) {
    case Dtype::float32: return pack_group(small, static_cast<const float*>(small.data), token, tokens, positions, size, to);
    case Dtype::float64: return pack_group(small, static_cast<const double*>(small.data), token, tokens, positions, size, to);
    case Dtype::bfloat16: return pack_group(small, static_cast<const Bfloat16*>(small.data), token, tokens, positions, size, to);
    case Dtype::float16: return pack_group(small, static_cast<const Float16*>(small.data), token, tokens, positions, size, to);
  }
}

// Width of the tile that begins where `left` columns of a padded panel are left: 3 vectors, then single ones.
template <typename W>
CLM_INLINE int64_t tile_columns(int64_t left) {
  constexpr int64_t lanes = VectorOf<W>::lanes;
  return left >= kTileVectors * lanes ? kTileVectors * lanes : lanes;
}

template <int64_t size, typename W>
CLM_INLINE void prefetch_row(const W* row) {
#if defined(__GNUC__)
  for (int64_t j = 0; j < size; j += 64 / int64_t(sizeof(W))) __builtin_prefetch(row + j, 0, 2);
#endif
}

// Packs a panel of `large` over one block of tokens: per tile of columns, [token][column], converted, zeros at the end.
// `direct` is the panel's columns where they lie, or null if it needs conversion or padding.
template <typename W>
void pack_panel(const OuterProduct<W>& p, const Task& task, int64_t token, int64_t tokens, int64_t padded, const W* direct, W* to) {
  constexpr int64_t lanes = VectorOf<W>::lanes;
  W staged[kPanel + lanes];
  for (int64_t j = task.width; j < padded; ++j) staged[j] = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const W* from = direct ? direct + p.large.offset(token + t) : staged;
    W* end = staged;
    for (int64_t s = task.segment; !direct && s < task.segment + task.segments; ++s) {
      widen(p.large.dtype, p.large.data, p.large.offset(token + t) + p.segments[s].column, p.segments[s].width, end);
      end += p.segments[s].width;
    }
    for (int64_t done = 0; done < padded;) {
      const int64_t columns = tile_columns<W>(padded - done);
      W* tile = to + done * tokens + t * columns;
      for (int64_t j = 0; j < columns; j += lanes) store(tile + j, load(from + done + j));
      done += columns;
    }
  }
}

// sums (rows x vectors) = or += small (tokens, rows).T @ large (tokens, vectors). Meanwhile asks for `next`, a tile as it
// lies in memory, since the processor does not foresee where the next row of a panel begins.
template <int rows, int vectors, typename W>
void multiply_tile(const W* small, const W* large, int64_t large_stride, int64_t tokens, const W* next,
                   int64_t next_stride, W* sums, int64_t stride, bool first) {
  constexpr int lanes = VectorOf<W>::lanes;
  Vector<W> sum[rows][vectors] = {};
  for (int64_t t = 0; t < tokens; ++t, small += rows, large += large_stride) {
    if (next) prefetch_row<vectors * lanes>(next + t * next_stride);
    Vector<W> v[vectors];
    CLM_UNROLL(4)
    for (int j = 0; j < vectors; ++j) v[j] = load(large + j * lanes);
    CLM_UNROLL(8)
    for (int i = 0; i < rows; ++i) {
      CLM_UNROLL(4)
      for (int j = 0; j < vectors; ++j) sum[i][j] += small[i] * v[j];
    }
  }
  CLM_UNROLL(8)
  for (int i = 0; i < rows; ++i) {
    CLM_UNROLL(4)
    for (int j = 0; j < vectors; ++j) {
      W* at = sums + i * stride + j * lanes;
      store(at, first ? sum[i][j] : load(at) + sum[i][j]);
    }
  }
}

template <int vectors, typename W>
void multiply_tile(int rows, const W* small, const W* large, int64_t large_stride, int64_t tokens, const W* next,
                   int64_t next_stride, W* sums, int64_t stride, bool first) {
  switch (rows) {
#if CLM_TILE_ROWS == 8
    case 8: return multiply_tile<8, vectors>(small, large, large_stride, tokens, next, next_stride, sums, stride, first);
    case 7: return multiply_tile<7, vectors>(small, large, large_stride, tokens, next, next_stride, sums, stride, first);
    case 6: return multiply_tile<6, vectors>(small, large, large_stride, tokens, next, next_stride, sums, stride, first);
    case 5: return multiply_tile<5, vectors>(small, large, large_stride, tokens, next, next_stride, sums, stride, first);
#endif
    case 4: return multiply_tile<4, vectors>(small, large, large_stride, tokens, next, next_stride, sums, stride, first);
    case 3: return multiply_tile<3, vectors>(small, large, large_stride, tokens, next, next_stride, sums, stride, first);
    case 2: return multiply_tile<2, vectors>(small, large, large_stride, tokens, next, next_stride, sums, stride, first);
    default: return multiply_tile<1, vectors>(small, large, large_stride, tokens, next, next_stride, sums, stride, first);
  }
}

template <typename W>
void write_task(const OuterProduct<W>& p, const Task& task, const W* sums, int64_t stride) {
  for (int64_t s = task.segment; s < task.segment + task.segments; ++s) {
    const Segment& segment = p.segments[s];
    if (p.column_stride == 1) {
      for (int64_t i = 0; i < task.size; ++i) {
        const int64_t row = p.out_rows ? p.out_rows[task.first + i] : i;
        narrow(p.out.dtype, sums + i * stride, segment.width, p.out.data, segment.start + row * p.row_stride);
      }
    } else {  // transposed: row_stride is 1
      W column[kGroup];
      for (int64_t j = 0; j < segment.width; ++j) {
        for (int64_t i = 0; i < task.size; ++i) column[i] = sums[i * stride + j];
        narrow(p.out.dtype, column, task.size, p.out.data, segment.start + j * p.column_stride);
      }
    }
    sums += segment.width;
  }
}

template <typename W>
void run_task(const OuterProduct<W>& p, const Task& task, W* scratch) {
  constexpr int64_t lanes = VectorOf<W>::lanes;
  constexpr Dtype same = sizeof(W) == 8 ? Dtype::float64 : Dtype::float32;
  const int64_t padded = (task.width + lanes - 1) / lanes * lanes;
  W* panel = scratch;                        // kTokenBlock x padded
  W* sums = scratch + kTokenBlock * padded;  // task.size x padded
  for (int64_t token = 0; token < p.tokens; token += kTokenBlock) {
    const int64_t tokens = p.tokens - token < kTokenBlock ? p.tokens - token : kTokenBlock;
    const W* direct = nullptr;
    if (p.large.dtype == same && task.segments == 1 && padded == task.width) {
      direct = static_cast<const W*>(p.large.data) + p.segments[task.segment].column;
    }
    const bool single = task.size <= CLM_TILE_ROWS && !p.large.rows;  // what a single tile reads once is not worth packing
    const bool packed = !direct || !single;
    if (packed) pack_panel(p, task, token, tokens, padded, direct, panel);
    const W* small = p.packed + token * p.size() + tokens * task.first;
    for (int64_t j = 0; j < padded;) {
      const int64_t columns = tile_columns<W>(padded - j);
      const W* large = packed ? panel + j * tokens : direct + p.large.offset(token) + j;
      const int64_t stride = packed ? columns : p.large.stride;
      for (int64_t i = 0; i < task.size;) {
        const int rows = tile_rows(task.size - i);
        const auto multiply = columns == lanes ? &multiply_tile<1, W> : &multiply_tile<kTileVectors, W>;
        const bool ahead = direct && !p.large.rows && i == 0 && token + 2 * tokens <= p.tokens;
        const W* next = ahead ? direct + p.large.offset(token + tokens) + j : nullptr;
        multiply(rows, small + i * tokens, large, stride, tokens, next, p.large.stride, sums + i * padded + j, padded, token == 0);
        i += rows;
      }
      j += columns;
    }
  }
  write_task(p, task, sums, padded);
}
