// AdamW over all parameters in one launch: each chunk of entries is updated and scattered by one thread block.

#include "../adamw.h"
#include "device.cuh"
#include "launch.cuh"

namespace clm::cuda {
namespace {

constexpr int kPack = 4;      // entries of one access: 16 bytes of moments and masters
constexpr int kResident = 3;  // blocks per multiprocessor: as many as registers allow without spills

// What a thread block holds in shared memory about the parameter it works on.
struct Held {
  AdamWParameter parameter;
  Array grad;
  AdamWScalars<double> wide;
  AdamWScalars<float> narrow;

  template <typename W>
  CLM_HOST_DEVICE const AdamWScalars<W>& scalars() const {
    if constexpr (std::is_same_v<W, double>) return wide;
    else return narrow;
  }
};

CLM_HOST_DEVICE void hold(const AdamWStep& step, int32_t i, Held& held) {
  held.parameter = step.parameters[i];
  held.grad = step.grads[i];
  held.wide = AdamWScalars<double>::of(step.settings[i], step.maximize);
  held.narrow = held.wide.as<float>();
}

// Makes the compiler read addresses from shared memory when they are used: kept in registers they halve the threads that fit.
CLM_HOST_DEVICE void forget_addresses() { asm volatile("" ::: "memory"); }

// Updates and scatters entries [at, at + N). V is the dtype of value, grad and anchor, M of moments and master.
template <typename W, typename V, typename M, int N>
CLM_HOST_DEVICE void update_pack(const AdamWStep& step, const Held& held, int64_t at) {
  const AdamWParameter& p = held.parameter;
  const Array& master = p.master.data ? p.master : p.value;
  const AdamWScalars<W>& s = held.scalars<W>();
  forget_addresses();
  W weight[N], grad[N], exp_avg[N], exp_avg_sq[N], anchor[N] = {}, maximum[N] = {};
  load<V>(held.grad, at, grad);
  load<M>(master, at, weight);
  load<M>(p.exp_avg, at, exp_avg);
  load<M>(p.exp_avg_sq, at, exp_avg_sq);
  if (p.anchor.data) load<V>(p.anchor, at, anchor);
  if (step.amsgrad) load<M>(p.max_exp_avg_sq, at, maximum);

  if (step.grad_scale.data) {
    const W scale = W(load_scalar(step.grad_scale));
#pragma unroll
    for (int i = 0; i < N; ++i) grad[i] /= scale;
    store<V>(held.grad, at, grad);
    load<V>(held.grad, at, grad);  // as rounded to its own dtype
  }
  if (step.clip.data) {
    const W factor = W(load_scalar(step.clip));
#pragma unroll
    for (int i = 0; i < N; ++i) grad[i] *= factor;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    weight[i] = step.amsgrad ? adamw_update<true>(s, weight[i], grad[i], anchor[i], exp_avg[i], exp_avg_sq[i], maximum[i])
                             : adamw_update<false>(s, weight[i], grad[i], anchor[i], exp_avg[i], exp_avg_sq[i], maximum[i]);
  }

  forget_addresses();
  store<M>(master, at, weight);
  store<M>(p.exp_avg, at, exp_avg);
  store<M>(p.exp_avg_sq, at, exp_avg_sq);
  if (step.amsgrad) store<M>(p.max_exp_avg_sq, at, maximum);
  if (p.master.data) store<V>(p.value, at, weight);
  if (p.entries.kind != kDense) store<V>({p.dense, p.value.dtype}, dense_offset(p.entries, at), weight);
}

template <typename W, typename V, typename M, int N>
CLM_HOST_DEVICE void update_chunk(const AdamWStep& step, const Held& held, const Chunk& chunk, int thread) {
  const int32_t packs = chunk.count / N;
  for (int32_t i = thread; i < packs; i += kThreads) update_pack<W, V, M, N>(step, held, chunk.first + int64_t(i) * N);
  if constexpr (N > 1) {
    for (int32_t i = packs * N + thread; i < chunk.count; i += kThreads) update_pack<W, V, M, 1>(step, held, chunk.first + i);
  }
}

template <typename V>
CLM_HOST_DEVICE void update_typed(const AdamWStep& step, const Held& held, const Chunk& chunk, int thread) {
  const bool vector = held.parameter.vector && reinterpret_cast<uintptr_t>(held.grad.data) % kVectorBytes == 0;
  if (vector) update_chunk<float, V, float, kPack>(step, held, chunk, thread);
  else update_chunk<float, V, float, 1>(step, held, chunk, thread);
}

CLM_HOST_DEVICE void update(const AdamWStep& step, const Held& held, const Chunk& chunk, int thread) {
  const Dtype dtype = held.parameter.value.dtype;
  if (held.parameter.typed && held.grad.dtype == dtype) {
    if (dtype == Dtype::float32) update_typed<float>(step, held, chunk, thread);
    else if (dtype == Dtype::bfloat16) update_typed<__nv_bfloat16>(step, held, chunk, thread);
    else update_typed<__half>(step, held, chunk, thread);
  } else if (dtype == Dtype::float64) {
    update_chunk<double, Any, Any, 1>(step, held, chunk, thread);
  } else {
    update_chunk<float, Any, Any, 1>(step, held, chunk, thread);
  }
}

// What thread block `block` of `blocks` does: a run of chunks, so that a parameter's scalars are worked out (two powers in
// double, between barriers) once for all of its chunks in the run, and not for each.
template <typename Turn, typename Visit>
CLM_HOST_DEVICE void for_chunks_of_block(const AdamWStep& step, int64_t block, int64_t blocks, const Turn& turn_to,
                                         const Visit& visit) {
  int32_t current = -1;
  const int64_t end = step.chunk_count * (block + 1) / blocks;
  for (int64_t c = step.chunk_count * block / blocks; c < end; ++c) {
    const Chunk chunk = step.chunks[c];
    if (chunk.parameter != current) turn_to(chunk.parameter);
    current = chunk.parameter;
    visit(chunk);
  }
}

__global__ void __launch_bounds__(kThreads, kResident) adamw_step_kernel(const __grid_constant__ AdamWStep step) {
  __shared__ Held held;
  if (step.found_inf.data && load_scalar(step.found_inf) != 0) return;
  for_chunks_of_block(
      step, blockIdx.x, gridDim.x,
      [&](int32_t parameter) {
        __syncthreads();
        if (threadIdx.x == 0) hold(step, parameter, held);
        __syncthreads();
      },
      [&](const Chunk& chunk) { update(step, held, chunk, threadIdx.x); });
}

}  // namespace

void adamw_step(const AdamWStep& step, void* stream) {
  constexpr const char* op = "adamw_step_";
  if (step.chunk_count == 0) return;
  adamw_step_kernel<<<grid_for(step.chunk_count, op, kResident), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(step);
  check(cudaGetLastError(), op);
}

}  // namespace clm::cuda
