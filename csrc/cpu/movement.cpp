#include "movement.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"

namespace clm {
namespace {

constexpr int64_t kBlock = 256;  // entries; the cache lines of one block are asked for while the one before is written
constexpr int64_t kLine = 64;    // bytes of a cache line

// Calls run(offset in the dense weight, length) for neighbouring entries among the compact ones [begin, end).
template <typename Index, typename Run>
CLM_INLINE void for_each_run(const Entries& e, int64_t begin, int64_t end, const Run& run) {
  const Index* index = static_cast<const Index*>(e.index);
  if (begin >= end) return;
  switch (e.kind) {
    case kRows:
      for (int64_t row = begin / e.columns, column = begin % e.columns; begin < end; ++row, column = 0) {
        const int64_t length = std::min(e.columns - column, end - begin);
        run(int64_t(index[row]) * e.columns + column, length);
        begin += length;
      }
      return;
    case kColumns:
      for (int64_t row = begin / e.count, i = begin % e.count; begin < end; ++row, i = 0) {
        const int64_t stop = std::min(e.count, i + end - begin);
        begin += stop - i;
        for (; i < stop; ++i) run(row * e.columns + index[i], int64_t(1));
      }
      return;
    case kBlocks: {
      const int64_t grid = e.columns / e.block_columns, size = e.block_rows * e.block_columns;
      while (begin < end) {
        const int64_t block = index[begin / size], row = begin % size / e.block_columns, column = begin % e.block_columns;
        const int64_t length = std::min(e.block_columns - column, end - begin);
        run((block / grid * e.block_rows + row) * e.columns + block % grid * e.block_columns + column, length);
        begin += length;
      }
      return;
    }
    default:
      for (; begin < end; ++begin) run(int64_t(index[begin]), int64_t(1));
  }
}

template <typename Index, typename Item>
void read_typed(const Item* dense, const Entries& e, int64_t begin, int64_t end, Item* compact) {
  for_each_run<Index>(e, begin, end, [&](int64_t offset, int64_t length) {
    if (length == 1) *compact = dense[offset];
    else std::memcpy(compact, dense + offset, size_t(length) * sizeof(Item));
    compact += length;
  });
}

template <typename Index, typename Item>
void write_typed(Item* dense, const Entries& e, int64_t begin, int64_t end, const Item* compact) {
  for_each_run<Index>(e, begin, end, [&](int64_t offset, int64_t length) {
    if (length == 1) dense[offset] = *compact;
    else std::memcpy(dense + offset, compact, size_t(length) * sizeof(Item));
    compact += length;
  });
}

// function(Index{}, Item{}) with the C++ types of the index and of an item.
template <typename Function>
void with_types(bool wide, int64_t item_size, const Function& function) {
  const auto with_index = [&](auto index) {
    if (item_size == 2) function(index, uint16_t{});
    else if (item_size == 4) function(index, uint32_t{});
    else function(index, uint64_t{});
  };
  wide ? with_index(int64_t{}) : with_index(int32_t{});
}

// body(begin, end, stop) for blocks of entries [begin, end), each followed by the thread's next block [end, stop).
template <typename Body>
void parallel_blocks(int64_t entries, int threads, const Body& body) {
  parallel_ranges(entries, threads_for(double(entries), threads), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += kBlock) body(at, std::min(end, at + kBlock), std::min(end, at + 2 * kBlock));
  });
}

}  // namespace

void read_entries(const void* dense, const Entries& e, int64_t item_size, int64_t begin, int64_t end, void* compact) {
  with_types(e.wide, item_size, [&](auto index, auto item) {
    read_typed<decltype(index)>(static_cast<const decltype(item)*>(dense), e, begin, end, static_cast<decltype(item)*>(compact));
  });
}

void write_entries(void* dense, const Entries& e, int64_t item_size, int64_t begin, int64_t end, const void* compact) {
  with_types(e.wide, item_size, [&](auto index, auto item) {
    write_typed<decltype(index)>(static_cast<decltype(item)*>(dense), e, begin, end, static_cast<const decltype(item)*>(compact));
  });
}

void prefetch_entries(const void* dense, const Entries& e, int64_t item_size, int64_t begin, int64_t end) {
#if defined(__GNUC__)
  const auto prefetch = [&](int64_t offset, int64_t length) {
    const char* line = static_cast<const char*>(dense) + offset * item_size;
    for (const char* stop = line + length * item_size; line < stop; line += kLine) __builtin_prefetch(line, 1, 2);  // to L2: half the time of L1
  };
  e.wide ? for_each_run<int64_t>(e, begin, end, prefetch) : for_each_run<int32_t>(e, begin, end, prefetch);
#endif
}

void gather(const void* dense, const Entries& e, int64_t item_size, void* compact, int threads) {
  parallel_blocks(e.size, threads, [&](int64_t begin, int64_t end, int64_t stop) {
    prefetch_entries(dense, e, item_size, end, stop);
    read_entries(dense, e, item_size, begin, end, static_cast<char*>(compact) + begin * item_size);
  });
}

void scatter(void* dense, const Entries& e, int64_t item_size, const void* compact, int threads) {
  parallel_blocks(e.size, threads, [&](int64_t begin, int64_t end, int64_t stop) {
    prefetch_entries(dense, e, item_size, end, stop);
    write_entries(dense, e, item_size, begin, end, static_cast<const char*>(compact) + begin * item_size);
  });
}

}  // namespace clm
