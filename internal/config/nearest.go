package config

import (
	"fmt"
	"slices"
	"strings"
)

// Nearest returns the word that somebody may have meant, or "": one that
// begins as what was written, or is at most two slips away from it.
func Nearest(written string, words []string) string {
	best, slips := "", 3
	for _, word := range words {
		if len(written) >= 3 && strings.HasPrefix(word, written) {
			return word
		}
		if d := distance(written, word); d < slips && 2*d <= len(written) {
			best, slips = word, d
		}
	}
	return best
}

// distance is how many letters must be put in, left out or changed to make b
// of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = slices.Min([]int{change, row[j] + 1, row[j+1] + 1})
		}
	}
	return row[len(b)]
}

// meant says which name was meant by another, or what names there are.
func meant(written string, names []string) string {
	if near := Nearest(written, names); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return "there are " + strings.Join(names, ", ")
}
