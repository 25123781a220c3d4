// Package unasked keeps the terminal from being asked for its colours by programs
// that have no use for them.
//
// # Theory of operation
//
// bubbletea, which draws 'aarptun top', has an init that asks the terminal for its
// background colour and waits for the answer, up to seconds where there is none:
// whatever command was typed, before main. It does not ask if it has been told. Go
// initialises packages in the order of their paths, each as soon as what it imports
// has been (The Go Programming Language Specification, Program initialization);
// this one imports only what must be told, and its path comes first. It is imported
// for that alone. scripts/watch-test.sh sees whether it still holds.
package unasked

import "github.com/charmbracelet/lipgloss"

func init() { lipgloss.SetHasDarkBackground(true) }
