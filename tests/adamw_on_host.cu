// The arithmetic of the CUDA kernel of adamw_step_, run by the CPU one thread after the other; see test_cuda_build.py.

#include "../csrc/cuda/adamw.cu"

using namespace clm::cuda;

extern "C" void adamw_step_on_host(char* table, int64_t chunk_count, Array* grads, double* settings, void* grad_scale, void* clip,
                                   bool amsgrad, bool maximize) {
  const Chunk* chunks = reinterpret_cast<Chunk*>(table);
  const AdamWStep step{chunks, reinterpret_cast<AdamWParameter*>(table + chunk_count * sizeof(Chunk)), grads, settings,
                       {grad_scale, Dtype::float32}, {}, {clip, Dtype::float32}, chunk_count, amsgrad, maximize};
  for (int64_t c = 0; c < chunk_count; ++c) {
    Held held;
    hold(step, chunks[c].parameter, held);
    for (int thread = 0; thread < kThreads; ++thread) update(step, held, chunks[c], thread);
  }
}
