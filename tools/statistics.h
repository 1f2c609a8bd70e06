// Summaries of measurements.
#pragma once

#include <vector>

namespace shoal {

// The value below which `percent` % of the values lie, interpolated between the two nearest ones as numpy.percentile
// does by default (and vLLM's benchmark with it): rank percent / 100 * (n - 1), counted from 0. 0 without values.
double Percentile(std::vector<double> values, double percent);

// 0 without values.
double Mean(const std::vector<double>& values);

// Of the values themselves, not of a sample, as numpy.std. 0 without values.
double StandardDeviation(const std::vector<double>& values);

struct Spread {
  double median = 0, min = 0, max = 0;
};

// All 0 without values.
Spread SpreadOf(const std::vector<double>& values);

}  // namespace shoal
