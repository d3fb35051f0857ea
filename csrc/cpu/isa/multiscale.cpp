// The family `multiscale` on one instruction set: the loss at all scales of a tile, and its gradient, in one pass.
//
// Per element, for scales 1, 2, 4, 8: a subtraction, and about as many additions and products on the way up through the
// levels as on the way down. In memory: pred and target read once, the gradient written once; a target that is made of
// noise never leaves the first-level cache.
#include "multiscale.h"

#include "../kernels.h"
#include "multiscale_tile.h"
#include "scratch.h"

namespace visgen::VISGEN_ISA {
namespace {

template <class Real, class Penalize, bool weighted>
class TileLoss {
 public:
  TileLoss(const MultiscaleParameters& p, Penalize rho)
      : p_(p), rho_(rho), next_(p), memory_(lay_out() * sizeof(Real)) {
    Real* at = memory_.as<Real>();
    const auto place = [&](Matrix<Real>& matrix, bool needed) {
      matrix.data = at;
      at += needed ? matrix.rows * matrix.stride : 0;
    };
    zeros_ = at;
    for (int64_t j = 0; j < widest_; ++j) zeros_[j] = 0;
    at += widest_;
    for (int i = 0; i < p.level_count; ++i) {
      place(sums_[i], true);
      place(weights_[i], weighted);
    }
    slopes_ = sums_[0];
    if (kSlopesApart) place(slopes_, true);
  }

  void run(int64_t unit, int64_t end) {
    const Region at = region_at(p_, unit);
    next_.aim(at, unit, end);
    double* sums = p_.sums + unit * p_.level_count;
    for (int i = 0; i < p_.level_count; ++i) sums[i] = 0;
    const Real weight = weighted ? Real(1) : weight_of_plane<Real>(p_, at);
    if (weight == 0)
      return store(at, [](int64_t, int64_t, int64_t count, Real* out) {
        for (int64_t j = 0; j < count; ++j) out[j] = 0;
      });
    fit(at);
    if (p_.seeds) buffers_.key = PhiloxKey(static_cast<uint64_t>(p_.seeds[at.sample]));
    sums[0] = weight * load(at);
    for (int i = 1; i < p_.level_count; ++i) {
      const Level& level = p_.levels[i];
      pool(padded(sums_[level.parent], level), level.ratio, sums_[i], zeros_);
      if (weighted) pool(padded(weights_[level.parent], level), level.ratio, weights_[i], zeros_);
    }
    for (int i = p_.level_count - 1; i > 0; --i) {
      sums[i] = weight * penalize_level(i, at, weight);
      if (p_.gradient.data) take_from_children(i, sums_[i]);
    }
    if (p_.gradient.data) write_gradient(at, static_cast<Real>(p_.levels[0].factor * weight));
  }

 private:
  static constexpr bool kSlopesApart = weighted || !Penalize::kProportional;  // from the residuals

  // Rows and columns of each level in a whole tile, with room for the columns that its windows add; how many numbers
  // all of this takes.
  int64_t lay_out() {
    int64_t numbers = 0;
    for (int i = 0; i < p_.level_count; ++i) {
      const Level& level = p_.levels[i];
      Matrix<Real>& sums = sums_[i];
      sums.rows = i ? (sums_[level.parent].rows + level.ratio - 1) / level.ratio : p_.tiles.rows;
      sums.columns = i ? (sums_[level.parent].columns + level.ratio - 1) / level.ratio : p_.tiles.columns;
      int64_t room = sums.columns;
      for (int j = i + 1; j < p_.level_count; ++j) {
        const Level& child = p_.levels[j];
        const int64_t padded = (sums.columns + child.ratio - 1) / child.ratio * child.ratio;
        if (child.parent == i && padded > room) room = padded;
      }
      sums.stride = (room + 15) / 16 * 16;
      weights_[i] = sums;
      if (sums.stride > widest_) widest_ = sums.stride;
      numbers += sums.rows * sums.stride * (weighted ? 2 : 1);
    }
    return numbers + (kSlopesApart ? sums_[0].rows * sums_[0].stride : 0) + widest_;
  }

  // Rows and columns of each level in this tile.
  void fit(const Region& at) {
    for (int i = 0; i < p_.level_count; ++i) {
      const Level& level = p_.levels[i];
      sums_[i].rows = i ? (sums_[level.parent].rows + level.ratio - 1) / level.ratio : at.rows;
      sums_[i].columns = i ? (sums_[level.parent].columns + level.ratio - 1) / level.ratio : at.columns;
      weights_[i].rows = sums_[i].rows, weights_[i].columns = sums_[i].columns;
    }
    slopes_.rows = at.rows, slopes_.columns = at.columns;
  }

  const Matrix<Real>& padded(const Matrix<Real>& matrix, const Level& child) {
    const int64_t columns = (matrix.columns + child.ratio - 1) / child.ratio * child.ratio;
    for (int64_t y = 0; y < matrix.rows && columns > matrix.columns; ++y) pad(matrix, y, columns);
    return matrix;
  }

  // Residuals, their slopes, and the sum of their penalties; with weights, the products with them.
  double load(const Region& at) {
    Total<Real> total;
    for_each_piece(p_, at, [&](int64_t begin, int64_t y, int64_t x, int64_t rows, int64_t columns) {
      const int64_t count = rows * columns;
      next_.bring(count / 2);
      const Real* pred = load_tile(p_.pred, p_.shape, at.sample, begin, count, buffers_.pred);
      if (columns == sums_[0].stride) rows = 1, columns = count;  // without a gap
      int64_t done = 0;
      if (!weighted && rows == 1)
        done = subtract_target(at.sample, begin, count, pred, sums_[0].row(y) + x, slopes_.row(y) + x, total);
      if (done == count) return;
      const Real* target = target_tile(p_, at.sample, begin + done, count - done, buffers_) - done;
      const Real* weights = weighted ? load_tile(p_.weight, p_.shape, at.sample, begin, count, buffers_.out) : nullptr;
      for (int64_t i = 0; i < rows; ++i) {
        Real *residuals = sums_[0].row(y + i) + x, *slopes = slopes_.row(y + i) + x;
        const int64_t place = i * columns + done;
        if constexpr (weighted) {
          weigh(rho_, pred + place, target + place, weights + place, columns, weights_[0].row(y + i) + x, residuals,
                slopes, total);
        } else {
          subtract(rho_, pred + place, target + place, columns - done, residuals + done, slopes + done, total);
        }
      }
    });
    return total.value();
  }

  // Residuals from the target's vectors while they are in registers; returns of how many elements.
  int64_t subtract_target(int64_t sample, int64_t begin, int64_t count, const Real* pred, Real* residuals, Real* slopes,
                          Total<Real>& total) {
    int64_t done = 0;
    if constexpr (sizeof(Real) == 4) {
      FloatVector sum{};
      done = for_each_target_vector(p_, buffers_.key, sample, begin, count, [&](int64_t at, FloatVector target) {
        const FloatVector residual = VISGEN_ISA::load<FloatVector>(pred + at) - target;
        sum += keep_residual(rho_, residual, residuals + at, slopes + at);
      });
      total.add(sum);
    }
    return done;
  }

  // The sum of the penalties of a level, whose sums become the gradient into them.
  double penalize_level(int index, const Region& at, Real weight) {
    const Level& level = p_.levels[index];
    const Matrix<Real>& sums = sums_[index];
    if (!level.is_scale) {
      fill_with_zeros(sums);
      return 0;
    }
    Total<Real> total;
    const int64_t rows_left = p_.height - at.row, columns_left = p_.width - at.column;
    const int64_t whole = columns_left / level.size, count = sums.columns < whole ? sums.columns : whole;
    for (int64_t y = 0; y < sums.rows;) {
      const int64_t left = rows_left - y * level.size, rows = left < level.size ? left : level.size;
      int64_t together = 1;  // rows of windows of as many elements, without a gap
      if (count == sums.stride && rows == level.size) together = at.rows / level.size - y;
      penalize_windows(index, y, 0, together * count, rows * level.size, weight, total);
      if (count < sums.columns) {  // the last is cut off by the picture's end
        penalize_windows(index, y, count, 1, rows * (columns_left % level.size), weight, total);
      }
      y += together;
    }
    return total.value();
  }

  void penalize_windows(int index, int64_t y, int64_t x, int64_t count, int64_t elements, Real weight,
                        Total<Real>& total) {
    const double share = 1.0 / elements, factor = p_.levels[index].factor * weight * share;
    penalize<weighted>(rho_, sums_[index].row(y) + x, weights_[index].row(y) + x, count, static_cast<Real>(share),
                       static_cast<Real>(factor), total);
  }

  void fill_with_zeros(const Matrix<Real>& matrix) {
    for (int64_t j = 0; j < matrix.rows * matrix.stride; ++j) matrix.data[j] = 0;
  }

  // All but those of 2×2 residuals, which the gradient takes from when it is written.
  void take_from_children(int index, const Matrix<Real>& to) {
    for (int child = index + 1; child < p_.level_count; ++child) {
      const Level& level = p_.levels[child];
      if (level.parent != index || level.size == 2) continue;
      for (int64_t y = 0; y < to.rows; ++y) {
        add_spread(sums_[child].row(y / level.ratio), level.ratio, to.row(y), to.columns);
      }
    }
  }

  bool has_children(int index) const {
    for (int child = index + 1; child < p_.level_count; ++child) {
      if (p_.levels[child].parent == index && p_.levels[child].size != 2) return true;
    }
    return false;
  }

  // The slopes of the residuals, times `factor`, and what windows have: from here on the slopes are the gradient.
  void write_gradient(const Region& at, Real factor) {
    if (!kSlopesApart) factor += factor;
    const bool pairs = p_.level_count > 1 && p_.levels[1].size == 2, others = has_children(0);
    if (!p_.levels[0].is_scale) fill_with_zeros(slopes_);
    if (others) {
      for (int64_t y = 0; y < slopes_.rows; ++y) scale_row(slopes_.row(y), slopes_.columns, factor, slopes_.row(y));
      factor = 1;
      take_from_children(0, slopes_);
    }
    store(at, [&](int64_t y, int64_t x, int64_t count, Real* out) {
      const Real* slopes = slopes_.row(y) + x;
      if (pairs) {
        add_pairs(factor, slopes, sums_[1].row(y / 2) + x / 2, count, out);
      } else {
        scale_row(slopes, count, factor, out);
      }
      if constexpr (weighted) {
        const Real* weights = weights_[0].row(y) + x;
        for (int64_t j = 0; j < count; ++j) out[j] *= weights[j];
      }
    });
  }

  // Writes the gradient: make(y, x, count, out) makes a piece of a row.
  template <class Make>
  void store(const Region& at, Make make) {
    if (!p_.gradient.data) return;
    for_each_piece(p_, at, [&](int64_t begin, int64_t y, int64_t x, int64_t rows, int64_t columns) {
      Output<Real> out(p_.gradient, p_.shape, p_.pred, at.sample, begin, buffers_.out);
      for (int64_t i = 0; i < rows; ++i) make(y + i, x, columns, out.data + i * columns);
      out.store(rows * columns);
      next_.bring(rows * columns / 2);
    });
  }

  const MultiscaleParameters& p_;
  Penalize rho_;
  NextTile<Real> next_;
  Matrix<Real> sums_[kMostLevels], weights_[kMostLevels], slopes_;
  int64_t widest_ = 0;
  Scratch memory_;
  Real* zeros_;
  Buffers<Real> buffers_;
};

template <bool weighted, class Real, class Penalize>
void run_tiles(const MultiscaleParameters& p, Penalize rho, int64_t first_unit, int64_t last_unit) {
  TileLoss<Real, Penalize, weighted> loss(p, rho);
  for (int64_t unit = first_unit; unit < last_unit; ++unit) loss.run(unit, last_unit);
  end_streams();
}

template <class Real, class Penalize>
void run_tiles(const MultiscaleParameters& p, Penalize rho, int64_t first_unit, int64_t last_unit) {
  if (p.weight_varies) return run_tiles<true, Real>(p, rho, first_unit, last_unit);
  run_tiles<false, Real>(p, rho, first_unit, last_unit);
}

template <class Real>
void forward(const MultiscaleParameters& p, int64_t first_unit, int64_t last_unit) {
  const Real scale = static_cast<Real>(p.penalty_scale);
  switch (p.penalty) {
    case Penalty::l2:
      return run_tiles<Real>(p, Squared(), first_unit, last_unit);
    case Penalty::l1:
      return run_tiles<Real>(p, Absolute(), first_unit, last_unit);
    case Penalty::pseudo_huber:
      return run_tiles<Real>(p, PseudoHuber<Real>{scale, scale * scale}, first_unit, last_unit);
  }
}

template <class Real>
void scale_into(const ScaledGradientParameters& p, const Operand& out, Real factor, int64_t sample, int64_t begin,
                int64_t count, const Real* gradient, Real* buffer) {
  if (!out.data) return;
  const Output<Real> tile(out, p.shape, p.gradient, sample, begin, buffer);
  scale_row(gradient, count, factor, tile.data);
  tile.store(count);
}

template <class Real>
void scale_gradient(const ScaledGradientParameters& p, int64_t first_unit, int64_t last_unit) {
  alignas(64) Real loaded[kTile], made[kTile];
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    const Real factor = static_cast<const Real*>(p.upstream)[p.upstream_a_sample ? unit.sample : 0];
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t count = kTile < unit.end - begin ? kTile : unit.end - begin;
      prefetch_tile(p.gradient, p.shape, unit.sample, begin + kTile);  // stores past the cache hold up what loads
      const Real* gradient = load_tile(p.gradient, p.shape, unit.sample, begin, count, loaded);
      scale_into(p, p.grad_pred, factor, unit.sample, begin, count, gradient, made);
      scale_into(p, p.grad_target, -factor, unit.sample, begin, count, gradient, made);
    }
  }
  end_streams();
}

}  // namespace

const Loops<MultiscaleParameters, ScaledGradientParameters> multiscale_kernels = {
    {forward<float>, forward<double>}, {scale_gradient<float>, scale_gradient<double>}};

}  // namespace visgen::VISGEN_ISA
