package config

import "testing"

func TestNearest(t *testing.T) {
	words := []string{"run", "resolve", "status", "flows", "pins", "member", "doctor", "cleanup"}
	for written, want := range map[string]string{
		"flws": "flows", "flosw": "flows", "stat": "status", "pin": "pins", "rnu": "", "ru": "run", "clean": "cleanup",
		"": "", "x": "", "bogus": "", "resolves": "resolve",
	} {
		if got := Nearest(written, words); got != want {
			t.Errorf("%q: got %q, want %q", written, got, want)
		}
	}
}
