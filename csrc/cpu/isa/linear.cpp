// The family `linear` on one instruction set: products of a few rows with a weight that was laid out for them.
//
// A tile of rows and two vectors of columns stays in registers over all inputs. The weight streams by, one panel after
// the other: 4 bytes for as many multiplications as there are rows, so that with 8 rows registers and memory are
// about equally busy, and the panel stays in the second-level cache for further rows.
#include "../../ops/linear.h"

#include "../../common/activations.h"
#include "../kernels.h"
#include "stored.h"

namespace visgen::VISGEN_ISA {
namespace {

constexpr int kRows = kRegisters == 32 ? 8 : 4;  // two sums a row

VISGEN_HOST_DEVICE FloatVector add_product(FloatVector sum, float x, FloatVector w) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_fmadd_ps(_mm512_set1_ps(x), (__m512)w, (__m512)sum);
#elif defined(__FMA__)
  return (FloatVector)_mm256_fmadd_ps(_mm256_set1_ps(x), (__m256)w, (__m256)sum);
#elif defined(__aarch64__)
  return (FloatVector)vfmaq_n_f32((float32x4_t)sum, (float32x4_t)w, x);
#else
  return sum + x * w;
#endif
}

class Panel {
 public:
  static constexpr int kColumns = 2 * kLanes;

  Panel(const LinearParameters& p, int64_t index)
      : p_(p),
        first_(index * kPanel),
        count_(p.outputs - first_ < kPanel ? p.outputs - first_ : kPanel),
        weight_(p.weight + first_ * p.inputs) {
    if (p.bias) memcpy(bias_, p.bias + first_, count_ * sizeof(float));
  }

  void run() const {
    for (int64_t row = 0; row < p_.rows; row += kRows) {
      const int64_t rows = p_.rows - row < kRows ? p_.rows - row : kRows;
      for (int column = 0; column < count_; column += kColumns) run_rows<kRows>(rows, row, column);
    }
  }

 private:
  template <int rows>
  void run_rows(int64_t wanted, int64_t row, int column) const {
    if constexpr (rows > 1) {
      if (wanted < rows) return run_rows<rows - 1>(wanted, row, column);
    }
    const float* x = p_.x + row * p_.inputs;
    const float* weight = weight_ + column;
    FloatVector sums[rows][2] = {};
    for (int64_t i = 0; i < p_.inputs; ++i, weight += kPanel) {
      const FloatVector w[2] = {take<FloatVector>(weight), take<FloatVector>(weight + kLanes)};
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const float value = x[r * p_.inputs + i];
        sums[r][0] = add_product(sums[r][0], value, w[0]), sums[r][1] = add_product(sums[r][1], value, w[1]);
      }
    }
    for (int r = 0; r < rows; ++r) store(row + r, column, sums[r]);
  }

  void store(int64_t row, int column, const FloatVector* sums) const {
    float* y = p_.y + row * p_.outputs + first_ + column;
    float ready[kColumns];
    for (int half = 0; half < 2; ++half) {
      const FloatVector sum = sums[half] + take<FloatVector>(bias_ + column + half * kLanes);
      put(ready + half * kLanes, p_.gelu ? sum * share_of<Activation::gelu, float>(sum).value : sum);
    }
    const int64_t count = count_ - column < kColumns ? count_ - column : kColumns;
    memcpy(y, ready, count * sizeof(float));
  }

  const LinearParameters& p_;
  const int64_t first_, count_;
  const float* weight_;
  float bias_[kPanel] = {};
};

void products(const LinearParameters& p, int64_t first_panel, int64_t last_panel) {
  for (int64_t index = first_panel; index < last_panel; ++index) Panel(p, index).run();
}

}  // namespace

const Loops<LinearParameters> linear_kernels = {{products, nullptr}};

}  // namespace visgen::VISGEN_ISA
