// The arithmetic of the CUDA kernel of adamw_step_, run by the CPU one thread after the other; see test_cuda_build.py.

#include "../../csrc/cuda/adamw.cu"

using namespace clm;
using namespace clm::cuda;

// Returns how often a thread block turned to another parameter.
extern "C" int64_t adamw_step_on_host(char* table, int64_t chunk_count, int64_t blocks, Array* grads, Settings* settings,
                                      void* grad_scale, void* clip, bool amsgrad, bool maximize) {
  const Chunk* chunks = reinterpret_cast<Chunk*>(table);
  const AdamWStep step{chunks, reinterpret_cast<AdamWParameter*>(table + chunk_count * sizeof(Chunk)), grads, settings,
                       {grad_scale, Dtype::float32}, {}, {clip, Dtype::float32}, chunk_count, amsgrad, maximize};
  int64_t turns = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    Held held;
    for_chunks_of_block(
        step, block, blocks,
        [&](int32_t parameter) {
          hold(step, parameter, held);
          ++turns;
        },
        [&](const Chunk& chunk) {
          for (int thread = 0; thread < kThreads; ++thread) update(step, held, chunk, thread);
        });
  }
  return turns;
}
