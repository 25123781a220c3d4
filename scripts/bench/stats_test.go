package main

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{
		{nil, math.NaN()},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.of); !same(got, c.want) {
			t.Errorf("median(%v) = %v, want %v", c.of, got, c.want)
		}
	}
	of := []float64{3, 1, 2}
	if median(of); of[0] != 3 {
		t.Error("median sorted what it was given")
	}
}

func TestPercentile(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	for _, c := range []struct {
		of      []float64
		p, want float64
	}{
		{nil, 50, math.NaN()},
		{[]float64{7}, 0, 7},
		{[]float64{7}, 99, 7},
		{[]float64{1, 2, 3, 4}, 50, 2},
		{[]float64{1, 2, 3, 4}, 51, 3},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.1, 100},
		{hundred, 100, 100},
	} {
		if got := percentile(c.of, c.p); !same(got, c.want) {
			t.Errorf("percentile of %d values, %v = %v, want %v", len(c.of), c.p, got, c.want)
		}
	}
}

// Each ratio is of one repetition: the machine was slow in the second, and that
// is not in the ratio.
func TestMedianRatioIsOfOneRepetition(t *testing.T) {
	direct := map[int]float64{1: 10, 2: 2, 3: 10, 4: 0}
	mine := map[int]float64{1: 5, 2: 1, 3: 8, 4: 3, 5: 3}
	if got := medianRatio(mine, direct); got != 0.5 {
		t.Errorf("%v, want 0.5", got)
	}
	if got := medianRatio(mine, nil); !math.IsNaN(got) {
		t.Errorf("%v of nothing", got)
	}
}

func TestBusySeconds(t *testing.T) {
	got, err := busySeconds([]byte("cpu  100 20 300 5000 40 6 7 999 11 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"))
	if err != nil || got != 4.33 {
		t.Errorf("%v, %v, want user, nice, system, irq and softirq: 4.33 s", got, err)
	}
	for _, bad := range []string{"", "cpu0 1 2 3 4 5 6 7", "cpu  1 2 3", "cpu  1 2 x 4 5 6 7"} {
		if _, err := busySeconds([]byte(bad)); err == nil {
			t.Errorf("%q is no /proc/stat", bad)
		}
	}
}

func TestCarried(t *testing.T) {
	for _, c := range []struct {
		why  string
		u    usage
		want bool
	}{
		{"it works", usage{Wall: 2, Machine: 3, Translator: 1}, true},
		{"it was bypassed", usage{Wall: 2, Machine: 4, Translator: 0.001}, false},
		{"it was bypassed, and nothing else ran", usage{Wall: 2, Machine: 0, Translator: 0}, false},
		{"it was bypassed by much", usage{Wall: 2, Machine: 4, Translator: 0.001, GB: 5}, false},
		{"it was bypassed by little", usage{Wall: 2, Machine: 4, Translator: 0.0001, GB: 0.02}, false},
		{"it stalled, but carried what there was", usage{Wall: 10, Machine: 0.2, Translator: 0.02}, true},
		{"it stalled while others kept the machine busy", usage{Wall: 2, Machine: 4, Translator: 0.01, GB: 0.02}, true},
		{"others keep the machine busy", usage{Wall: 0.2, Machine: 4, Translator: 0.01}, true},
	} {
		if got := c.u.carried(); got != c.want {
			t.Errorf("%s: %v", c.why, got)
		}
	}
}

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }
