// The family `multiscale` on one instruction set: the loss at all scales of a tile, and its gradient, in one pass.
//
// Per element, for scales 1, 2, 4, 8: a subtraction, and about as many additions and products on the way up through the
// levels as on the way down. In memory: pred and target read once, the gradient written once; a target that is made of
// noise never leaves the first-level cache.
#include "multiscale.h"

#include <initializer_list>

#include "../kernels.h"
#include "diffuse.h"
#include "scratch.h"

namespace visgen::VISGEN_ISA {
namespace {

struct Region {  // of a plane: what a unit works on
  int64_t unit, sample, plane, row, column, rows, columns;
};

// Planes follow one another within a tile's place: in channels_last they share cache lines.
Region region_at(const MultiscaleParameters& p, int64_t unit) {
  const Tiles& tiles = p.tiles;
  const int64_t plane = unit % p.planes, place = unit / p.planes;
  const int64_t across = place % tiles.across, down = place / tiles.across % tiles.down;
  Region region{unit, unit / p.units_per_sample(), plane, down * tiles.rows, across * tiles.columns, 0, 0};
  const int64_t rows = p.height - region.row, columns = p.width - region.column;
  region.rows = rows < tiles.rows ? rows : tiles.rows;
  region.columns = columns < tiles.columns ? columns : tiles.columns;
  return region;
}

// Calls body(first element in the sample, first row, first column, rows, columns) for pieces of up to kTile elements
// that follow one another in the sample.
template <class Body>
void for_each_piece(const MultiscaleParameters& p, const Region& at, Body body) {
  const int64_t first = (at.plane * p.height + at.row) * p.width + at.column;
  const int64_t most_rows = at.columns == p.width && at.columns < kTile ? kTile / at.columns : 1;
  for (int64_t y = 0; y < at.rows; y += most_rows) {
    const int64_t rows = at.rows - y < most_rows ? at.rows - y : most_rows;
    for (int64_t x = 0; x < at.columns; x += kTile) {
      const int64_t columns = at.columns - x < kTile ? at.columns - x : kTile;
      body(first + y * p.width + x, y, x, rows, columns);
    }
  }
}

template <class Real>
struct Buffers {
  alignas(64) Real pred[kTile], target[kTile], x[kTile], endpoint[kTile], noise[kTile + kGroup], out[kTile];
};

template <class Real>
const Real* target_tile(const MultiscaleParameters& p, int64_t sample, int64_t begin, int64_t count,
                        Buffers<Real>& buffers) {
  if (p.target.data) return load_tile(p.target, p.shape, sample, begin, count, buffers.target);
  const Real* z = noise_tile(p, sample, begin, count, buffers.noise);
  const Real* x = load_tile(p.x, p.shape, sample, begin, count, buffers.x);
  const Real* endpoint = p.endpoint.data ? load_tile(p.endpoint, p.shape, sample, begin, count, buffers.endpoint) : nullptr;
  for_each_row(p, sample, begin, count, [&](int64_t row, int64_t at, int64_t length) {
    const Real* c = static_cast<const Real*>(p.coefficients) + row * p.coefficient_count;
    combine(c[2], x + at, c[3], z + at, buffers.target + at, length);
    if (endpoint) add_scaled(c[5], endpoint + at, buffers.target + at, length);
  });
  return buffers.target;
}

// A weight that does not vary within a plane.
template <class Real>
Real weight_of_plane(const MultiscaleParameters& p, const Region& at) {
  Real weight = 1;
  const int64_t first = at.plane * p.height * p.width;
  if (p.weight.data) weight = *load_tile(p.weight, p.shape, at.sample, first, 1, &weight);
  return weight;
}

template <class Real, class Penalize, bool weighted>
class TileLoss {
 public:
  TileLoss(const MultiscaleParameters& p, Penalize rho)
      : p_(p), rho_(rho), memory_(lay_out() * sizeof(Real)) {
    Real* at = memory_.as<Real>();
    zeros_ = at;
    for (int64_t j = 0; j < widest_; ++j) zeros_[j] = 0;
    at += widest_;
    for (int i = 0; i < p.level_count; ++i) {
      for (Real** data : {&sums_[i].data, &weights_[i].data}) {
        *data = at;
        at += weighted || data == &sums_[i].data ? sums_[i].rows * sums_[i].stride : 0;
      }
    }
    products_ = sums_[0];
    if (weighted) products_.data = at;
  }

  // `next` is what the next call will work on.
  void run(const Region& at, const Region& next) {
    double* sums = p_.sums + at.unit * p_.level_count;
    for (int i = 0; i < p_.level_count; ++i) sums[i] = 0;
    const Real weight = weighted ? Real(1) : weight_of_plane<Real>(p_, at);
    if (weight == 0) return store(at, [](int64_t, int64_t, int64_t count, Real* out) {
      for (int64_t j = 0; j < count; ++j) out[j] = 0;
    });
    next_ = next;
    fit(at);
    load(at);
    for (int i = 1; i < p_.level_count; ++i) {
      const Level& level = p_.levels[i];
      const Matrix<Real>& of = level.parent ? sums_[level.parent] : products_;
      pool(padded(of, level), level.ratio, sums_[i], zeros_);
      if (weighted) pool(padded(weights_[level.parent], level), level.ratio, weights_[i], zeros_);
    }
    for (int i = p_.level_count - 1; i >= 0; --i) {
      sums[i] = weight * penalize_level(i, at, weight);
      if (p_.gradient.data) take_from_children(i);
    }
    const bool pairs = p_.level_count > 1 && p_.levels[1].size == 2;  // and are added to the residual's slopes now
    store(at, [&](int64_t y, int64_t x, int64_t count, Real* __restrict out) {
      const Real* gradient = sums_[0].row(y) + x;
      if (pairs) {
        add_pairs(gradient, sums_[1].row(y / 2) + x / 2, count, out);
      } else {
        for (int64_t j = 0; j < count; ++j) out[j] = gradient[j];
      }
      if constexpr (weighted) {
        const Real* weights = weights_[0].row(y) + x;
        for (int64_t j = 0; j < count; ++j) out[j] *= weights[j];
      }
    });
  }

 private:
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
    return numbers + (weighted ? sums_[0].rows * sums_[0].stride : 0) + widest_;
  }

  // Rows and columns of each level in this tile.
  void fit(const Region& at) {
    for (int i = 0; i < p_.level_count; ++i) {
      const Level& level = p_.levels[i];
      sums_[i].rows = i ? (sums_[level.parent].rows + level.ratio - 1) / level.ratio : at.rows;
      sums_[i].columns = i ? (sums_[level.parent].columns + level.ratio - 1) / level.ratio : at.columns;
      weights_[i].rows = sums_[i].rows, weights_[i].columns = sums_[i].columns;
    }
    products_.rows = at.rows, products_.columns = at.columns;
  }

  const Matrix<Real>& padded(const Matrix<Real>& matrix, const Level& child) {
    const int64_t columns = (matrix.columns + child.ratio - 1) / child.ratio * child.ratio;
    for (int64_t y = 0; y < matrix.rows && columns > matrix.columns; ++y) pad(matrix, y, columns);
    return matrix;
  }

  void load(const Region& at) {
    for_each_piece(p_, at, [&](int64_t begin, int64_t y, int64_t x, int64_t rows, int64_t columns) {
      const int64_t count = rows * columns;
      const Real* pred = load_tile(p_.pred, p_.shape, at.sample, begin, count, buffers_.pred);
      const Real* target = target_tile(p_, at.sample, begin, count, buffers_);
      for (int64_t i = 0; i < rows; ++i) {
        Real* __restrict residual = sums_[0].row(y + i) + x;
        for (int64_t j = 0; j < columns; ++j) residual[j] = pred[i * columns + j] - target[i * columns + j];
      }
      if constexpr (weighted) weigh(at, begin, y, x, rows, columns);
    });
  }

  void weigh(const Region& at, int64_t begin, int64_t y, int64_t x, int64_t rows, int64_t columns) {
    const Real* loaded = load_tile(p_.weight, p_.shape, at.sample, begin, rows * columns, buffers_.pred);
    for (int64_t i = 0; i < rows; ++i) {
      Real* __restrict residual = sums_[0].row(y + i) + x;
      Real* __restrict product = products_.row(y + i) + x;
      Real* __restrict weights = weights_[0].row(y + i) + x;
      for (int64_t j = 0; j < columns; ++j) {
        weights[j] = loaded[i * columns + j];
        residual[j] = weights[j] != 0 ? residual[j] : Real(0);
        product[j] = residual[j] * weights[j];
      }
    }
  }

  // The sum of the penalties of a level, whose sums become the gradient into them.
  double penalize_level(int index, const Region& at, Real weight) {
    const Level& level = p_.levels[index];
    const Matrix<Real>& sums = sums_[index];
    Total<Real> total;
    for (int64_t y = 0; y < sums.rows; ++y) {
      Real* row = sums.row(y);
      if (index == 0) fetch_row(at, y);
      if (!level.is_scale) {
        for (int64_t j = 0; j < sums.columns; ++j) row[j] = 0;
        continue;
      }
      const int64_t rows_left = p_.height - at.row - y * level.size, columns_left = p_.width - at.column;
      const int64_t rows = rows_left < level.size ? rows_left : level.size, whole = columns_left / level.size;
      const int64_t count = sums.columns < whole ? sums.columns : whole;
      penalize_windows(index, y, 0, count, rows * level.size, weight, total);
      if (count < sums.columns) {  // the last is cut off by the picture's end
        penalize_windows(index, y, count, 1, rows * (columns_left % level.size), weight, total);
      }
    }
    return total.value();
  }

  void penalize_windows(int index, int64_t y, int64_t x, int64_t count, int64_t elements, Real weight,
                        Total<Real>& total) {
    const double share = 1.0 / elements, factor = p_.levels[index].factor * weight * share;
    Real* sums = sums_[index].row(y) + x;
    const Real* weights = weights_[index].row(y) + x;
    const auto run = [&]<Weighing weighing>() {
      penalize<weighing>(rho_, sums, weights, count, static_cast<Real>(share), static_cast<Real>(factor), total);
    };
    if constexpr (!weighted) return run.template operator()<Weighing::none>();
    if (index == 0) return run.template operator()<Weighing::of_elements>();
    run.template operator()<Weighing::of_windows>();
  }

  // All but those of 2×2, which the gradient takes from when it is written.
  void take_from_children(int index) {
    for (int child = index + 1; child < p_.level_count; ++child) {
      const Level& level = p_.levels[child];
      if (level.parent != index || level.size == 2) continue;
      const Matrix<Real>&from = sums_[child], &to = sums_[index];
      for (int64_t y = 0; y < to.rows; ++y) add_spread(from.row(y / level.ratio), level.ratio, to.row(y), to.columns);
    }
  }

  // Brings a row of what will be read and written next towards the cache, while there is arithmetic to do.
  void fetch_row(const Region& at, int64_t y) {
    if (p_.shape.dimensions != 1) return;
    fetch<true>(p_.gradient, at, y);
    if (y >= next_.rows) return;
    fetch<false>(p_.pred, next_, y);
    fetch<false>(p_.target.data ? p_.target : p_.x, next_, y);
  }

  template <bool to_write>
  void fetch(const Operand& operand, const Region& at, int64_t y) {
    if (!operand.data || operand.strides[0] != 1) return;
    const int64_t first = at.sample * operand.sample_stride + (at.plane * p_.height + at.row + y) * p_.width + at.column;
    const char* data = static_cast<const char*>(operand.data) + first * size_of(operand.dtype);
    for (int64_t byte = 0; byte < at.columns * size_of(operand.dtype); byte += 64) {
      __builtin_prefetch(data + byte, to_write, to_write ? 3 : 2);
    }
  }

  // Writes the gradient: make(y, x, count, out) makes a piece of a row.
  template <class Make>
  void store(const Region& at, Make make) {
    if (!p_.gradient.data) return;
    for_each_piece(p_, at, [&](int64_t begin, int64_t y, int64_t x, int64_t rows, int64_t columns) {
      Real* out = tile_for_output(p_.gradient, p_.shape, at.sample, begin, buffers_.out);
      for (int64_t i = 0; i < rows; ++i) make(y + i, x, columns, out + i * columns);
      store_tile(p_.gradient, p_.shape, at.sample, begin, rows * columns, out);
    });
  }

  const MultiscaleParameters& p_;
  Penalize rho_;
  Matrix<Real> sums_[kMostLevels], weights_[kMostLevels], products_;
  int64_t widest_ = 0;
  Scratch memory_;
  Real* zeros_;
  Region next_;
  Buffers<Real> buffers_;
};

template <bool weighted, class Real, class Penalize>
void run_tiles(const MultiscaleParameters& p, Penalize rho, int64_t first_unit, int64_t last_unit) {
  TileLoss<Real, Penalize, weighted> loss(p, rho);
  Region next = region_at(p, first_unit);
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const Region at = next;
    if (unit + 1 < last_unit) next = region_at(p, unit + 1);
    loss.run(at, next);
  }
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
  Real* __restrict tile = tile_for_output(out, p.shape, sample, begin, buffer);
  for (int64_t j = 0; j < count; ++j) tile[j] = factor * gradient[j];
  store_tile(out, p.shape, sample, begin, count, tile);
}

template <class Real>
void scale_gradient(const ScaledGradientParameters& p, int64_t first_unit, int64_t last_unit) {
  alignas(64) Real loaded[kTile], made[kTile];
  for (int64_t index = first_unit; index < last_unit; ++index) {
    const Unit unit = unit_at(p.partition, index);
    const Real factor = static_cast<const Real*>(p.upstream)[p.upstream_a_sample ? unit.sample : 0];
    for (int64_t begin = unit.begin; begin < unit.end; begin += kTile) {
      const int64_t count = kTile < unit.end - begin ? kTile : unit.end - begin;
      const Real* gradient = load_tile(p.gradient, p.shape, unit.sample, begin, count, loaded);
      scale_into(p, p.grad_pred, factor, unit.sample, begin, count, gradient, made);
      scale_into(p, p.grad_target, -factor, unit.sample, begin, count, gradient, made);
    }
  }
}

}  // namespace

const Loops<MultiscaleParameters, ScaledGradientParameters> multiscale_kernels = {
    {forward<float>, forward<double>}, {scale_gradient<float>, scale_gradient<double>}};

}  // namespace visgen::VISGEN_ISA
