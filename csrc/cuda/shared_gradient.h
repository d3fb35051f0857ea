// Gradients of what rows share, from the sums of units of rows.
#pragma once

#include "../ops/operand_rows.h"
#include "launch.cuh"

namespace visgen {

void add_up(const SharedGradient& p, Stream stream);

}  // namespace visgen
