// Calls of the family `select`.
#pragma once

#include "../common/registration.h"
#include "select.h"
#include "tensors.h"

namespace visgen {

template <class Device>
struct SelectOperations {
  static std::tuple<Tensor, Tensor> sample_tokens(const Tensor& logits, const OptionalTensor& unconditional,
                                                  const Tensor& seeds, const OptionalTensor& settings, double guidance,
                                                  double temperature, int64_t top_k, double top_p, int64_t stream,
                                                  bool log_probability) {
    floating_dtype_of(logits.scalar_type(), "logits");
    check(logits.dim() >= 2 && logits.size(logits.dim() - 1) > 0, "logits must be [B, …, V] with at least one code");
    check(!unconditional || unconditional->scalar_type() == logits.scalar_type(),
          "unconditional must have the type of logits");
    DrawParameters p;
    p.seeds = seeds_of(seeds, logits);
    p.settings = data_of<const double>(settings, logits, {logits.size(0), p.kSettings}, ScalarType::Double, "settings");
    p.all[0] = guidance, p.all[1] = temperature, p.all[2] = static_cast<double>(top_k), p.all[3] = top_p;
    p.stream = static_cast<uint64_t>(stream);
    p.codes = logits.size(logits.dim() - 1);
    Sizes rows = sizes_of(logits);
    rows.pop_back();
    Tensor codes = empty_for(p.drawn, logits, rows, ScalarType::Long);
    Tensor found = log_probability ? empty_for(p.log_probability, logits, rows, ScalarType::Float)
                                   : empty_on(logits, {0}, ScalarType::Float);
    run_samples<Device>(p, logits, {{logits, p.logits, "logits"}, {unconditional, p.unconditional, "unconditional"}});
    return {codes, found};
  }

  VISGEN_OPERATIONS(sample_tokens)
};

// Every row of logits by itself.
inline Partition rows_of(const DrawParameters& p) {
  return Partition(p.shape.samples, p.shape.elements, p.codes, p.codes);
}

}  // namespace visgen
