// Vectors of CLM_VECTOR_BYTES and conversions of arrays; included by versions.h, once per instruction set.
// No include guard on purpose.

#if defined(__GNUC__) && !defined(CLM_PLAIN_VECTORS)

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(CLM_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(CLM_VECTOR_BYTES), aligned(alignof(T)), may_alias));
  static constexpr int lanes = CLM_VECTOR_BYTES / sizeof(T);
};

template <typename T> using Vector = typename VectorOf<T>::type;

template <typename T> CLM_INLINE Vector<T> load(const T* p) { return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p); }
template <typename T> CLM_INLINE void store(T* p, Vector<T> v) { *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v; }

template <typename T, int S, int... J>
CLM_INLINE void exchange(Vector<T>& a, Vector<T>& b, std::integer_sequence<int, J...>) {
  constexpr int lanes = VectorOf<T>::lanes;
#if defined(__clang__)
  const Vector<T> low = __builtin_shufflevector(a, b, ((J & S) ? lanes + J - S : J)...);
  b = __builtin_shufflevector(a, b, ((J & S) ? lanes + J : J + S)...);
#else
  using Lane = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  const Vector<T> low = __builtin_shuffle(a, b, Vector<Lane>{((J & S) ? lanes + J - S : J)...});
  b = __builtin_shuffle(a, b, Vector<Lane>{((J & S) ? lanes + J : J + S)...});
#endif
  a = low;
}

#else  // a compiler without vector extensions

template <typename T>
struct Vector {
  static constexpr int lanes = CLM_VECTOR_BYTES / sizeof(T);
  T lane[lanes];
  Vector& operator+=(const Vector& other) { for (int i = 0; i < lanes; ++i) lane[i] += other.lane[i]; return *this; }
  friend Vector operator+(Vector a, const Vector& b) { return a += b; }
  friend Vector operator*(Vector a, const Vector& b) { for (int i = 0; i < lanes; ++i) a.lane[i] *= b.lane[i]; return a; }
  friend Vector operator*(T s, Vector a) { for (int i = 0; i < lanes; ++i) a.lane[i] *= s; return a; }
};

template <typename T> using VectorOf = Vector<T>;
template <typename T> CLM_INLINE Vector<T> load(const T* p) { Vector<T> v; std::memcpy(&v, p, sizeof(v)); return v; }
template <typename T> CLM_INLINE void store(T* p, const Vector<T>& v) { std::memcpy(p, &v, sizeof(v)); }

template <typename T, int S, int... J>
CLM_INLINE void exchange(Vector<T>& a, Vector<T>& b, std::integer_sequence<int, J...>) {
  const Vector<T> x = a, y = b;
  for (int j = 0; j < VectorOf<T>::lanes; ++j) {
    a.lane[j] = (j & S) ? y.lane[j - S] : x.lane[j];
    b.lane[j] = (j & S) ? y.lane[j] : x.lane[j + S];
  }
}

#endif

// Swaps the odd groups of S lanes of a with the even groups of b: one butterfly of a transposition.
template <typename T, int S>
CLM_INLINE void exchange(Vector<T>& a, Vector<T>& b) {
  exchange<T, S>(a, b, std::make_integer_sequence<int, VectorOf<T>::lanes>());
}

// Transposes the square that `lanes` vectors form.
template <typename T, int S = 1>
CLM_INLINE void transpose(Vector<T> (&v)[VectorOf<T>::lanes]) {
  constexpr int lanes = VectorOf<T>::lanes;
  if constexpr (S < lanes) {
    CLM_UNROLL(16)
    for (int i = 0; i < lanes; ++i) {
      if (!(i & S)) exchange<T, S>(v[i], v[i + S]);
    }
    transpose<T, 2 * S>(v);
  }
}

// Lane j of the result is the sum of v[j]'s lanes; the order of additions is the same for every j. Changes v.
template <typename T, int S = 1>
CLM_INLINE Vector<T> sums(Vector<T> (&v)[VectorOf<T>::lanes]) {
  constexpr int lanes = VectorOf<T>::lanes;
  if constexpr (S < lanes) {
    CLM_UNROLL(16)
    for (int i = 0; i < lanes; i += 2 * S) {
      exchange<T, S>(v[i], v[i + S]);
      v[i] = v[i] + v[i + S];
    }
    return sums<T, 2 * S>(v);
  } else {
    return v[0];
  }
}

template <typename W, typename T>
CLM_INLINE void convert_in(const T* CLM_RESTRICT from, int64_t n, W* CLM_RESTRICT to) {
  for (int64_t i = 0; i < n; ++i) to[i] = W(to_float(from[i]));
}

template <typename W, typename T>
CLM_INLINE void convert_out(const W* CLM_RESTRICT from, int64_t n, T* CLM_RESTRICT to) {
  for (int64_t i = 0; i < n; ++i) from_float(from[i], to[i]);
}

// n entries from number `begin` on, converted to W (float or double).
template <typename W>
void widen(Dtype dtype, const void* from, int64_t begin, int64_t n, W* to) {
  switch (dtype) {
    case Dtype::float32: return convert_in(static_cast<const float*>(from) + begin, n, to);
    case Dtype::float64: return convert_in(static_cast<const double*>(from) + begin, n, to);
    case Dtype::bfloat16: return convert_in(static_cast<const Bfloat16*>(from) + begin, n, to);
    case Dtype::float16: return convert_in(static_cast<const Float16*>(from) + begin, n, to);
  }
}

// n entries of W, rounded, to number `begin` on.
template <typename W>
void narrow(Dtype dtype, const W* from, int64_t n, void* to, int64_t begin) {
  switch (dtype) {
    case Dtype::float32: return convert_out(from, n, static_cast<float*>(to) + begin);
    case Dtype::float64: return convert_out(from, n, static_cast<double*>(to) + begin);
    case Dtype::bfloat16: return convert_out(from, n, static_cast<Bfloat16*>(to) + begin);
    case Dtype::float16: return convert_out(from, n, static_cast<Float16*>(to) + begin);
  }
}
