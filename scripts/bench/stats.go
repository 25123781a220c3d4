package main

import (
	"math"
	"slices"
)

// median returns the middle of the values, or the mean of the two in the
// middle; NaN of none.
func median(of []float64) float64 {
	if len(of) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(of))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// percentile returns the smallest value that at least p percent of them are not
// above (the nearest rank); NaN of none.
func percentile(of []float64, p float64) float64 {
	if len(of) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(of))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// medianRatio returns the median of the ratios of each repetition that both
// have; NaN if there is none.
func medianRatio(of, to map[int]float64) float64 {
	var ratios []float64
	for rep, v := range of {
		if base, ok := to[rep]; ok && base != 0 {
			ratios = append(ratios, v/base)
		}
	}
	return median(ratios)
}
