// One AdamW update (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2), for C++ and CUDA alike.
#pragma once

#include <cmath>

#include "fields.h"
#include "host_device.h"

namespace clm {

// What is the same for all entries of a parameter, computed in double and then rounded once.
template <typename T>
struct AdamWScalars {
  T decay;  // lr * weight_decay
  T beta1, one_minus_beta1;
  T beta2, one_minus_beta2;
  T step_size;    // lr / (1 - beta1^step)
  T correction2;  // 1 / sqrt(1 - beta2^step)
  T eps;
  T sign;  // -1 to maximize

  template <typename U>
  CLM_HOST_DEVICE AdamWScalars<U> as() const {
    return {U(decay), U(beta1), U(one_minus_beta1), U(beta2), U(one_minus_beta2), U(step_size), U(correction2), U(eps), U(sign)};
  }

  CLM_HOST_DEVICE static AdamWScalars of(const Settings& s, bool maximize) {
    const double correction1 = 1 - std::pow(s.beta1, s.step), correction2 = 1 - std::pow(s.beta2, s.step);
    return {T(s.lr * s.weight_decay), T(s.beta1), T(1 - s.beta1), T(s.beta2), T(1 - s.beta2),
            T(s.lr / correction1), T(1 / std::sqrt(correction2)), T(s.eps), T(maximize ? -1 : 1)};
  }
};

CLM_HOST_DEVICE float square_root(float x) { return sqrtf(x); }
CLM_HOST_DEVICE double square_root(double x) { return sqrt(x); }

// Returns the new weight and updates the moments. `anchor` is what weight decay pulls toward, 0 for AdamW as published.
template <bool amsgrad, typename T>
CLM_HOST_DEVICE T adamw_update(const AdamWScalars<T>& s, T weight, T grad, T anchor, T& exp_avg, T& exp_avg_sq, T& max_exp_avg_sq) {
  const T g = s.sign * grad;
  weight = weight - s.decay * (weight - anchor);
  exp_avg = s.beta1 * exp_avg + s.one_minus_beta1 * g;
  exp_avg_sq = s.beta2 * exp_avg_sq + s.one_minus_beta2 * g * g;
  T v = exp_avg_sq;
  if (amsgrad) {
    v = v <= max_exp_avg_sq || max_exp_avg_sq != max_exp_avg_sq ? max_exp_avg_sq : v;  // NaN stays, as in torch.maximum
    max_exp_avg_sq = v;
  }
  const T denominator = square_root(v) * s.correction2 + s.eps;
  return weight - s.step_size * exp_avg / denominator;
}

}  // namespace clm
