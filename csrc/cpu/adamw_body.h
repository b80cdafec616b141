// Compiled once per instruction set (versions.h).

// kBlock entries of W: the array itself where it holds W and a whole block is left, else a converted copy, zeros after n.
template <typename W>
W* block_in(const Array& array, int64_t at, int64_t n, W* copy) {
  if (array.dtype == (sizeof(W) == 8 ? Dtype::float64 : Dtype::float32) && n == kBlock) return static_cast<W*>(array.data) + at;
  widen(array.dtype, array.data, at, n, copy);
  for (int64_t i = n; i < kBlock; ++i) copy[i] = 0;
  return copy;
}

template <typename W>
void block_out(const Array& array, int64_t at, int64_t n, const W* block, const W* copy) {
  if (block == copy) narrow(array.dtype, copy, n, array.data, at);
}

template <bool amsgrad, bool anchored, typename W>
void update_block(const AdamWScalars<W>& s, W* CLM_RESTRICT weight, const W* CLM_RESTRICT grad, const W* CLM_RESTRICT anchor,
                  W* CLM_RESTRICT exp_avg, W* CLM_RESTRICT exp_avg_sq, W* CLM_RESTRICT max_exp_avg_sq) {
  for (int64_t i = 0; i < kBlock; ++i) {
    W maximum = amsgrad ? max_exp_avg_sq[i] : W(0);
    weight[i] = adamw_update<amsgrad>(s, weight[i], grad[i], anchored ? anchor[i] : W(0), exp_avg[i], exp_avg_sq[i], maximum);
    if (amsgrad) max_exp_avg_sq[i] = maximum;
  }
}

template <typename T, typename C>
void divide(T* array, int64_t n, C scale) {
  for (int64_t i = 0; i < n; ++i) from_float(C(to_float(array[i])) / scale, array[i]);
}

inline void divide(const Array& array, int64_t at, int64_t n, double scale) {
  switch (array.dtype) {
    case Dtype::float32: return divide(static_cast<float*>(array.data) + at, n, float(scale));
    case Dtype::float64: return divide(static_cast<double*>(array.data) + at, n, scale);
    case Dtype::bfloat16: return divide(static_cast<Bfloat16*>(array.data) + at, n, float(scale));
    case Dtype::float16: return divide(static_cast<Float16*>(array.data) + at, n, float(scale));
  }
}

template <typename W>
void update_chunk(const Step& step, const AdamWOptions& options, int64_t begin, int64_t end) {
  const AdamWParameter& p = step.parameter;
  const Array& held = p.master.data ? p.master : p.value;
  const bool sparse = p.entries.kind != kDense, anchored = p.anchor.data != nullptr;
  const int64_t size = item_size(p.value.dtype);
  const AdamWScalars<W> s = step.scalars.template as<W>();
  W copies[6][kBlock];
  const auto stop = [end](int64_t at) { return at < end ? at : end; };

  if (sparse) prefetch_entries(p.dense, p.entries, size, begin, stop(begin + kBlock));
  for (int64_t at = begin; at < end; at += kBlock) {
    if (sparse) prefetch_entries(p.dense, p.entries, size, stop(at + kBlock), stop(at + 2 * kBlock));
    const int64_t n = stop(at + kBlock) - at;
    if (options.unscale) divide(p.grad, at, n, options.grad_scale);
    W* weight = block_in(held, at, n, copies[0]);
    const W* grad = block_in(p.grad, at, n, copies[1]);
    W* exp_avg = block_in(p.exp_avg, at, n, copies[2]);
    W* exp_avg_sq = block_in(p.exp_avg_sq, at, n, copies[3]);
    const W* anchor = anchored ? block_in(p.anchor, at, n, copies[4]) : nullptr;
    W* maximum = options.amsgrad ? block_in(p.max_exp_avg_sq, at, n, copies[5]) : nullptr;
    const auto update = options.amsgrad ? (anchored ? &update_block<true, true, W> : &update_block<true, false, W>)
                                        : (anchored ? &update_block<false, true, W> : &update_block<false, false, W>);
    update(s, weight, grad, anchor, exp_avg, exp_avg_sq, maximum);
    block_out(held, at, n, weight, copies[0]);
    block_out(p.exp_avg, at, n, exp_avg, copies[2]);
    block_out(p.exp_avg_sq, at, n, exp_avg_sq, copies[3]);
    if (options.amsgrad) block_out(p.max_exp_avg_sq, at, n, maximum, copies[5]);
    if (p.master.data) narrow(p.value.dtype, weight, n, p.value.data, at);
    if (sparse) write_entries(p.dense, p.entries, size, at, at + n, static_cast<const char*>(p.value.data) + at * size);
  }
}
