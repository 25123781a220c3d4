package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// printCounters prints a room's counters, those that are not zero or false, sorted by
// name: a new counter shows up by itself, with the name it has in the JSON.
func printCounters(w io.Writer, room string, stats any) error {
	text, err := json.Marshal(stats)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	var lines []string
	flatten(&lines, room, tree)
	slices.Sort(lines)
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func flatten(lines *[]string, path string, tree map[string]any) {
	for name, value := range tree {
		switch value := value.(type) {
		case map[string]any:
			flatten(lines, path+"."+name, value)
		case float64:
			if value != 0 {
				*lines = append(*lines, fmt.Sprintf("%s.%s\t%.0f", path, name, value))
			}
		case bool:
			if value {
				*lines = append(*lines, fmt.Sprintf("%s.%s\tyes", path, name))
			}
		}
	}
}
