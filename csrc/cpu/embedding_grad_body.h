// Compiled once per instruction set (versions.h).

template <typename W>
void add_rows(const EmbeddingGrad& p, int64_t row, int64_t column) {
  const int64_t width = p.columns - column < kEmbeddingPanel ? p.columns - column : kEmbeddingPanel;
  W sum[kEmbeddingPanel] = {}, part[kEmbeddingPanel];
  for (int64_t i = row ? p.ends[row - 1] : 0; i < p.ends[row]; ++i) {
    widen(p.dy.dtype, p.dy.data, p.tokens[i] * p.dy.stride + column, width, part);
    for (int64_t j = 0; j < width; ++j) sum[j] += part[j];
  }
  narrow(p.out.dtype, sum, width, p.out.data, row * p.columns + column);
}
