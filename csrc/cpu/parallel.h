// One way to run in parallel: items are numbered, each writes its own output, and sums are never split. So the result
// has the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace clm {

// Each thread gets at least so much work, in nanoseconds of one core as the callers estimate them: a few times what
// starting a team of threads costs. So small work runs on one thread.
constexpr double kGrain = 16e3;

inline int threads_for(double nanoseconds, int threads) {
  return int(std::clamp(nanoseconds / kGrain, 1.0, double(std::max(1, threads))));
}

// body(begin, end) on each thread, for a contiguous share of the items.
template <typename Body>
void parallel_ranges(int64_t items, int threads, const Body& body) {
  threads = int(std::min<int64_t>(threads, items));
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
      const int64_t begin = items * thread / team, end = items * (thread + 1) / team;
      if (begin < end) body(begin, end);
    }
    return;
  }
#endif
  if (items > 0) body(int64_t(0), items);
}

// Aligned memory that lives as long as the object. Up to kKept bytes come from a buffer that the thread keeps, because
// fresh pages cost more than the work on them; one buffer per Slot, so that two uses on one thread do not collide.
enum class Slot { shared, own };

template <Slot slot>
class Scratch {
 public:
  static constexpr int64_t kKept = int64_t(32) << 20;

  explicit Scratch(int64_t bytes) {
    if (bytes > kKept) {
      owned_ = allocate(bytes);
      data_ = owned_.get();
      return;
    }
    thread_local Buffer kept;
    thread_local int64_t size = 0;
    if (bytes > size) {
      kept.reset();
      size = 0;
      kept = allocate(bytes);
      size = bytes;
    }
    data_ = kept.get();
  }

  template <typename T> T* as(int64_t offset = 0) const { return reinterpret_cast<T*>(data_ + offset); }

 private:
  struct Free { void operator()(char* p) const { ::operator delete(p, std::align_val_t(64)); } };
  using Buffer = std::unique_ptr<char, Free>;
  static Buffer allocate(int64_t bytes) { return Buffer(static_cast<char*>(::operator new(size_t(bytes), std::align_val_t(64)))); }

  Buffer owned_;
  char* data_ = nullptr;
};

}  // namespace clm
