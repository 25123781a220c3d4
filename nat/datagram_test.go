package nat

import (
	"slices"
	"testing"
)

func TestDatagramPieces(t *testing.T) {
	for _, tc := range []struct {
		data    string
		segment int
		size    int
		want    []string
	}{
		{"", 0, 0, []string{""}},
		{"", 3, 0, []string{""}},
		{"abc", 0, 3, []string{"abc"}},
		{"abc", 3, 3, []string{"abc"}},
		{"abc", 5, 3, []string{"abc"}},
		{"abcdef", 3, 3, []string{"abc", "def"}},
		{"abcdefg", 3, 3, []string{"abc", "def", "g"}},
		{"abc", 1, 1, []string{"a", "b", "c"}},
	} {
		d := Datagram{Data: []byte(tc.data), Segment: tc.segment}
		if d.Size() != tc.size {
			t.Errorf("%q by %d: size %d, want %d", tc.data, tc.segment, d.Size(), tc.size)
		}
		var got []string
		for piece := range d.Pieces() {
			got = append(got, string(piece))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%q by %d: %q, want %q", tc.data, tc.segment, got, tc.want)
		}
		for piece := range d.Pieces() { // one who has enough after the first
			if string(piece) != tc.want[0] {
				t.Errorf("%q by %d: first %q", tc.data, tc.segment, piece)
			}
			break
		}
	}
}

func TestDatagramIsFreedOnce(t *testing.T) {
	freed := 0
	Datagram{Free: func() { freed++ }}.free()
	Datagram{}.free() // has nothing to give back
	if freed != 1 {
		t.Errorf("freed %d times", freed)
	}
}
