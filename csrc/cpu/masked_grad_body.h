// Compiled once per instruction set (versions.h).

// grad[at, at + n) += scale * raw; returns whether all that was added is finite.
template <typename W>
bool add_block(const Array& grad, Dtype raw_dtype, const void* raw, double scale, int64_t at, int64_t n) {
  W added[kBlock], sum[kBlock];
  widen(raw_dtype, raw, 0, n, added);
  widen(grad.dtype, grad.data, at, n, sum);
  const W factor = W(scale);
  int bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    added[i] *= factor;
    bad |= !(added[i] - added[i] == W(0));
  }
  for (int64_t i = 0; i < n; ++i) sum[i] += added[i];
  narrow(grad.dtype, sum, n, grad.data, at);
  return !bad;
}
