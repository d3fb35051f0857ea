// The family `multiscale`: what its kernels are told.
#pragma once

#include "diffuse.h"

namespace visgen {

enum class Penalty : int64_t { l2, l1, pseudo_huber };
enum class Reduction : int64_t { mean, sum, none };

constexpr int kMostScales = 16;
constexpr int kMostLevels = kMostScales + 32;  // the powers of two below a scale that is one

// Windows of size×size, each the sum of ratio×ratio windows of the level `parent`; level 0 is the residual itself.
struct Level {
  int32_t size = 1, ratio = 1, parent = 0;
  bool is_scale = false;  // else others need its sums
  double factor = 0;      // of a window's penalty in what is differentiated
  int64_t place = 0;      // of its first sum, where the sums of all levels of a tile follow one another
};

// Its mean penalty in a sample is the sum at `level` over `windows`.
struct Scale {
  int32_t level = 0;
  double windows = 1, weight = 1;
};

// The tiles that a plane (the last two dimensions of a sample) is cut into. Windows lie within a tile.
struct Tiles {
  int64_t rows = 1, columns = 1;  // of a tile; those at the lower and the right end may be smaller
  int64_t down = 1, across = 1;   // tiles of a plane
  bool planes_first = false;      // the same tile of all planes, then the next tile
};

// Without a target it is made of x, the endpoint and the noise, as `diffuse` makes it.
struct MultiscaleParameters : Diffusion {
  int64_t planes = 1, height = 1, width = 1;
  Operand pred, target, gradient;  // the gradient is an output, absent where nobody asks
  Operand weight;                  // absent: 1
  bool weight_varies = false;      // within a plane
  Penalty penalty = Penalty::l2;
  double penalty_scale = 1;
  Reduction reduction = Reduction::mean;
  int level_count = 1, scale_count = 1;
  Level levels[kMostLevels];  // smallest first
  Scale scales[kMostScales];  // in the order asked for
  Tiles tiles;
  double* sums = nullptr;  // [samples, tiles and planes, levels]: sums of penalties
  void* terms = nullptr;   // [samples, scales], an output in the arithmetic's type
  void* loss = nullptr;    // [samples], or [] where they are reduced: an output in the arithmetic's type

  VISGEN_HOST_DEVICE int64_t units_per_sample() const { return tiles.down * tiles.across * planes; }
};

struct Region {  // of a plane: what a unit works on
  int64_t sample, plane, row, column, rows, columns;
};

VISGEN_HOST_DEVICE Region region_at(const MultiscaleParameters& p, int64_t unit) {
  const Tiles& tiles = p.tiles;
  const int64_t sample = divide(unit, p.units_per_sample()), within = unit - sample * p.units_per_sample();
  const int64_t places = tiles.down * tiles.across;
  const int64_t plane = tiles.planes_first ? within % p.planes : divide(within, places);
  const int64_t place = tiles.planes_first ? divide(within, p.planes) : within % places;
  const int64_t row = divide(place, tiles.across) * tiles.rows, column = place % tiles.across * tiles.columns;
  const int64_t rows = p.height - row, columns = p.width - column;
  return {sample,
          plane,
          row,
          column,
          rows < tiles.rows ? rows : tiles.rows,
          columns < tiles.columns ? columns : tiles.columns};
}

// ±upstream·gradient.
struct ScaledGradientParameters {
  SampleShape shape;
  Partition partition{0, 0, 0, 1};
  bool in_double = false;
  const void* upstream = nullptr;  // [samples] or [], in the arithmetic's type
  bool upstream_a_sample = false;
  Operand gradient, grad_pred, grad_target;  // outputs are the last two, absent where nobody asks
};

}  // namespace visgen
